/* SPDX-License-Identifier: Apache-2.0 */
/* Writes four bytes at an address that no memory slot covers. */
	.macro	SETUP
	mov	x1, #0xe0000000
	.endm
	.macro	EXIT
	str	w2, [x1]
	.endm
#include "program.inc"
