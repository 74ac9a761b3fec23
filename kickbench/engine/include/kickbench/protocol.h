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
 *	void kb_leave(struct kb_vcpu *)       it stops using it; no kick is on its way any more
 *	bool kb_before_run(struct kb_vcpu *)  true: a kick is pending, do not enter KVM_RUN
 *	bool kb_after_run(struct kb_vcpu *, int error)
 *	                                      KVM_RUN failed with `error` (EINTR), or returned for a
 *	                                      reason (error 0) that is not the guest's own exit;
 *	                                      true: a kick was pending
 *	void kb_handler(struct kb_vcpu *)     in the handler of the kick signal, in the vCPU's thread
 *	int  kb_kick(struct kb_vcpu *)        in the kicker's thread; 0 or -errno
 */
/* clang-format on */
#ifndef KICKBENCH_PROTOCOL_H
#define KICKBENCH_PROTOCOL_H

#include <errno.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

#define KB_CACHE_LINE  64
#define KB_EXPORT      __attribute__((visibility("default")))
#define KB_LIKELY(x)   __builtin_expect(!!(x), 1)
#define KB_UNLIKELY(x) __builtin_expect(!!(x), 0)

/* One vCPU and its thread, as far as protocols and the loop are concerned. */
struct kb_vcpu {
	/* The flag of the flag-based protocols, alone on its line: the kicker writes it. */
	_Alignas(KB_CACHE_LINE) atomic_uint kick_requested;

	/* Constant while a block runs. */
	_Alignas(KB_CACHE_LINE) struct kvm_run *run;
	int fd;	    /* of the vCPU */
	int signal; /* that kicks it */
	pid_t tid;  /* of its thread */
	bool clock_is_tsc;
	uint32_t expected_exit; /* KVM_EXIT_* of the guest program; 0: it never exits */
	uint64_t record_from;	/* the window of the block, on the engine's clock */
	uint64_t record_until;
	uint32_t *samples; /* cycles between two returns of KVM_RUN; room for ... */
	uint64_t samples_capacity;

	/* What the loop reports. */
	uint64_t window_first;	 /* clock at the beginning of what was recorded */
	uint64_t window_last;	 /* at the last return of KVM_RUN in the window */
	uint64_t exits;		 /* in the window */
	uint64_t spurious_exits; /* EINTR with no kick pending */
	uint32_t migrations;	 /* CPU changes seen between two returns */
	bool kicked;		 /* the block ended by a kick, not by the clock */
	int run_error;		 /* errno of a KVM_RUN that failed for good, or 0 */
	bool unexpected_exit;	 /* run->exit_reason is not the guest program's */
};

struct kb_protocol {
	const char *name;
	int (*enter)(struct kb_vcpu *v);
	void (*leave)(struct kb_vcpu *v);
	void (*handler)(struct kb_vcpu *v);
	int (*kick)(struct kb_vcpu *v);
	void (*loop)(struct kb_vcpu *v);
};

/* Called by the loop once, when the window opens; it samples the counters of the thread. */
KB_EXPORT void kb_window_opens(struct kb_vcpu *v);

/* -- For the hooks ----------------------------------------------------------------------------- */

/*
 * The flag and what the kicker wrote before it are seen together (release, acquire). The order of
 * the flag against the signal needs no fence: tgkill is a system call that takes siglock, and so
 * is the delivery in the vCPU's thread.
 */
static inline void kb_request_kick(struct kb_vcpu *v)
{
	atomic_store_explicit(&v->kick_requested, 1, memory_order_release);
}

static inline bool kb_kick_requested(const struct kb_vcpu *v)
{
	return atomic_load_explicit(&v->kick_requested, memory_order_acquire) != 0;
}

static inline int kb_send_signal(const struct kb_vcpu *v)
{
	return syscall(SYS_tgkill, getpid(), v->tid, v->signal) == 0 ? 0 : -errno;
}

#endif
