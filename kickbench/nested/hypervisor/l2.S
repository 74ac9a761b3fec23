/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L2: a page of code of its own, with its own stack and IDT. It has two programs, each once with
 * either vendor's hypercall, and one handler. None uses a general register.
 */
	.section .l2, "ax"
	.balign	4096

	.macro PROGRAMS vendor, instruction
	.globl	l2_call_\vendor, l2_spin_\vendor
l2_call_\vendor:
	\instruction
	jmp	l2_call_\vendor
l2_spin_\vendor:
	incq	l2_work
	cmpl	$0, l2_stop
	je	l2_spin_\vendor
	jmp	l2_call_\vendor
	.endm

	PROGRAMS svm, vmmcall
	PROGRAMS vmx, vmcall

	.globl l2_handler
l2_handler:
	incl	l2_delivered
	iretq

	.globl l2_fault
l2_fault:
	lidt	no_idt
	ud2

	.section .l2_data, "aw"
	.balign	4096
	.globl l2_work, l2_delivered, l2_stop, l2_idt_register, l2_stack_end
l2_work:
	.quad	0
l2_delivered:
	.long	0
l2_stop:
	.long	0
no_idt:
	.word	0
	.quad	0
	.balign	16
	.skip	2048
l2_stack_end:

	.section .note.GNU-stack, "", @progbits
