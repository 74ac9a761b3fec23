/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cloud_hypervisor_7427_fixed: cloud_hypervisor_7427 with both halves of its bug mended, the way
 * the issue describes and KVM's documentation recommends (Documentation/virt/kvm/api.rst,
 * immediate_exit).
 *
 * 1. The handler sets run->immediate_exit. KVM_RUN reads it on entry: a signal that lands after
 *    the flag was read makes that KVM_RUN return EINTR at once.
 * 2. After EINTR the byte is cleared, and the flag is read after that. In this order a kick between
 *    the two sets the byte again: one spurious exit, no lost kick. The other way round the clear
 *    could wipe out a kick that the flag did not show yet.
 *
 * Expected: no kick is lost, and hardly a spurious exit.
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

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	if (!error)
		return false;
	kb_set_immediate_exit(v, 0);
	return kb_kick_requested(v);
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

#define KB_PROTOCOL cloud_hypervisor_7427_fixed
#include <kickbench/loop.h>
