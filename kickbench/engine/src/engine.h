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

#define KB_QUANTILES 17 /* of the exits of a block; their levels: kb_quantile_levels() */

struct kb_vcpu_config {
	int32_t fd;
	uint32_t n_cpus; /* that the thread may run on */
	const int32_t *cpus;
	struct kvm_run *run;
	struct kb_guest_params *params;
	const uint32_t *ring; /* the guest's own round trips; NULL: take the host's */
};

/* Which loop the vCPUs run in a block. */
enum kb_loop { KB_EXIT_LOOP, KB_KICK_LOOP };

/* What the kicking threads do in a block. */
enum kb_kicking {
	KB_NO_KICKS,
	KB_VOLLEYS, /* all kickers at once, at random times */
	KB_AIMED,   /* each at its vCPU's window between the flag and KVM_RUN */
	KB_PAUSES,  /* the first one kicks all vCPUs, waits for all, lets them go on */
};

/* The state that a vCPU is to be in when it is kicked; a kick that met another one is marked. */
enum kb_state {
	KB_ANY_STATE,
	KB_IN_GUEST,
	KB_HALTED,
	KB_IN_USERSPACE,
	KB_IN_STORM,
	KB_IN_WINDOW,	  /* aimed: the kick is sent and returned while the window is open */
	KB_PENDING_IO,	  /* the same, and KVM_RUN has the guest's PIO or MMIO to complete first */
	KB_UNSTARTED,	  /* asleep in KVM_RUN, and no guest has run */
	KB_POLLED,	  /* halted, and KVM polls before the thread sleeps */
	KB_HALTED_INSIDE, /* halted without an exit */
};

/* What follows a pause, in this order; bits. */
enum kb_after { KB_TELL_CLOCK = 1, KB_READ_STATE = 2 };

struct kb_plan {
	uint32_t loop;
	uint32_t kicking;
	uint32_t state;
	uint32_t seed;	     /* of the random times */
	uint32_t one_by_one; /* pauses: each vCPU is waited for before the next is kicked */
	uint32_t after;	     /* pauses: enum kb_after, what each vCPU's thread does then */
	uint64_t gap_ns; /* mean time between two kicks of a kicker, or two pauses; pauses: 0: */
			 /* the next one begins when the vCPUs are told to go on */
	uint64_t userspace_ns;	 /* in user space before each KVM_RUN; aimed: the window's notice */
	uint64_t window_ns;	 /* how long the window is held open; 0: as it is */
	uint64_t lost_after_ns;	 /* a kick that is not taken by then may be lost */
	uint64_t foreign_gap_ns; /* mean time between two foreign signals, to one vCPU each */
	uint64_t siglock_gap_ns; /* mean time between two takings of siglock by one thread */
};

#define KB_KICK_MET  1u /* the vCPU was seen in the wanted state just before */
#define KB_KICK_LOST 2u /* the guest still ran when lost_after_ns had passed */
#define KB_KICK_LANDED                                                                             \
	4u /* aimed: it was lost, or came between the look at the flag and the guest */

/* One kick, in cycles. */
struct kb_kick_record {
	int64_t at;	   /* since the block's begin */
	uint32_t block;	   /* index into the schedule of the call */
	uint32_t send;	   /* the kicker's call */
	uint32_t delivery; /* until the signal handler ran; 0: it was not seen to */
	uint32_t latency;  /* until the protocol knew of it */
	int16_t vcpu;
	uint8_t kicker;
	uint8_t flags;
	uint32_t rescues;  /* kicks after this one that it took in the end */
	uint32_t volley;   /* of a block: the kicks that were due at one moment */
	int32_t cpu;	   /* that the kicker's call began and ended on; -1: two, or not known */
	uint32_t returned; /* until KVM_RUN returned; 0: taken by a look at the flag, without it */
	uint32_t resumed;  /* until the guest was entered again, and ran; 0: that was not seen */
	uint32_t signals;  /* that the kicker's call sent */
	uint32_t reserved;
};

/* One pause of all vCPUs, in cycles since its begin. */
struct kb_pause {
	int64_t at; /* since the block's begin */
	int64_t send;
	int64_t first;
	int64_t median; /* of an even number the lower one: until half of them had taken it */
	int64_t last;
	int64_t clock; /* until the last vCPU had called KVM_KVMCLOCK_CTRL; 0: none did */
	int64_t state; /* until the state of the last vCPU had been read; 0: none was */
	uint32_t block;
	uint32_t rescues;
	int32_t not_run; /* vCPUs whose guest had not run since the pause before; -1: not known */
	uint32_t reserved;
};

