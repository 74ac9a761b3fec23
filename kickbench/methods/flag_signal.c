/* SPDX-License-Identifier: Apache-2.0 */
/*
 * flag_signal: a flag, and a signal whose handler does nothing.
 *
 * A signal that lands after the flag was read and before KVM_RUN is entered has no effect on
 * KVM_RUN, and the flag is not read again until the guest exits by itself: the kick is lost. It is
 * the race that KVM_SET_SIGNAL_MASK and immediate_exit were made for; kept as negative control.
 *
 * There is no kb_finish_exit either: nothing but a signal in KVM_RUN ends it, and one that the
 * thread sends itself before is gone when KVM_RUN is entered. A kick that is seen before KVM_RUN is
 * taken with the guest's last PIO or MMIO not completed.
 */
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v)
{
	(void)v;
	return 0;
}

static void kb_leave(struct kb_vcpu *v)
{
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

#define KB_PROTOCOL flag_signal
#include <kickbench/loop.h>
