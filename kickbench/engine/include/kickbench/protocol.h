/* SPDX-License-Identifier: Apache-2.0 */
/* clang-format off */
/*
 * What a kick protocol sees of the engine, and the hooks it fills in.
 *
 * A protocol is one C file. It includes this header, defines the six hooks below as static
 * functions, and ends with
 *
 *	#define KB_PROTOCOL name
 *	#include <kickbench/loop.h>
 *
 * which stamps out the hot loop with the hooks inlined, so that nothing is dispatched between two
 * KVM_RUNs, and exports `struct kb_protocol kb_protocol_name`.
 *
 *	int  kb_enter(struct kb_vcpu *)       the thread begins to use the protocol; 0 or -errno
 *	                                      a kick may have come before: its flag stays set
 *	void kb_leave(struct kb_vcpu *)       it stops using it; no kick is on its way any more
 *	bool kb_before_run(struct kb_vcpu *)  true: a kick is pending, do not enter KVM_RUN
 *	bool kb_after_run(struct kb_vcpu *, int error)
 *	                                      KVM_RUN failed with `error` (EINTR), or returned for a
 *	                                      reason (error 0) that is not the guest's own exit;
 *	                                      true: a kick was pending
 *	void kb_handler(struct kb_vcpu *)     in the handler of the kick signal, in the vCPU's thread
 *	int  kb_kick(struct kb_vcpu *, struct kb_kicker *)
 *	                                      in the kicker's thread; 0 or -errno
 *
 * One hook is optional: a file that has it says #define KB_HAS_FINISH_EXIT before loop.h.
 *
 *	int  kb_finish_exit(struct kb_vcpu *) a kick was seen before KVM_RUN, and the guest's exit
 *	                                      before was PIO or MMIO: KVM_RUN that completes it, see
 *	                                      kb_complete_io(); 0 or -errno. Kick loop only.
 *
 * The window in which a kick can be lost is taken to lie between kb_before_run and KVM_RUN. A
 * protocol that has it elsewhere calls kb_window() there, and defines KB_WINDOW_IN_HOOK.
 */
/* clang-format on */
#ifndef KICKBENCH_PROTOCOL_H
#define KICKBENCH_PROTOCOL_H

#include <errno.h>
#include <kickbench/arch/current.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define KB_EXPORT      __attribute__((visibility("default")))
#define KB_LIKELY(x)   __builtin_expect(!!(x), 1)
#define KB_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* Kicking threads have a bit each in kick_requested; the last is the conductor's, who ends blocks.
 */
#define KB_MAX_KICKERS 31
#define KB_CONDUCTOR   KB_MAX_KICKERS

enum kb_transport {
	KB_TGKILL, /* tgkill(2) */
	KB_PIDFD,  /* pidfd_send_signal(2) on a PIDFD_THREAD descriptor, Linux 6.9 */
	KB_TIMER,  /* timer_create(2) with SIGEV_THREAD_ID, due at once */
};

/* How one kicking thread reaches one vCPU. */
struct kb_target {
	timer_t timer;
	int exitfd;	   /* -1: there is none */
	uint32_t requests; /* times that the kicker's bit went up: it is taken as often */
	uint32_t signals;  /* sent so far, by kb_send_signal */
};

/* One kicking thread. */
struct kb_kicker {
	uint32_t index;
	enum kb_transport transport;
	pid_t pid;		   /* of the process */
	struct kb_target *targets; /* by the vCPU's index */
};

/* What a kicker waits for: the vCPU's thread saying that it has taken the kick. */
struct kb_ack {
	_Alignas(KB_CACHE_LINE) atomic_uint taken; /* kicks of this kicker so far */
	uint64_t taken_at;			   /* clock: the protocol knew of the kick */
	uint64_t returned_at; /* clock: KVM_RUN's return; 0: the flag was seen without it */
	uint64_t handler_at;  /* clock: the last run of the signal handler */
	uint64_t free_at;     /* clock: the end of the kick loop's own time in user space before */
	uint64_t resumed_after; /* of the kick before: from taken to the guest; 0: not seen */
	bool landed;		/* it came between the look at the flag and the guest */
};

