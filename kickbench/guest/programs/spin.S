/* SPDX-License-Identifier: Apache-2.0 */
/* Counts, and never leaves by itself. */
#include "params.h"

	.code32
	.text
	.globl _start
_start:
1:	incl	KB_GUEST_HEARTBEAT(%esi)
	pause
	jmp	1b
