/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The stamp: RDTSCP where the TSC can be trusted, else CLOCK_MONOTONIC_RAW in ns.
 *
 * RDTSCP and not RDTSC: it waits for the instructions before it (Intel SDM volume 2B, RDTSCP), and
 * tells the CPU that we are on (the kernel keeps it in IA32_TSC_AUX, bits 0-11), so that a
 * migration is seen without a system call. Threads on CPUs from 4,096 on, whose number does not
 * fit, get the other clock (kickbench/host/clock.py).
 */
#ifndef KICKBENCH_CLOCK_H
#define KICKBENCH_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>
#include <x86intrin.h>

#define KB_TSC_AUX_CPU_MASK 0xfffu
#define KB_CPU_UNKNOWN	    UINT32_MAX

static inline uint64_t kb_raw_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static inline uint64_t kb_stamp(bool clock_is_tsc, uint32_t *cpu)
{
	uint32_t aux;
	uint64_t now;

	if (!clock_is_tsc) {
		*cpu = KB_CPU_UNKNOWN;
		return kb_raw_ns();
	}
	now = __rdtscp(&aux);
	*cpu = aux & KB_TSC_AUX_CPU_MASK;
	return now;
}

/* As samples and records keep a time: in 32 bits. */
static inline uint32_t kb_saturate(uint64_t cycles)
{
	return cycles > UINT32_MAX ? UINT32_MAX : (uint32_t)cycles;
}

#endif