/* One vCPU and its thread, as far as protocols and the loops are concerned. */
struct kb_vcpu {
	/* The flag of the flag-based protocols, a bit for each kicker, alone on its line. */
	_Alignas(KB_CACHE_LINE) atomic_uint kick_requested;

	/* What kickers watch, to aim and to know the vCPU's state. */
	_Alignas(KB_CACHE_LINE) atomic_uint turn; /* goes up when a kick may be aimed */
	atomic_uint exit_count;			  /* exits of the guest in a kick block */
	atomic_uint runs;			  /* odd: the kick loop is in KVM_RUN */
	atomic_bool nudged;			  /* a signal that is no kick brings it round */
	atomic_bool in_userspace;   /* between two KVM_RUNs, as a device model would be */
	_Atomic uint64_t window_at; /* clock: when the window opened last */

	/* Constant while a block runs; the first line is all that the exit loop reads of it. */
	_Alignas(KB_CACHE_LINE) struct kvm_run *run;
	int fd;			/* of the vCPU */
	uint32_t expected_exit; /* KVM_EXIT_* of the guest program; 0: it never exits */
	uint32_t *samples;	/* cycles between two returns of KVM_RUN; room for ... */
	uint64_t samples_capacity;
	uint64_t record_until; /* the window's end, on the engine's clock, once it has begun */
	bool clock_is_counter;
	uint32_t other_exit; /* KVM_EXIT_* of a program with two kinds of exit; else 0 */
	int signal;	     /* that kicks it */
	pid_t tid;	     /* of its thread */
	int pidfd;	     /* of its thread, or -1 */
	uint32_t index;
	uint32_t n_kickers;	   /* without the conductor, who is kickers[KB_CONDUCTOR] */
	uint64_t userspace_cycles; /* kick loop: spent in user space before each KVM_RUN */
	uint64_t window_cycles;	   /* kick loop: the race window is held open for so long */
	struct kb_ack *acks;	   /* by the kicker's index */
	struct kb_kicker *kickers;

	/* What the loops report. */
	uint64_t window_first;	 /* clock at the beginning of what was recorded */
	uint64_t window_last;	 /* at the window's end, or at the exit that went beyond it */
	uint64_t exits;		 /* in the window */
	uint64_t spurious_exits; /* KVM_RUN gave up with no kick pending */
	uint64_t stalled_cycles; /* from one of them to the next, with no exit between */
	uint64_t spurious_at;	 /* clock: the last of them, 0: none, ... */
	uint64_t spurious_after; /* ... and the exits before it */
	uint64_t early_exits;	 /* exit loop: before the window */
	uint64_t gave_up_after;	 /* exits before the last KVM_RUN without one; ~0: none */
	uint64_t handler_at;	 /* clock: the last run of the signal handler */
	uint64_t entered_at;	 /* clock: KVM_RUN, when `resuming` */
	uint32_t resuming;     /* kickers whose kicks were taken, and the guest has not run since */
	uint32_t migrations;   /* CPU changes seen between two returns */
	bool kicked;	       /* the block ended by a kick, not by the clock */
	int run_error;	       /* errno of a KVM_RUN that failed for good, or 0 */
	bool finish_failed;    /* the same, or another error of kb_finish_exit */
	bool unexpected_exit;  /* run->exit_reason is not the guest program's */
	_Atomic uint8_t doing; /* enum kb_doing, of its thread */
};

/* What a thread does, to report one that hangs. Marked only where nothing is timed. */
enum kb_doing {
	KB_STARTING,
	KB_WAITING, /* for the next step */
	KB_LEAVING, /* the protocol's hooks: kb_leave ... */
	KB_ENTERING,
	KB_IN_LOOP, /* in KVM_RUN or kb_before_run, which the hot loop cannot mark; or waits to kick
		     */
	KB_IN_AFTER_RUN,
	KB_IN_FINISH_EXIT,
	KB_IN_HANDLER,
	KB_KICKING, /* ... to here */
	KB_TAKING,  /* a kick, or paused by it */
	KB_EVALUATING,
};

_Static_assert(offsetof(struct kb_vcpu, clock_is_counter) - offsetof(struct kb_vcpu, run) <
		   KB_CACHE_LINE,
	       "what the exit loop reads is one cache line");

