/* SPDX-License-Identifier: Apache-2.0 */
/* What the engine's own files share: its structures, and the functions of each file. */
#ifndef KICKBENCH_INTERNAL_H
#define KICKBENCH_INTERNAL_H

#include "engine.h"

#include <kickbench/clock.h>
#include <pthread.h>
#include <sched.h>

#define UNKNOWN	    (-1)  /* a counter that this kernel or clock does not have */
#define MAX_CPUS    65536 /* kickbench/cpu_list.py accepts no CPU above */
#define NS_PER_S    1000000000ll
#define KICK_MAX_S  10 /* a vCPU that stays in KVM_RUN for longer is stuck */
#define START_MAX_S 30 /* a thread that allocates its buffers for longer is stuck */

/* A set of CPUs up to MAX_CPUS, for the functions that take a set's size. */
union cpus {
	cpu_set_t set;
	unsigned char bits[MAX_CPUS / 8];
};

enum command { SWITCH, RUN, QUIT };

/* A block begins once: when its last vCPU runs, or when the conductor has waited long enough. */
enum begun { NOT_BEGUN, BEGINS, BEGUN };

/* Counters of a thread, sampled at both ends of the window. */
struct counters {
	int64_t cpu_ns;
	int64_t run_delay_ns;
	long voluntary_switches;
	long involuntary_switches;
};

/* A vCPU's thread. On pages of its own, which are on the node of the vCPU's CPUs. */
struct vcpu_thread {
	_Alignas(KB_PAGE_BYTES) struct kb_vcpu v; /* first: the hooks get a pointer to it */
	struct kb_ack acks[KB_MAX_KICKERS + 1];
	struct kb_engine *engine;
	struct kb_guest_params *params;
	const uint32_t *ring;
	uint32_t *samples; /* of all blocks of a call; v.samples is the free rest */
	uint32_t *scratch; /* to sort a block's samples: room for twice as many */
	uint64_t *histograms;
	const void *tls; /* the thread's, at the top of its stack */
	pthread_t thread;
	int schedstat_fd, stat_fd;
	clockid_t cpu_clock;		    /* of the thread's CPU time */
	const struct kb_protocol *protocol; /* entered by the thread */
	int enter_error;
	struct counters opened;
	uint32_t guest_head;  /* when the window opened */
	uint32_t guest_count; /* its exits, when they were compared last */
	int64_t ahead;	      /* exits that the host has had, and the guest has not counted yet */
	struct kb_block_result *of_block; /* whose accesses are not compared yet; NULL: none */
	uint64_t exits_of_block;
	bool in_doubt;	 /* whether an access was pending at the block's end */
	bool counted_in; /* for the block to begin */
	bool window_opened;
	uint64_t own_window_at; /* clock: of a guest whose exits stay in the kernel */
	atomic_bool busy;	/* in its loop: can be kicked */
	int pidfd_error;	/* why v.pidfd is -1 */
	/* Of the kick loop. */
	uint32_t last_heartbeat; /* when it came round last */
	uint32_t landed;	 /* kickers whose kicks came before the guest could run */
	uint64_t free_at; /* clock: the end of its own time in user space, or of its window */
	bool ran;	  /* the guest did, since the last kick was taken */
	bool ran_before;  /* the same when it was taken; for the kicker */
	bool io_pending;  /* the next KVM_RUN completes the guest's PIO or MMIO */
	uint64_t resumed_after[KB_MAX_KICKERS]; /* as in struct kb_ack, for the next kick */
	bool lacks_files; /* a descriptor of the thread's own could not be opened */
	/* What followed a pause; for the kicker. */
	uint64_t clock_at, state_at; /* clock: each step was done */
	atomic_uint followed;	     /* kicks of the first kicker that it was done for */
	int follow_error;
	atomic_ullong foreign_taken; /* foreign signals in the block; its own thread counts them */
};

/* A kicking thread. */
struct kicker_thread {
	_Alignas(KB_CACHE_LINE) struct kb_engine *engine;
	pthread_t thread;
	pid_t tid;
	struct kb_kick_record *kicks;
	uint64_t n_kicks;
	int64_t aim;		/* cycles from a natural window's announced moment to the kick */
	int error;		/* of a kick */
	_Atomic uint8_t doing;	/* enum kb_doing */
	atomic_uint target;	/* the vCPU that it kicks, or kicked last */
	atomic_uint kicks_made; /* calls of the hook */
	int cpu;		/* at the end of the last block */
};

