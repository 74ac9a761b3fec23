/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gvisor: gVisor's platform KVM, as it bounces a vCPU out of its guest: the first half.
 *
 * The bounce marks the vCPU's state with a waiter and sends its signal, which is blocked outside
 * KVM_RUN. After EINTR the loop consumes one signal with rt_sigtimedwait(). If there was none, it
 * enters KVM_RUN again. It never reads the state before KVM_RUN.
 *
 * Source: https://github.com/google/gvisor, pkg/sentry/platform/kvm at 0143858c6569
 * (bluepill_unsafe.go: bluepillHandler; machine.go: bounce).
 * Left out: the second half. There the thread then injects an interrupt, and the guest answers by
 * an exit of its own. Here the kick ends when the thread has seen the signal. Also, that the bounce
 * sends again while there is no memory for a signal (EAGAIN), and none to a vCPU that is not in
 * the guest.
 *
 * Expected: no kick is lost. Each exit pays for the two changes of the mask in KVM_RUN.
 */
#include "blocked.h"

static inline bool kb_before_run(struct kb_vcpu *v)
{
	(void)v;
	return false;
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && eat_one(v) && kb_kick_requested(v);
}

#define KB_PROTOCOL gvisor
#include <kickbench/loop.h>
