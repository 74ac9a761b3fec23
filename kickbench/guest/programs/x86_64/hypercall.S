/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hypercall that KVM hands to user space: KVM_HC_MAP_GPA_RANGE, of two pages from 0 on
 * (Documentation/virt/kvm/x86/hypercalls.rst). On AMD KVM replaces the instruction by VMMCALL. Its
 * result is in EAX. ECX is the number of pages, and a LOOP that follows finds one left.
 */
	.macro	SETUP
	xor	%ebx, %ebx
	xor	%edx, %edx
	.endm
	.macro	EXIT
	mov	$12, %eax
	mov	$2, %ecx
	vmcall
	.endm
#include "program.inc"
