/* SPDX-License-Identifier: Apache-2.0 */
/* CPUID, which a hypervisor must answer: leaf 0. */
	.macro	SETUP
	xor	%eax, %eax
	xor	%ecx, %ecx
	.endm
	.macro	EXIT
	cpuid
	.endm
#include "program.inc"