struct kb_config {
	uint32_t n_vcpus;
	uint32_t n_entries; /* of the schedule's participants: one histogram each */
	int32_t signal;
	uint32_t expected_exit;
	uint32_t other_exit; /* 0: none */
	uint32_t clock_is_counter;
	uint32_t guest_counts;	/* its own exits: see accesses.c */
	uint32_t transport;	/* enum kb_transport */
	int32_t foreign_signal; /* that a thread of its own sends to the vCPUs; 0: there is none */
	uint32_t n_siglock_threads; /* that take the process's siglock */
	uint64_t samples_capacity;  /* per vCPU, for all blocks of one call */
	double clock_hz;
	const struct kb_vcpu_config *vcpus;
	uint32_t n_kickers;
	uint32_t n_kicker_cpus; /* that each of them may run on */
	const int32_t *kicker_cpus;
	uint64_t kicks_capacity;  /* per kicker, for all blocks of one call */
	uint64_t pauses_capacity; /* for all blocks of one call */
};

/* One block to run: a participant of the schedule, and the protocol that it uses. */
struct kb_block {
	const struct kb_protocol *protocol;
	uint32_t entry;
	uint32_t reserved;
};

/* What one vCPU did in one block. Everything is about the recorded window. */
struct kb_block_result {
	int64_t exits;
	int64_t accesses;	/* that were counted on both sides, warm-up included */
	int64_t elapsed_cycles; /* the window: to the exit that goes beyond its end, or its end */
	int64_t skew_cycles;	/* the window began so much later than the block's */
	int64_t stalled_cycles; /* between spurious returns with no exit of the guest between */
	int64_t timed_exits;	/* those with a sample: the host's, or the guest's own */
	int64_t timed_cycles;	/* their sum */
	int64_t max_cycles;
	int64_t unsampled;	/* exits that found the buffer full */
	int64_t samples_offset; /* of this block in the vCPU's buffer */
	int64_t samples_count;
	int64_t spurious_exits;
	int64_t cpu_ns;
	int64_t run_delay_ns; /* runnable, but not on a CPU (schedstat) */
	int64_t steal_ns;     /* of its CPU, on the first such row of a block; 0 on others */
	int64_t
	    foreign_sent; /* signals to the vCPU's thread that are no kicks, in the whole block */
	int64_t foreign_taken; /* those whose handler ran: signals that are pending are one */
	int64_t
	    siglock_taken; /* by the threads that make noise, on a block's first row; 0 on others */
	int32_t voluntary_switches;
	int32_t involuntary_switches;
	int32_t migrations;
	int32_t cpu;		       /* at the end of the block */
	int32_t rescues;	       /* kicks after the first that the block's end needed */
	int32_t kicked;		       /* the block ended by a kick, not by the clock */
	int32_t twice;		       /* accesses that the host had, and the guest did not make */
	int32_t never;		       /* accesses of the guest that the host did not have */
	float quantiles[KB_QUANTILES]; /* of the timed exits, in cycles; NaN: there was none */
	uint32_t reserved;
};

/* The resource that was missing to create an engine: more exact than `error` of the failure. */
enum kb_resource { KB_NO_RESOURCE, KB_MEMORY, KB_FILES, KB_THREADS, KB_TIMERS, KB_PIDFDS, KB_CPUS };

/* Why a block failed, or an engine was not created. */
struct kb_failure {
	int32_t vcpu;  /* -1: none did */
	int32_t error; /* errno of KVM_RUN or of entering the protocol, or 0 */
	uint32_t exit_reason;
	uint32_t suberror;
	uint64_t detail;      /* hardware entry failure reason */
	int32_t stuck;	      /* a thread hangs: it still uses the engine, and the vCPU */
	int32_t entering;     /* the error is of entering the protocol */
	int32_t kicking;      /* the error is of a kick */
	int32_t finishing;    /* the error is of completing the guest's I/O */
	int32_t resource;     /* enum kb_resource */
	int32_t doing;	      /* enum kb_doing of the thread that is stuck */
	int32_t tid;	      /* of the same */
	int32_t kicker;	      /* it is a kicker's, on its way to `vcpu`; -1: it is the vCPU's own */
	int32_t slow;	      /* it still made progress */
	int32_t following;    /* the error is of what follows a pause */
	const char *protocol; /* that it uses; NULL: none */
};

