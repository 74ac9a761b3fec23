/* SPDX-License-Identifier: Apache-2.0 */
/* Reads the ACPI PM timer, as a Windows guest without the Hyper-V reference counter does. */
	.macro	SETUP
	mov	$0x608, %edx
	.endm
	.macro	EXIT
	in	%dx, %eax
	.endm
#include "program.inc"
