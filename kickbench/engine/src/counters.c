/* SPDX-License-Identifier: Apache-2.0 */
/* What disturbed a block: CPU time, waiting and context switches, from the kernel. */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

static int64_t read_run_delay_ns(int fd)
{
	char text[128];
	long long on_cpu, delay;
	ssize_t n = fd < 0 ? -1 : pread(fd, text, sizeof(text) - 1, 0);

	if (n <= 0)
		return UNKNOWN;
	text[n] = '\0';
	return sscanf(text, "%lld %lld", &on_cpu, &delay) == 2 ? delay : UNKNOWN;
}

struct counters read_counters(const struct vcpu_thread *t)
{
	struct timespec cpu;
	struct rusage usage;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	getrusage(RUSAGE_THREAD, &usage);
	return (struct counters){
	    .cpu_ns = cpu.tv_sec * NS_PER_S + cpu.tv_nsec,
	    .run_delay_ns = read_run_delay_ns(t->schedstat_fd),
	    .voluntary_switches = usage.ru_nvcsw,
	    .involuntary_switches = usage.ru_nivcsw,
	};
}
