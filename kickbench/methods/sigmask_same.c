/* SPDX-License-Identifier: Apache-2.0 */
/*
 * sigmask_same: KVM_SET_SIGNAL_MASK with the mask that the thread has anyway. A control of what
 * sigmask costs, not a way to kick.
 *
 * KVM_RUN does with it what it does for sigmask: it copies the mask, sets it on entry and sets the
 * old one on return (virt/kvm/kvm_main.c: kvm_sigset_activate, kvm_sigset_deactivate). It does not
 * take siglock: __set_current_blocked() in kernel/signal.c returns early when the mask does not
 * change (Linux 4.10). So sigmask - sigmask_same is what the two critical sections cost, and
 * sigmask_same - immediate_exit is the rest of what KVM_SET_SIGNAL_MASK costs.
 *
 * The kick is that of flag_signal: the signal is not blocked outside KVM_RUN, its handler does
 * nothing, and a kick in the window between the flag and KVM_RUN is lost.
 *
 * There is no kb_finish_exit either: nothing but a signal in KVM_RUN ends it, and one that the
 * thread sends itself before is gone when KVM_RUN is entered. A kick that is seen before KVM_RUN is
 * taken with the guest's last PIO or MMIO not completed.
 */
#include <kickbench/protocol.h>

#include <pthread.h>

static int kb_enter(struct kb_vcpu *v)
{
	sigset_t own;

	pthread_sigmask(SIG_SETMASK, NULL, &own);
	return kb_set_signal_mask(v, &own);
}

static void kb_leave(struct kb_vcpu *v)
{
	kb_set_signal_mask(v, NULL);
	kb_forget_kicks(v);
}

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && kb_kick_requested(v);
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

#define KB_PROTOCOL sigmask_same
#include <kickbench/loop.h>
