/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cloud_hypervisor_7427: a vCPU loop with the bug of Cloud Hypervisor's issue 7427 (2025), first
 * half: "we are sometimes exiting too late / missing signals".
 * https://github.com/cloud-hypervisor/cloud-hypervisor/issues/7427
 *
 * To pause, the VMM's thread sets a flag and signals the vCPU's thread. The signal's handler is
 * empty: it is only there to make KVM_RUN return EINTR. The vCPU's thread reads the flag at the
 * top of its loop, then calls KVM_RUN. A signal that lands between the two has run its handler by
 * then, and nothing is left that KVM_RUN could see: the pause waits until the guest exits for a
 * reason of its own. A guest that computes, or halts with its APIC in the kernel, need not.
 *
 * What was done about it upstream: the signal is sent again every 10 ms until it is answered (pull
 * request 7459), which hides the loss behind 10 ms of latency. Here it is flag_signal by another
 * name; written out to show how a VMM's own loop becomes a protocol.
 *
 * Expected: in a race with a wide window nearly every aimed kick is lost.
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

/* The top of the loop: if vcpus_pause_signalled { ... park } */
static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

/* EINTR is an exit like any other: back to the top, where the flag is read. */
static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && kb_kick_requested(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v; /* the bug: nothing tells the KVM_RUN to come */
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}

#define KB_PROTOCOL cloud_hypervisor_7427
#include <kickbench/loop.h>