struct kb_engine;

/* NULL on failure, and why. Starts the threads; they wait. */
KB_EXPORT struct kb_engine *kb_engine_create(const struct kb_config *config,
					     struct kb_failure *failure);
/* 0; or -1 when a thread is stuck, see kb_engine_failure: then all is left as it is. */
KB_EXPORT int kb_engine_destroy(struct kb_engine *e);

/*
 * Runs the blocks one after another; results[block * n_vcpus + vcpu]. 0, or -1 when a block
 * failed: see kb_engine_failure.
 */
KB_EXPORT int kb_engine_blocks(struct kb_engine *e, const struct kb_block *blocks,
			       uint32_t n_blocks, uint64_t warmup_ns, uint64_t block_ns,
			       const struct kb_plan *plan, struct kb_block_result *results);
KB_EXPORT const struct kb_failure *kb_engine_failure(const struct kb_engine *e);
KB_EXPORT const uint32_t *kb_engine_samples(const struct kb_engine *e, uint32_t vcpu);
/* The kicks of one kicker in the last call, and the pauses; the number of them in *count. */
KB_EXPORT const struct kb_kick_record *kb_engine_kicks(const struct kb_engine *e, uint32_t kicker,
						       uint64_t *count);
KB_EXPORT const struct kb_pause *kb_engine_pauses(const struct kb_engine *e, uint64_t *count);
/* Counts of the entry, KB_HISTOGRAM_BINS of them, summed over the vCPUs into `counts`. */
KB_EXPORT void kb_engine_histogram(const struct kb_engine *e, uint32_t entry, uint64_t *counts);
/* 1 when every buffer is locked in memory, 0 when RLIMIT_MEMLOCK forbids it. */
KB_EXPORT int kb_engine_memory_locked(const struct kb_engine *e);

/* Who watches from outside, as kickbench lab explain does, may begin (kickbench/mark.h). */
KB_EXPORT void kb_watch(void);
/* Lowest value of each bin, and one more: bin i is edges[i] <= cycles < edges[i + 1]. */
KB_EXPORT void kb_histogram_edges(uint64_t *edges);

/* -- quantiles.c --------------------------------------------------------------------------------
 */

/* The levels of a block's quantiles in per mille, rising, KB_QUANTILES of them. */
KB_EXPORT void kb_quantile_levels(uint32_t *per_mille);
/*
 * The quantiles of `n` values in cycles at those levels; NaN of none. A clock that counts in steps
 * has many equal values, and their quantile would jump by a step or not move at all. So the values
 * that equal v are taken as spread evenly from v - step / 2 to v + step / 2, but no further than
 * half way to the next other value. `scratch` has room for 2 n values; `cycles` stay as they are.
 */
KB_EXPORT void kb_quantiles(const uint32_t *cycles, uint64_t n, double step, uint32_t *scratch,
			    float *quantiles);

/* -- placement.c --------------------------------------------------------------------------------
 */

/* What is a vCPU's own in the engine: its flag and constants, its thread's TLS, its samples. */
enum kb_part { KB_FLAG, KB_TLS, KB_SAMPLES };

KB_EXPORT const void *kb_engine_address(const struct kb_engine *e, uint32_t vcpu, uint32_t part);
/* The CPU that a kicking thread was on at the end of the last block. */
KB_EXPORT int32_t kb_engine_kicker_cpu(const struct kb_engine *e, uint32_t kicker);
/*
 * The NUMA node of each of this process's pages with these addresses, or -errno: -ENOENT for one
 * that is not there, -EFAULT for one whose node the kernel does not report. 0, or an errno.
 */
KB_EXPORT int kb_nodes_of(const uint64_t *addresses, uint64_t count, int32_t *nodes);

/* -- clock.c ------------------------------------------------------------------------------------
 */

/*
 * TSC cycles per second against CLOCK_MONOTONIC_RAW, measured over `ns`. A preemption does not
 * shift it, unless it hits all of the tries to read both clocks at once.
 */
KB_EXPORT double kb_clock_calibrate(uint64_t ns);
/* The least distance of two stamps in a row: what a stamp costs, in units of the clock. */
KB_EXPORT uint64_t kb_clock_stamp_cost(int clock_is_counter);
/*
 * The step that the clock counts in, in its own units: 1 if each unit can be seen. It is measured
 * with stamps of the clock, not with a block's exits: few exits may show a longer least distance.
 */
