/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads IA32_BIOS_SIGN_ID: no guest has it without KVM, and reading it changes nothing
 * (kvm_get_msr_common() in arch/x86/kvm/x86.c).
 */
	.macro	SETUP
	mov	$0x8b, %ecx
	.endm
	.macro	EXIT
	rdmsr
	.endm
#include "program.inc"
