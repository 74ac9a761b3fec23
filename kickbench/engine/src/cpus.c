/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which CPUs a thread runs on. A cpu_set_t ends at CPU 1,023, and CPU_SET silently drops what is
 * above it; the kernel takes and gives sets of any size (sched_setaffinity(2)).
 */
#include "internal.h"

#define THREAD_STACK_BYTES (256u << 10)

static union cpus cpus_of(const int32_t *cpus, uint32_t n_cpus)
{
	union cpus set;

	CPU_ZERO_S(sizeof(set), &set.set);
	for (uint32_t i = 0; i < n_cpus; i++)
		CPU_SET_S((size_t)cpus[i], sizeof(set), &set.set);
	return set;
}

int stand_on(const int32_t *cpus, uint32_t n_cpus, union cpus *before)
{
	const union cpus set = cpus_of(cpus, n_cpus);

	CPU_ZERO_S(sizeof(*before), &before->set);
	if (sched_getaffinity(0, sizeof(*before), &before->set) ||
	    sched_setaffinity(0, sizeof(set), &set.set))
		return errno;
	return 0;
}

void stand_back(const union cpus *before)
{
	sched_setaffinity(0, sizeof(*before), &before->set);
}

/*
 * A thread's task_struct, kernel stack and TLS are allocated on the node of its creator
 * (kernel/fork.c). So the creator moves to the new thread's CPUs for that time, and the thread has
 * these from it.
 */
int start_thread(pthread_t *thread, const int32_t *cpus, uint32_t n_cpus, void *(*run)(void *),
		 void *arg)
{
	union cpus before;
	pthread_attr_t attr;
	int error = n_cpus ? stand_on(cpus, n_cpus, &before) : 0;

	if (error)
		return error;
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK_BYTES);
	error = pthread_create(thread, &attr, run, arg);
	pthread_attr_destroy(&attr);
	if (n_cpus)
		stand_back(&before);
	return error;
}