/* A thread that makes noise: it sends foreign signals, or takes siglock. */
struct noise_thread {
	_Alignas(KB_CACHE_LINE) struct kb_engine *engine;
	pthread_t thread;
	uint64_t siglock_taken; /* in the block */
};

/* A kick that is under way, and what is known of the kicker's last one. */
struct kick_in_flight {
	struct kb_engine *engine;
	struct kicker_thread *thread;
	struct kb_kicker *kicker;
	struct vcpu_thread *vcpu;
	uint32_t volley;
	uint64_t sent, returned;
	uint32_t cpu_sent, cpu_returned, signals;
	bool landed, seen; /* the last one: in the window; by a look at the flag, before it */
};

struct kb_engine {
	uint32_t n_vcpus, n_entries;
	double clock_hz;
	double clock_step; /* in cycles */
	bool memory_locked;
	bool one_cpu;	   /* of all threads */
	bool guest_counts; /* its accesses: accesses.c */
	bool realtime;	   /* SCHED_FIFO or SCHED_RR, inherited from the conductor */
	uint64_t samples_capacity;
	struct vcpu_thread *vcpu_threads;
	size_t vcpu_threads_bytes;
	struct kb_failure failure;
	struct sigaction old_action;
	int signal;
	struct steal *steal;

	uint32_t n_kickers;
	uint32_t n_timers;		      /* created; kicker by kicker */
	struct kb_kicker *kickers;	      /* as the protocols see them: KB_MAX_KICKERS + 1 */
	struct kicker_thread *kicker_threads; /* of the first n_kickers */
	struct kicker_thread stopper;	      /* kicks for the conductor, kickers[KB_CONDUCTOR] */
	bool has_stopper;
	struct kb_pause *pauses;
	uint64_t n_pauses;
	uint64_t kicks_capacity, pauses_capacity;
	uint64_t *scratch; /* one number for each vCPU */

	int foreign_signal; /* 0: none is sent */
	struct sigaction old_foreign_action;
	uint32_t n_noise; /* threads; the first one sends, if there is a foreign signal */
	struct noise_thread *noise_threads;

	/* The current step; written by the conductor before it raises `step`. */
	enum command command;
	struct kb_block block;
	uint32_t block_index;
	struct kb_plan plan;
	uint64_t warmup_cycles, block_cycles;
	uint64_t record_from, record_until; /* known when the block has begun */
	struct kb_block_result *results;

	_Alignas(KB_CACHE_LINE) atomic_uint step;
	_Alignas(KB_CACHE_LINE) atomic_uint begun;    /* enum begun, of a block */
	_Alignas(KB_CACHE_LINE) atomic_uint starting; /* vCPU threads that do not run yet */
	_Alignas(KB_CACHE_LINE) atomic_uint pending;  /* vCPU threads that have not finished it */
	atomic_uint kickers_pending;		      /* kickers that have not */
	atomic_uint noise_pending;		      /* threads that make noise that have not */
	atomic_uint stops;	     /* goes up when the stopper is to end a block */
	atomic_uint stopper_pending; /* 1: it has not */
	_Alignas(KB_CACHE_LINE) atomic_uint resumed; /* goes up when paused vCPUs may go on */
};

/* Notes the resource that is missing to create the engine. Always false. */
static inline bool lacks(struct kb_engine *e, enum kb_resource resource, int error)
{
	e->failure.resource = (int32_t)resource;
	e->failure.error = error;
	return false;
}

/* steps.c */
void futex_wait(atomic_uint *word, unsigned int value, int64_t timeout_ns);
void futex_wake_all(atomic_uint *word);
void begin_step(struct kb_engine *e, enum command command);
bool do_step(struct kb_engine *e, enum command command);
unsigned int wait_for_step(struct kb_engine *e, unsigned int seen);
void finish_part(atomic_uint *pending);
bool wait_for_none(atomic_uint *pending, int64_t timeout_ns);
bool wait_for_each(atomic_uint *pending, int64_t patience_ns);
void begin_block(struct kb_engine *e);
bool has_begun(struct kb_engine *e);
bool wait_for_begin(struct kb_engine *e, int64_t timeout_ns);

static inline uint32_t heartbeat(const struct vcpu_thread *t)
{
	return *(const volatile uint32_t *)&t->params->heartbeat;
}

/* clock.c */
uint64_t now_cycles(const struct kb_engine *e);
uint64_t to_cycles(const struct kb_engine *e, uint64_t ns);

static inline uint64_t stamp(const struct vcpu_thread *t)
{
	uint32_t cpu;

	return kb_stamp(t->v.clock_is_counter, &cpu);
}

static inline bool is_busy(struct vcpu_thread *t)
{
	return atomic_load_explicit(&t->busy, memory_order_acquire);
}

