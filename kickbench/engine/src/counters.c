/* SPDX-License-Identifier: Apache-2.0 */
/* What disturbed a block: CPU time, waiting, context switches, and steal, from the kernel. */
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

struct counters read_counters(const struct worker *w)
{
	struct timespec cpu;
	struct rusage usage;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &cpu);
	getrusage(RUSAGE_THREAD, &usage);
	return (struct counters){
	    .cpu_ns = cpu.tv_sec * NS_PER_S + cpu.tv_nsec,
	    .run_delay_ns = read_run_delay_ns(w->schedstat_fd),
	    .voluntary_switches = usage.ru_nvcsw,
	    .involuntary_switches = usage.ru_nivcsw,
	};
}

/* Steal of each CPU since boot, in ns, into steal[CPU]; /proc/stat counts it in USER_HZ. */
void read_steal_ns(struct kb_engine *e, int64_t *steal)
{
	const int64_t ns_per_tick = NS_PER_S / sysconf(_SC_CLK_TCK);
	ssize_t n =
	    e->proc_stat_fd < 0 ? -1 : pread(e->proc_stat_fd, e->proc_stat, PROC_STAT_BYTES - 1, 0);

	memset(steal, 0, CPU_SETSIZE * sizeof(*steal));
	if (n <= 0)
		return;
	e->proc_stat[n] = '\0';
	for (char *line = e->proc_stat; line && !strncmp(line, "cpu", 3);
	     line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		unsigned int cpu;
		long long ticks;

		if (sscanf(line, "cpu%u %*d %*d %*d %*d %*d %*d %*d %lld", &cpu, &ticks) == 2 &&
		    cpu < CPU_SETSIZE)
			steal[cpu] = ticks * ns_per_tick;
	}
}

/* The steal of the CPU that each vCPU's thread ended the block on. */
void share_out_steal(struct kb_engine *e, const int64_t *before, const int64_t *after)
{
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		struct kb_block_result *r = &e->results[i];

		r->steal_ns = UNKNOWN;
		if (e->proc_stat_fd >= 0 && r->cpu >= 0 && r->cpu < CPU_SETSIZE)
			r->steal_ns = after[r->cpu] - before[r->cpu];
	}
}
