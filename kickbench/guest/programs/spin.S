/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Counts, and never leaves by itself. Without PAUSE: a CPU may leave the guest when it sees many
 * (pause-loop exiting), and an emulator leaves its loop for each.
 */
#include "params.h"

	.code32
	.text
	.globl _start
_start:
1:	incl	KB_GUEST_HEARTBEAT(%esi)
	jmp	1b