/* counters.c */
struct counters read_counters(const struct vcpu_thread *t);

/* steal.c */
struct steal *open_steal(const char *path); /* of /proc/stat; NULL: no memory */
void close_steal(struct steal *s);
int64_t steal_tick_ns(const struct steal *s); /* the kernel counts in ticks of this length */
void read_steal(struct steal *s);
/*
 * The steal of each CPU between the last two readings, in equal parts to the blocks in between;
 * results[block * n_vcpus + vcpu]. In a block the first vCPU that ended it on the CPU gets the
 * CPU's part, and other ones get 0: the sum is that of the CPUs. UNKNOWN without a CPU.
 */
void share_out_steal(struct steal *s, struct kb_block_result *results, uint32_t n_blocks,
		     uint32_t n_vcpus);

/* histogram.c */
uint32_t histogram_bin(uint32_t cycles);

/* vcpu.c */
void *run_vcpu(void *thread);
void install_handler(int signal, struct sigaction *before); /* of the process; hooks' handlers */
void identify_thread(struct vcpu_thread *t);		    /* the calling thread runs the vCPU */
void become_vcpu(struct vcpu_thread *t);		    /* it has the vCPU's mask and handler */
void foreign_signal_handler(int signal);

/* accesses.c */
/* After a block with so many exits, warm-up included; and when the block's protocol has left. */
void note_accesses(struct vcpu_thread *t, uint64_t exits, struct kb_block_result *r);
void compare_accesses(struct vcpu_thread *t);

/* memory.c */
void *allocate(struct kb_engine *e, size_t bytes);
void *allocate_touched(size_t bytes);
size_t scratch_bytes(const struct kb_engine *e);
size_t histograms_bytes(const struct kb_engine *e);

/* engine.c */
struct kb_engine *
new_engine(const struct kb_config *config); /* without a thread; NULL: no memory */
void init_vcpu(struct kb_engine *e, struct vcpu_thread *t, const struct kb_config *config,
	       const struct kb_vcpu_config *vcpu);

/* kickers.c */
bool allocate_kickers(struct kb_engine *e, const struct kb_config *config);
bool create_timers(struct kb_engine *e, struct kb_kicker *k);
bool start_kickers(struct kb_engine *e, const struct kb_config *config);
void release_kickers(struct kb_engine *e);

/* noise.c */
bool start_noise(struct kb_engine *e, const struct kb_config *config);
bool noise_comes(struct kb_engine *e);
void note_noise(struct kb_engine *e);
void release_noise(struct kb_engine *e);

/* patterns.c */
uint64_t random_gap(uint64_t *state, uint64_t mean);
void kick_in_block(struct kb_engine *e, uint32_t index);

/* kick.c */
void begin_kick(struct kicker_thread *t, const struct vcpu_thread *vcpu);
void end_kick(struct kicker_thread *t);
void send_kick(struct kick_in_flight *k);
bool wait_taken(struct kick_in_flight *k, bool *lost, uint32_t *rescues);
bool kick_once(struct kick_in_flight *k, bool met);

/* look.c */
bool in_kvm_run(const struct vcpu_thread *t);
bool is_in_state(struct vcpu_thread *t, uint32_t state);
bool still_runs(const struct vcpu_thread *t);

/* waiting.c */
void doze(void);
void relax(const struct kb_engine *e, unsigned int *spins);
void wait_until(const struct kb_engine *e, const struct vcpu_thread *t, uint64_t until);
void sleep_until(const struct kb_engine *e, const struct vcpu_thread *t, uint64_t until);

/* stopper.c */
bool start_stopper(struct kb_engine *e);
bool stop_vcpus(struct kb_engine *e);
void quit_stopper(struct kb_engine *e);

/* stuck.c */
bool wait_for_kicks(struct kb_engine *e, atomic_uint *pending, const struct kicker_thread *threads,
		    uint32_t n, int64_t max_ns);
bool note_failed_kick(struct kb_engine *e);
bool give_up(struct kb_engine *e, bool vcpus_were_told);

/* cpus.c: 0 or an errno. A thread without CPUs of its own has those of its creator. */
int start_thread(pthread_t *thread, const int32_t *cpus, uint32_t n_cpus, void *(*run)(void *),
		 void *arg);
/*
 * Lets the calling thread run on these CPUs alone, so that what it touches first and what the
 * kernel allocates for it are on their node; stand_back() undoes it.
 */
int stand_on(const int32_t *cpus, uint32_t n_cpus, union cpus *before);
void stand_back(const union cpus *before);

#endif
