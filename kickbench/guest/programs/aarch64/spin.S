/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts, and never leaves by itself. It masks interrupts, as all these guests do: the host's own
 * interrupts end the guest all the same (Arm ARM, HCR_EL2.IMO).
 */
#include "params.h"

	.text
	.globl _start
_start:
	ldr	w1, [x0, #KB_GUEST_HEARTBEAT]
	add	w1, w1, #1
	str	w1, [x0, #KB_GUEST_HEARTBEAT]
	b	_start
