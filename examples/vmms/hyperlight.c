/* SPDX-License-Identifier: Apache-2.0 */
/*
 * hyperlight: Hyperlight on KVM, as it cancels a guest call (InterruptHandle::kill).
 *
 * kill() sets a cancel bit. While the vCPU runs and the bit is set, it sends a signal and sleeps
 * for 500 us. The handler does nothing. The vCPU's thread reads the bit before KVM_RUN and after
 * it. A signal that lands between the look and KVM_RUN has no effect: the next one has, 500 us
 * later.
 *
 * Sources: https://github.com/hyperlight-dev/hyperlight, docs/cancellation.md and
 * src/hyperlight_host/src/hypervisor/mod.rs at cfa020441d88 (common_kill), pull requests 533 and
 * 1024 (2025).
 * Left out: the running bit, which the thread sets before each KVM_RUN and clears after it. To
 * clear it after the guest's own exits, the loop would need a hook there.
 *
 * Expected: no kick is lost, and in a race with a wide window nearly every aimed kick is sent
 * again.
 */
#include "resending.h"

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	int error = 0;

	kb_request_kick(v, k);
	while (!error && is_unanswered(v, k)) {
		error = kb_send_signal(v, k);
		sleep_us(500);
	}
	return error;
}

#define KB_PROTOCOL hyperlight
#include <kickbench/loop.h>
