/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hypercall that KVM answers at once: KVM_HC_VAPIC_POLL_IRQ, which does nothing
 * (include/uapi/linux/kvm_para.h). On AMD KVM replaces the instruction by VMMCALL.
 */
	.macro	SETUP
	mov	$1, %eax
	.endm
	.macro	EXIT
	vmcall
	.endm
#include "program.inc"
