/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts, and never leaves by itself. Without PAUSE: a CPU may leave the guest when it sees many
 * (pause-loop exiting), and an emulator leaves its loop for each. Interrupts are enabled, as most of
 * the time in a real guest: Bochs 2.7 does not let the host's interrupt end a guest that disables
 * its own. There are none for this guest.
 */
#include "params.h"

	.code32
	.text
	.globl _start
_start:
	sti
1:	incl	KB_GUEST_HEARTBEAT(%esi)
	jmp	1b
