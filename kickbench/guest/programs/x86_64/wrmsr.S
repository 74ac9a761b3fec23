/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writes IA32_BIOS_SIGN_ID: no guest has it without KVM, which ignores what the guest writes
 * (kvm_set_msr_common() in arch/x86/kvm/x86.c).
 */
	.macro	SETUP
	mov	$0x8b, %ecx
	xor	%eax, %eax
	xor	%edx, %edx
	.endm
	.macro	EXIT
	wrmsr
	.endm
#include "program.inc"
