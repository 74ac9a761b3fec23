/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What these loops share: a flag that is read before KVM_RUN, and a signal whose handler does
 * nothing. A signal that lands between the flag and KVM_RUN has no effect. A VMM's own file says
 * how it kicks.
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
