/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads four bytes of a timer, as the ACPI PM timer is read on x86: a stand-in, at an address where
 * arm64 has no port. An arm64 guest reads its own counter, which does not leave.
 */
	.macro	SETUP
	mov	x1, #0xe0000000
	movk	x1, #0x0608
	.endm
	.macro	EXIT
	ldr	w2, [x1]
	.endm
#include "program.inc"
