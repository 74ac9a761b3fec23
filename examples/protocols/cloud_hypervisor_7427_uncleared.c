/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cloud_hypervisor_7427_uncleared: the second half of the bug of Cloud Hypervisor's issue 7427
 * (2025): "we are not clearing immediate_exit on -EINTR".
 * https://github.com/cloud-hypervisor/cloud-hypervisor/issues/7427
 *
 * The handler sets run->immediate_exit, as it should, so that no kick is lost any more. But nobody
 * clears it when KVM_RUN has returned EINTR. KVM only reads the byte, it does not reset it: from
 * the first kick on every KVM_RUN returns at once, and the guest makes no progress.
 *
 * Expected: no kick is lost. A protocol that loses nothing is not right yet: where kicks leave it
 * time (kind "kick", state "guest"), spurious exits (EINTR with no kick pending) without end, and
 * hardly a kick that finds its vCPU in the guest.
 */
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v)
{
	kb_set_immediate_exit(v, 0);
	return 0;
}

/* Or the next protocol on this vCPU would inherit the byte. */
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
	/* the bug: run->immediate_exit stays 1 */
	return error && kb_kick_requested(v);
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

#define KB_PROTOCOL cloud_hypervisor_7427_uncleared
#include <kickbench/loop.h>
