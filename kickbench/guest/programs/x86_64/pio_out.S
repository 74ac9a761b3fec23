/* SPDX-License-Identifier: Apache-2.0 */
/* Writes one byte to the POST port. */
	.macro	SETUP
	mov	$0x80, %edx
	.endm
	.macro	EXIT
	out	%al, %dx
	.endm
#include "program.inc"
