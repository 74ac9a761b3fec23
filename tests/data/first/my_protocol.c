/* SPDX-License-Identifier: Apache-2.0 */

#include <kickbench/protocol.h>

/* The thread begins to use the protocol: prepare what it needs. 0 or -errno. */
static int kb_enter(struct kb_vcpu *v)
{
	kb_forget_kicks(v);
	kb_set_immediate_exit(v, 0);
	return 0;
}

/* It stops using it, no kick is on its way: leave nothing to the next protocol. */
static void kb_leave(struct kb_vcpu *v)
{
	kb_enter(v);
}

/* The top of the loop. true: a kick is pending, do not enter KVM_RUN. */
static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

/* KVM_RUN failed with `error`, or returned (0) for a reason that is not the guest's own. */
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	if (!error)
		return false;
	kb_set_immediate_exit(v, 0);
	return kb_kick_requested(v);
}

/* The handler of the kick signal, in the vCPU's thread. */
static void kb_handler(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 1);
}

/* In the kicker's thread. 0 or -errno. */
static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}

#define KB_PROTOCOL my_protocol
#include <kickbench/loop.h>
