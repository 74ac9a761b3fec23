/* SPDX-License-Identifier: Apache-2.0 */
/* Reads four bytes at an address that no memory slot covers. */
	.macro	SETUP
	mov	x1, #0xe0000000
	.endm
	.macro	EXIT
	ldr	w2, [x1]
	.endm
#include "program.inc"
