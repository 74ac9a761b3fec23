/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Steal: the time in which an outer host ran something else on a CPU (proc_stat(5)). The kernel
 * keeps it for each CPU, in ticks, which are longer than most blocks.
 */
#include "internal.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PROC_STAT_BYTES (1u << 20) /* its first lines are those of the CPUs */

struct reading {
	uint32_t n_cpus;
	int64_t ns[MAX_CPUS]; /* since boot; UNKNOWN: the CPU is offline */
};

struct steal {
	int fd;
	int64_t tick_ns;
	struct reading before, now;
	uint32_t n_blocks;	    /* shared out so far */
	uint32_t counted[MAX_CPUS]; /* the block whose rows have this CPU's steal already */
	char text[PROC_STAT_BYTES];
};

struct steal *open_steal(const char *path)
{
	/* Much of it is never touched. */
	struct steal *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	s->tick_ns = NS_PER_S / sysconf(_SC_CLK_TCK);
	s->fd = open(path, O_RDONLY | O_CLOEXEC);
	return s;
}

void close_steal(struct steal *s)
{
	if (s && s->fd >= 0)
		close(s->fd);
	free(s);
}

int64_t steal_tick_ns(const struct steal *s)
{
	return s->tick_ns;
}

static void parse(struct reading *r, const char *text, int64_t tick_ns)
{
	r->n_cpus = 0;
	/* The first line is the sum of all CPUs. */
	while ((text = strchr(text, '\n')) && !strncmp(++text, "cpu", 3)) {
		unsigned int cpu;
		long long ticks;

		if (sscanf(text, "cpu%u %*d %*d %*d %*d %*d %*d %*d %lld", &cpu, &ticks) != 2 ||
		    cpu < r->n_cpus || cpu >= MAX_CPUS)
			continue;
		while (r->n_cpus < cpu)
			r->ns[r->n_cpus++] = UNKNOWN;
		r->ns[r->n_cpus++] = ticks * tick_ns;
	}
}

void read_steal(struct steal *s)
{
	ssize_t n = s->fd < 0 ? -1 : pread(s->fd, s->text, sizeof(s->text) - 1, 0);

	memcpy(s->before.ns, s->now.ns, s->now.n_cpus * sizeof(*s->now.ns));
	s->before.n_cpus = s->now.n_cpus;
	s->text[n > 0 ? n : 0] = '\0';
	parse(&s->now, s->text, s->tick_ns);
}

/* The steal of a CPU between the last two readings. */
static int64_t stolen_ns(const struct steal *s, int32_t cpu)
{
	const uint32_t index = (uint32_t)cpu; /* -1 is above all */

	if (index >= s->before.n_cpus || index >= s->now.n_cpus || s->before.ns[index] == UNKNOWN ||
	    s->now.ns[index] == UNKNOWN)
		return UNKNOWN;
	/* It may go backwards, as when a machine is moved to another host. */
	return s->now.ns[index] > s->before.ns[index] ? s->now.ns[index] - s->before.ns[index] : 0;
}

void share_out_steal(struct steal *s, struct kb_block_result *results, uint32_t n_blocks,
		     uint32_t n_vcpus)
{
	for (uint32_t b = 0; b < n_blocks; b++) {
		s->n_blocks++;
		for (uint32_t i = 0; i < n_vcpus; i++) {
			struct kb_block_result *r = &results[(size_t)b * n_vcpus + i];
			const int64_t ns = stolen_ns(s, r->cpu);

			r->steal_ns = ns;
			if (ns == UNKNOWN)
				continue;
			if (s->counted[r->cpu] == s->n_blocks)
				r->steal_ns = 0;
			else
				r->steal_ns = ns * (b + 1) / n_blocks - ns * b / n_blocks;
			s->counted[r->cpu] = s->n_blocks;
		}
	}
}