/*
 * The interface proposed in 2015 for kicks without signals, as the lab's kernel patch has it.
 * Released kernels use the proposal's numbers for other ioctls by now. These are free in Linux
 * 6.12's uapi header.
 */
struct kb_user_exit {
	uint8_t reserved[32];
};
#define KB_USER_EXIT	    _IOW(KVMIO, 0xf0, struct kb_user_exit)
#define KB_VCPU_MAKE_EXITFD _IO(KVMIO, 0xf1)
#define KB_EXIT_REQUEST	    240

/*
 * The version of this header that a protocol's library was compiled against. The engine loads no
 * other. Increase it with every change of a structure or a function of this header.
 */
#define KB_PROTOCOL_ABI 6

struct kb_protocol {
	uint32_t abi;	    /* KB_PROTOCOL_ABI */
	uint32_t vcpu_size; /* sizeof(struct kb_vcpu) */
	const char *name;
	int (*enter)(struct kb_vcpu *v);
	void (*leave)(struct kb_vcpu *v);
	void (*handler)(struct kb_vcpu *v);
	int (*kick)(struct kb_vcpu *v, struct kb_kicker *k);
	void (*exit_loop)(struct kb_vcpu *v); /* measures exits; ends by the clock */
	void (*kick_loop)(struct kb_vcpu *v); /* is kicked; ends by a kick of the conductor's */
};

/*
 * Called by the exit loop at each return of KVM_RUN (at `now`) until it is true. Then the window is
 * open, `record_until` is known, and the thread's counters have been sampled. Its first call counts
 * the thread in: a block begins when all its vCPUs run.
 */
KB_EXPORT bool kb_window_opens(struct kb_vcpu *v, uint64_t now);

/* Called by the exit loop when KVM_RUN gave up (at `now`, after `exits`) with no kick pending. */
KB_EXPORT void kb_note_spurious(struct kb_vcpu *v, uint64_t now, uint64_t exits);

/*
 * Called by the loops when the protocol knows that a kick is pending. Answers all kickers whose
 * bits are set; true when the conductor is one of them. `returned_at` is when KVM_RUN returned; 0:
 * the kick was seen without it.
 */
KB_EXPORT bool kb_take_kick(struct kb_vcpu *v, uint64_t returned_at);

/* Called by the kick loop before each look at the flag: announces the window, spends its time. */
KB_EXPORT void kb_come_round(struct kb_vcpu *v);

/* Called by the kick loop when KVM_RUN has returned: notes whether the guest ran meanwhile. */
KB_EXPORT void kb_came_back(struct kb_vcpu *v, int error);

/* Called by the kick loop when KVM_RUN gave up with no kick pending: false after a nudge. */
KB_EXPORT bool kb_is_spurious(struct kb_vcpu *v);

/* -- For the hooks ----------------------------------------------------------------------------- */

/*
 * The flag and what the kicker wrote before it are seen together (release, acquire). The order of
 * the flag against the signal needs no fence: tgkill is a system call that takes siglock, and so
 * is the delivery in the vCPU's thread.
 */
static inline void kb_request_kick(struct kb_vcpu *v, const struct kb_kicker *k)
{
	const uint32_t bit = 1u << k->index;

	if (!(atomic_fetch_or_explicit(&v->kick_requested, bit, memory_order_release) & bit))
		k->targets[v->index].requests++;
}

static inline bool kb_kick_requested(const struct kb_vcpu *v)
{
	return atomic_load_explicit(&v->kick_requested, memory_order_acquire) != 0;
}

/* expected_exit of a vCPU whose KVM_RUN returns before the guest: immediate_exit is set. */
#define KB_BOUNCE UINT32_MAX

#ifndef KVM_EXIT_MEMORY_FAULT
#define KVM_EXIT_MEMORY_FAULT 39 /* Linux 6.8 */
#endif

/*
 * KVM_RUN returned with the second of the guest program's two kinds of exit, or bounced, or
 * faulted: not the way on which the compiler should spend its registers. An exit for a memory fault
 * is an error of KVM_RUN (Documentation/virt/kvm/api.rst, KVM_EXIT_MEMORY_FAULT).
 */
