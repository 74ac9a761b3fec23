/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads memory that is private to the guest. It has none, so each read ends KVM_RUN, and the next
 * KVM_RUN begins with the same read.
 */
#include "params.h"

	.code32
	.text
	.globl _start
_start:
	mov	KB_GUEST_PRIVATE, %eax
	jmp	_start
