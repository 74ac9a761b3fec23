/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The engine's interface, as kickbench/engine/engine.py binds it with ctypes.
 *
 * One engine drives the vCPUs of one VM: a persistent, pinned thread each, all stepping through a
 * schedule of short blocks together. The thread that calls kb_engine_blocks() conducts them, and
 * kicks those whose guest does not leave by itself.
 */
#ifndef KICKBENCH_ENGINE_H
#define KICKBENCH_ENGINE_H

#include <kickbench/protocol.h>

#include "params.h"

/*
 * Histogram of cycles: exact below 2^KB_HISTOGRAM_BITS, then 2^(KB_HISTOGRAM_BITS - 1) bins to each
 * power of two (so a bin is at most 1/64 of its value wide).
 */
#define KB_HISTOGRAM_BITS 7
#define KB_HISTOGRAM_HALF (1u << (KB_HISTOGRAM_BITS - 1))
#define KB_HISTOGRAM_BINS ((32 - KB_HISTOGRAM_BITS + 2) * KB_HISTOGRAM_HALF)

struct kb_vcpu_config {
	int32_t fd;
	uint32_t n_cpus; /* that the thread may run on */
	const int32_t *cpus;
	struct kvm_run *run;
	const struct kb_guest_params *params;
	const uint32_t *ring; /* the guest's own round trips; NULL: take the host's */
};

struct kb_config {
	uint32_t n_vcpus;
	uint32_t n_entries; /* of the schedule's participants: one histogram each */
	int32_t signal;
	uint32_t expected_exit;
	uint32_t clock_is_tsc;
	uint32_t reserved;
	uint64_t samples_capacity; /* per vCPU, for all blocks of one call */
	double clock_hz;
	const struct kb_vcpu_config *vcpus;
};

/* One block to run: a participant of the schedule, and the protocol that it uses. */
struct kb_block {
	const struct kb_protocol *protocol;
	uint32_t entry;
	uint32_t reserved;
};

/* What one vCPU did in one block. Everything is about the recorded window. */
struct kb_block_result {
	uint64_t exits;
	uint64_t elapsed_cycles; /* from the window's begin to the last return of KVM_RUN */
	uint64_t timed_exits;	 /* those with a sample: the host's, or the guest's own */
	uint64_t timed_cycles;	 /* their sum */
	uint64_t max_cycles;
	uint64_t unsampled;	 /* exits that found the buffer full */
	uint64_t samples_offset; /* of this block in the vCPU's buffer */
	uint64_t samples_count;
	uint64_t spurious_exits;
	int64_t cpu_ns;
	int64_t run_delay_ns; /* runnable, but not on a CPU (schedstat) */
	int64_t steal_ns;     /* of the CPU at the end of the block */
	int32_t voluntary_switches;
	int32_t involuntary_switches;
	int32_t migrations;
	int32_t cpu;	 /* at the end of the block */
	int32_t rescues; /* kicks after the first that the block's end needed */
	int32_t kicked;	 /* the block ended by a kick, not by the clock */
};

/* Why a block failed. */
struct kb_failure {
	int32_t vcpu;  /* -1: none did */
	int32_t error; /* errno of KVM_RUN or of entering the protocol, or 0 */
	uint32_t exit_reason;
	uint32_t suberror;
	uint64_t detail;  /* hardware entry failure reason */
	int32_t stuck;	  /* the vCPU could not be kicked out of KVM_RUN */
	int32_t entering; /* the error is of entering the protocol */
};

struct kb_engine;

/* NULL and errno on failure. Starts the threads; they wait. */
KB_EXPORT struct kb_engine *kb_engine_create(const struct kb_config *config);
KB_EXPORT void kb_engine_destroy(struct kb_engine *e);

/*
 * Runs the blocks one after another; results[block * n_vcpus + vcpu]. 0, or -1 when a block
 * failed: see kb_engine_failure.
 */
KB_EXPORT int kb_engine_blocks(struct kb_engine *e, const struct kb_block *blocks,
			       uint32_t n_blocks, uint64_t warmup_ns, uint64_t block_ns,
			       struct kb_block_result *results);
KB_EXPORT const struct kb_failure *kb_engine_failure(const struct kb_engine *e);
KB_EXPORT const uint32_t *kb_engine_samples(const struct kb_engine *e, uint32_t vcpu);
/* Counts of the entry, KB_HISTOGRAM_BINS of them, summed over the vCPUs into `counts`. */
KB_EXPORT void kb_engine_histogram(const struct kb_engine *e, uint32_t entry, uint64_t *counts);
/* 1 when every buffer is locked in memory, 0 when RLIMIT_MEMLOCK forbids it. */
KB_EXPORT int kb_engine_memory_locked(const struct kb_engine *e);
/* Lowest value of each bin, and one more: bin i is edges[i] <= cycles < edges[i + 1]. */
KB_EXPORT void kb_histogram_edges(uint64_t *edges);

/* -- clock.c ------------------------------------------------------------------------------------
 */

/* TSC cycles per second against CLOCK_MONOTONIC_RAW, measured over `ns`. */
KB_EXPORT double kb_clock_calibrate(uint64_t ns);
/* The least distance of two stamps in a row: what a stamp costs, in units of the clock. */
KB_EXPORT uint64_t kb_clock_stamp_cost(int clock_is_tsc);
/*
 * How far the TSC of `cpu_b` was ever seen behind that of `cpu_a` or the other way round, in
 * cycles, in `rounds` hand-overs through memory: 0 when they agree. -1 when a thread can't be put
 * on one of them.
 */
KB_EXPORT int64_t kb_clock_warp_cycles(int cpu_a, int cpu_b, uint32_t rounds);

/* Size of a structure of the interface by its name without "kb_", for the binding's self-check. */
KB_EXPORT size_t kb_sizeof(const char *name);

#endif
