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

	sigemptyset(&kick);
	sigaddset(&kick, v->signal);
	pthread_sigmask(SIG_BLOCK, &kick, &inside);
	sigdelset(&inside, v->signal);
	return kb_set_signal_mask(v, &inside);
}

static void kb_leave(struct kb_vcpu *v)
{
	sigset_t kick;

	kb_set_signal_mask(v, NULL);
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

/* The blocked signal is pending in KVM_RUN. A kicker's signal that is pending is eaten with it. */
static int kb_finish_exit(struct kb_vcpu *v)
{
	int error;

	if (syscall(SYS_tgkill, v->kickers[KB_CONDUCTOR].pid, v->tid, v->signal))
		return -errno;
	error = kb_complete_io(v);
	eat_signal(v);
	return error;
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}

#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL sigmask
#include <kickbench/loop.h>
