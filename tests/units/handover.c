/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints what kb_handover() returns when the second thread answers, does not answer, is on another
 * CPU at the end, or cannot be started: the threads' CPUs and the clock are this file's.
 */
#include "../../kickbench/engine/src/handover.c"

#include <stdio.h>
#include <string.h>

#define FIRST  5
#define SECOND 6

static const char *what;
static pthread_t first_thread;

static bool is(const char *name)
{
	return !strcmp(what, name);
}

/* One second later at each look, if nobody answers: the test need not wait. */
int clock_gettime(clockid_t clock, struct timespec *t)
{
	static time_t now = 1;

	(void)clock;
	t->tv_sec = is("silent") ? now++ : now;
	t->tv_nsec = 0;
	return 0;
}

int sched_getcpu(void)
{
	if (pthread_equal(pthread_self(), first_thread))
		return is("first moved") ? SECOND : FIRST;
	return is("second moved") ? FIRST : SECOND;
}

static void *silent(void *arg)
{
	return arg;
}

int start_thread(pthread_t *thread, const int32_t *cpus, uint32_t n_cpus, void *(*run)(void *),
		 void *arg)
{
	if (is("refused") || n_cpus != 1 || *cpus != SECOND)
		return EINVAL;
	return pthread_create(thread, NULL, is("silent") ? silent : run, arg);
}

int stand_on(const int32_t *cpus, uint32_t n_cpus, union cpus *before)
{
	(void)n_cpus, (void)before;
	printf("on %d ", *cpus);
	return 0;
}

void stand_back(const union cpus *before)
{
	(void)before;
	printf("back ");
}

int main(int argc, char **argv)
{
	uint64_t cycles[3] = {0};
	int error, timed = 0;

	what = argc > 1 ? argv[1] : "";
	first_thread = pthread_self();
	error = kb_handover(FIRST, is("alone") ? FIRST : SECOND, 1, 64, 3, cycles);
	for (int i = 0; i < 3; i++)
		timed += cycles[i] > 0;
	printf("%d %d\n", error, timed);
	return 0;
}