KB_EXPORT uint64_t kb_clock_step(int clock_is_counter);
/*
 * The largest distance by which the TSC of `cpu_a` or `cpu_b` was seen behind the other's, in
 * cycles, in `rounds` hand-overs through memory: 0 when they agree. -1 when a thread can't be put
 * on one of the CPUs.
 */
KB_EXPORT int64_t kb_clock_warp_cycles(int cpu_a, int cpu_b, uint32_t rounds);

/* -- handover.c ---------------------------------------------------------------------------------
 */

/*
 * Has a cache line handed from one CPU to the other and back. `cycles` gets the length of each of
 * `bouts` bouts, in units of the clock, with `handovers` hand-overs in each, an even number. The
 * line's memory is on the node of the first CPU. If the two CPUs are the same, one thread takes
 * both turns, and nothing is handed over. 0 or an errno: EXDEV if a thread was moved from its CPU,
 * ETIMEDOUT if the other CPU did not answer.
 */
KB_EXPORT int kb_handover(int32_t first_cpu, int32_t second_cpu, int clock_is_counter,
			  uint32_t handovers, uint32_t bouts, uint64_t *cycles);

/* -- lifecycle.c --------------------------------------------------------------------------------
 */

/*
 * When a vCPU is kicked. At the first two its thread waits until the kick was sent. At the others
 * it goes on, and the kick comes `delay_ns` after the moment began.
 */
enum kb_moment {
	KB_NO_HANDLER,	 /* its thread runs, and the signal has no handler yet */
	KB_THREAD_START, /* there is a handler, and the thread has not begun to use the protocol */
	KB_ENTRY,	 /* it sets its mask, then kb_enter */
	KB_FIRST_RUN,	 /* the first KVM_RUN of the VM */
	KB_THREAD_END,	 /* the thread has left its loop: kb_leave, then it ends */
	KB_TAKEOVER,	 /* the vCPU's thread has ended, and another takes the vCPU over */
	KB_STALE,	 /* the other runs it, and the kicker has the id of the first thread, which
			    a third one has got by now */
};

/* What became of the kick. One that ended the process is for the caller to see. */
enum kb_fate {
	KB_ANSWERED,
	KB_LATE,     /* it took longer than late_after_ns, waits for a CPU apart */
	KB_LOST,     /* the guest still ran after lost_after_ns, or the thread ended */
	KB_REFUSED,  /* as KB_LOST, but kb_kick said so */
	KB_POISONED, /* KVM_RUN failed, and so did all that followed; or (EINTR) the guest stands
			still */
};

struct kb_life_plan {
	const struct kb_protocol *protocol;
	uint64_t delay_ns;
	uint64_t late_after_ns;
	uint64_t lost_after_ns;
	uint32_t moment; /* enum kb_moment */
	uint32_t reserved;
};

struct kb_life {
	uint64_t latency; /* cycles until the protocol knew of the kick; 0: it never did */
	uint64_t waited;  /* cycles of these in which the vCPU's thread waited for a CPU */
	uint32_t fate;	  /* enum kb_fate */
	uint32_t met;	  /* the kick was sent before the moment was over */
	int32_t error;	  /* errno: of KVM_RUN when poisoned, of kb_kick when refused */
	uint32_t reserved;
};

/*
 * One kick of the only vCPU of a VM that never ran, by the calling thread. 0 or an errno. Threads
 * and memory stay: the caller's process is to end.
 */
KB_EXPORT int kb_live(const struct kb_config *config, const struct kb_life_plan *plan,
		      struct kb_life *life);

/* The version of the hooks and of struct kb_vcpu that a protocol must be built against. */
extern KB_EXPORT const uint32_t kb_abi; /* KB_PROTOCOL_ABI */

/* Size of a structure of the interface by its name without "kb_"; 0: there is none. */
KB_EXPORT size_t kb_sizeof(const char *name);

/* One field of such a structure, where it lies, and what it is. */
struct kb_field {
	const char *structure;
	const char *name;
	uint64_t offset;
	uint64_t size;
	uint64_t unit; /* the size of one number; an array has several */
	char kind;     /* i, u: an integer, signed or not; f: floating; p: a pointer */
};

/* All fields that the binding shares with the engine, in their order; their number in *count. */
KB_EXPORT const struct kb_field *kb_fields(size_t *count);

#endif
