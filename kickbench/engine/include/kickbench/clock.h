/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stamp: the CPU's own counter (the TSC of x86) where it can be trusted, else
 * CLOCK_MONOTONIC_RAW in ns. kickbench/host/clock.py decides.
 */
#ifndef KICKBENCH_CLOCK_H
#define KICKBENCH_CLOCK_H

#include <kickbench/arch/current.h>
#include <stdbool.h>
#include <stdint.h>
#include <time.h>

#define KB_CPU_UNKNOWN UINT32_MAX

static inline uint64_t kb_raw_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t kb_stamp(bool clock_is_counter, uint32_t *cpu)
{
	uint32_t where;
	uint64_t now;

	if (!clock_is_counter) {
		*cpu = KB_CPU_UNKNOWN;
		return kb_raw_ns();
	}
	now = kb_counter(&where);
	*cpu = kb_cpu(where);
	return now;
}

/* As samples and records keep a time: in 32 bits. */
static inline uint32_t kb_saturate(uint64_t cycles)
{
	return cycles > UINT32_MAX ? UINT32_MAX : (uint32_t)cycles;
}

#endif
