/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Prints which CPUs reach sched_setaffinity for the CPUs of the command line, and which a new
 * thread has from its creator, on a host that need not have them: the functions are this file's.
 */
#include "../../kickbench/engine/src/cpus.c"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t size_seen;
static cpu_set_t *seen;

static void see(const char *who, size_t size, const cpu_set_t *set)
{
	printf("%s", who);
	for (size_t cpu = 0; cpu < 8 * size; cpu++)
		if (CPU_ISSET_S(cpu, size, set))
			printf(" %zu", cpu);
	printf("\n");
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*run)(void *), void *arg)
{
	(void)thread, (void)attr, (void)run, (void)arg;
	see("thread", size_seen, seen);
	return 0;
}

int sched_getaffinity(pid_t pid, size_t size, cpu_set_t *set)
{
	(void)pid;
	CPU_SET_S(2000, size, set);
	return 0;
}

int sched_setaffinity(pid_t pid, size_t size, const cpu_set_t *set)
{
	(void)pid;
	see("stand", size, set);
	size_seen = size;
	seen = malloc(size);
	memcpy(seen, set, size);
	return 0;
}

int main(int argc, char **argv)
{
	int32_t *cpus = calloc((size_t)argc, sizeof(*cpus));
	const uint32_t n_cpus = (uint32_t)argc - 1;
	union cpus before;
	pthread_t thread;

	for (uint32_t i = 0; i < n_cpus; i++)
		cpus[i] = atoi(argv[i + 1]);
	if (start_thread(&thread, cpus, n_cpus, NULL, NULL) || stand_on(cpus, n_cpus, &before))
		return 1;
	stand_back(&before);
	return 0;
}
