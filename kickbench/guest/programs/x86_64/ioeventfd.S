/* SPDX-License-Identifier: Apache-2.0 */
/* Writes one byte to a port that KVM turns into a write to an eventfd (KVM_IOEVENTFD). */
#include "params.h"

	.macro	SETUP
	mov	$KB_GUEST_IOEVENTFD, %edx
	.endm
	.macro	EXIT
	out	%al, %dx
	.endm
#include "program.inc"