static inline bool kb_is_other_exit(const struct kb_vcpu *v, int error)
{
	if (v->expected_exit == KB_BOUNCE)
		return error == EINTR;
	if (v->expected_exit == KVM_EXIT_MEMORY_FAULT)
		return error == EFAULT && v->run->exit_reason == KVM_EXIT_MEMORY_FAULT;
	return !error && v->other_exit && v->run->exit_reason == v->other_exit;
}

/* KVM_RUN returned with an exit of the guest program's own. */
static inline bool kb_is_own_exit(const struct kb_vcpu *v, int error)
{
	return KB_LIKELY(!error && v->run->exit_reason == v->expected_exit) ||
	       kb_is_other_exit(v, error);
}

/* Only for the vCPU's own thread, and its signal handler. */
static inline void kb_mark(struct kb_vcpu *v, enum kb_doing doing)
{
	atomic_store_explicit(&v->doing, (uint8_t)doing, memory_order_relaxed);
}

/*
 * For kb_leave: a kick of one protocol is not for the next. In kb_enter it would lose the kicks
 * that came while the thread was starting.
 */
static inline void kb_forget_kicks(struct kb_vcpu *v)
{
	atomic_store_explicit(&v->kick_requested, 0, memory_order_relaxed);
}

/* The kick signal, to the vCPU's thread, by the kicker's transport. 0 or -errno. */
static inline int kb_send_signal(const struct kb_vcpu *v, const struct kb_kicker *k)
{
	const struct itimerspec at_once = {.it_value = {0, 1}};
	long result;

	k->targets[v->index].signals++;
	switch (k->transport) {
	case KB_PIDFD:
		result = syscall(SYS_pidfd_send_signal, v->pidfd, v->signal, NULL, 0);
		break;
	case KB_TIMER:
		result = timer_settime(k->targets[v->index].timer, 0, &at_once, NULL);
		break;
	default:
		result = syscall(SYS_tgkill, k->pid, v->tid, v->signal);
		break;
	}
	return result == 0 ? 0 : -errno;
}

/*
 * The byte that KVM_RUN polls on entry. The store is atomic, although the type in the kernel's
 * header is not: the signal handler of this thread, or another thread, writes the byte too. A
 * protocol adds whatever ordering it needs.
 */
static inline void kb_set_immediate_exit(struct kb_vcpu *v, uint8_t value)
{
	__atomic_store_n(&v->run->immediate_exit, value, __ATOMIC_RELAXED);
	atomic_signal_fence(memory_order_seq_cst);
}

/*
 * KVM_RUN that completes the I/O of the exit before and returns, for kb_finish_exit. The caller
 * ensures that it does not run the guest. 0 or -errno; EPROTO: it returned with another exit.
 */
static inline int kb_complete_io(struct kb_vcpu *v)
{
	if (ioctl(v->fd, KVM_RUN, 0) == 0)
		return v->run->exit_reason == KB_EXIT_REQUEST ? 0 : -EPROTO;
	return errno == EINTR ? 0 : -errno;
}

/* The kernel's sigset_t is 64 bits wide, libc's is not (struct kvm_signal_mask.len). */
#define KB_KERNEL_SIGSET_BYTES 8

/* KVM_RUN puts this mask in place while it runs; NULL: it leaves the thread's alone. 0 or -errno.
 */
static inline int kb_set_signal_mask(struct kb_vcpu *v, const sigset_t *set)
{
	union {
		struct kvm_signal_mask mask;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + KB_KERNEL_SIGSET_BYTES];
	} arg = {.mask.len = KB_KERNEL_SIGSET_BYTES};

	if (set)
		memcpy(arg.bytes + offsetof(struct kvm_signal_mask, sigset), set,
		       KB_KERNEL_SIGSET_BYTES);
	return ioctl(v->fd, KVM_SET_SIGNAL_MASK, set ? &arg : NULL) == 0 ? 0 : -errno;
}

/* Holds a widened race window open, and announces it to the kickers. */
KB_EXPORT void kb_hold_window(struct kb_vcpu *v);

static inline void kb_window(struct kb_vcpu *v)
{
	if (v->window_cycles)
		kb_hold_window(v);
}

#endif
