/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What these loops share: the signal's handler, in the vCPU's thread, sets run->immediate_exit. The
 * kicker leaves its message, then sends the signal. A VMM's own file has the two hooks of the loop.
 */
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	return 0;
}

static void kb_leave(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	kb_forget_kicks(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 1);
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}

/* KVM_RUN was interrupted: the byte is cleared first, then the message is read. */
static inline bool clear_and_read(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	return kb_kick_requested(v);
}
