/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What these loops share: the signal is blocked in the vCPU's thread, and KVM_SET_SIGNAL_MASK
 * unblocks it inside KVM_RUN. It ends KVM_RUN and stays pending: its handler never runs. The kicker
 * leaves its message, then sends the signal. A VMM's own file has the two hooks of the loop.
 */
#include <kickbench/protocol.h>

#include <pthread.h>

static sigset_t kick_signal(const struct kb_vcpu *v)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, v->signal);
	return set;
}

/* Consumes the signal if it is pending: whether it was. */
static bool eat_one(const struct kb_vcpu *v)
{
	const sigset_t kick = kick_signal(v);
	const struct timespec now = {0, 0};

	return sigtimedwait(&kick, NULL, &now) > 0;
}

static int kb_enter(struct kb_vcpu *v)
{
	const sigset_t kick = kick_signal(v);
	sigset_t inside;

	pthread_sigmask(SIG_BLOCK, &kick, &inside);
	sigdelset(&inside, v->signal);
	return kb_set_signal_mask(v, &inside);
}

static void kb_leave(struct kb_vcpu *v)
{
	const sigset_t kick = kick_signal(v);

	kb_set_signal_mask(v, NULL);
	while (eat_one(v))
		;
	pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	kb_forget_kicks(v);
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
