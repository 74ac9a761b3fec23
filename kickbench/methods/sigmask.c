/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sigmask: the signal is blocked in the thread, and KVM_SET_SIGNAL_MASK unblocks it inside KVM_RUN.
 *
 * A signal sent in the window between the flag and KVM_RUN stays pending and ends KVM_RUN at once
 * with EINTR. The price is two changes of the blocked mask in every KVM_RUN, each under
 * tsk->sighand->siglock (virt/kvm/kvm_main.c: kvm_sigset_activate, kvm_sigset_deactivate).
 *
 * The handler never runs: the signal is blocked again when KVM_RUN returns, and still pending; it
 * is eaten with sigtimedwait.
 */
#include <kickbench/protocol.h>

#include <pthread.h>
#include <string.h>

/* The kernel's sigset_t is 64 bits wide, libc's is not (struct kvm_signal_mask.len). */
#define KERNEL_SIGSET_BYTES 8

static int set_signal_mask(struct kb_vcpu *v, const sigset_t *set)
{
	union {
		struct kvm_signal_mask mask;
		uint8_t bytes[sizeof(struct kvm_signal_mask) + KERNEL_SIGSET_BYTES];
	} arg = {.mask.len = KERNEL_SIGSET_BYTES};

	if (set)
		memcpy(arg.bytes + offsetof(struct kvm_signal_mask, sigset), set,
		       KERNEL_SIGSET_BYTES);
	return ioctl(v->fd, KVM_SET_SIGNAL_MASK, set ? &arg : NULL) == 0 ? 0 : -errno;
}

static void eat_signal(struct kb_vcpu *v)
{
	const struct timespec now = {0, 0};
	sigset_t kick;

	sigemptyset(&kick);
	sigaddset(&kick, v->signal);
	while (sigtimedwait(&kick, NULL, &now) > 0)
		;
}

static int kb_enter(struct kb_vcpu *v)
{
	sigset_t kick, inside;

	kb_forget_kicks(v);
	sigemptyset(&kick);
	sigaddset(&kick, v->signal);
	pthread_sigmask(SIG_BLOCK, &kick, &inside);
	sigdelset(&inside, v->signal);
	return set_signal_mask(v, &inside);
}

static void kb_leave(struct kb_vcpu *v)
{
	sigset_t kick;

	set_signal_mask(v, NULL);
	eat_signal(v);
	sigemptyset(&kick);
	sigaddset(&kick, v->signal);
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	kb_forget_kicks(v);
}

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

/* Eat first, then read the flag: a kick between the two leaves its signal pending. */
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	if (!error)
		return false;
	eat_signal(v);
	return kb_kick_requested(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v;
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}

#define KB_PROTOCOL sigmask
#include <kickbench/loop.h>
