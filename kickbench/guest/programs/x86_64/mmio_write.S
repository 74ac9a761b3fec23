/* SPDX-License-Identifier: Apache-2.0 */
/* Writes four bytes at an address that no memory slot covers. */
	.macro	SETUP
	mov	$0xe0000000, %edx
	.endm
	.macro	EXIT
	mov	%eax, (%edx)
	.endm
#include "program.inc"
