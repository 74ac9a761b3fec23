/* SPDX-License-Identifier: Apache-2.0 */
/*
 * cloud_hypervisor_50: Cloud Hypervisor since 50.0, as it pauses its vCPUs.
 *
 * The loop is that of ../protocols/cloud_hypervisor_7427.c: a flag that is read before KVM_RUN, and
 * a signal whose handler does nothing. The pause looks every millisecond whether the vCPU has
 * answered, and sends the signal again at every tenth look. A kick that lands between the flag and
 * KVM_RUN is therefore answered 10 ms later. After a second the pause fails.
 *
 * Before it takes a pause, the thread sets run->immediate_exit and enters KVM_RUN once more, so
 * that KVM completes the I/O.
 *
 * Sources: https://github.com/cloud-hypervisor/cloud-hypervisor, issue 7427, pull request 7459
 * (commit e023efce3, 2025), vmm/src/cpu.rs at ae44c2971c83 (wait_until_signal_acknowledged).
 * Left out: the KVM_RUN before a pause when no I/O is pending, and that the first signals go to all
 * vCPUs before it waits for one of them.
 * Two other mends were proposed and not merged: pull request 7428 is
 * ../protocols/cloud_hypervisor_7427_fixed.c, and 7455 is cloud_hypervisor_7455.c.
 *
 * Expected: no kick is lost, and in a race with a wide window nearly every aimed kick is sent
 * again.
 */
#include "resending.h"

static int kb_finish_exit(struct kb_vcpu *v)
{
	int error;

	kb_set_immediate_exit(v, 1);
	error = kb_complete_io(v);
	kb_set_immediate_exit(v, 0);
	return error;
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	int error;

	kb_request_kick(v, k);
	error = kb_send_signal(v, k);
	/* There the pause fails after a second. Here the engine waits on, and judges. */
	for (int looks = 1; !error && looks < 1000 && is_unanswered(v, k); looks++) {
		sleep_us(1000);
		if (looks % 10 == 0)
			error = kb_send_signal(v, k);
	}
	return error;
}

#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL cloud_hypervisor_50
#include <kickbench/loop.h>
