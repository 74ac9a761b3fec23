/* SPDX-License-Identifier: Apache-2.0 */
/*
 * L1's beginning, its interrupt handlers, and the entry to L2 with a stamp on each side. It is
 * started in 64-bit mode with paging on (kickbench/nested/guest.py makes the tables). L2 uses no
 * general register, so none is saved or restored around an entry.
 */
#include "selectors.h"

	.section .start, "ax"
	.globl _start
_start:
	lea	stack_end(%rip), %rsp
	lgdt	gdt_register(%rip)
	call	main
	ud2

	.text

/* The TSC into 8 bytes of memory; uses %rax and %rdx. */
	.macro STAMP where:vararg
	rdtsc
	shl	$32, %rdx
	or	%rdx, %rax
	mov	%rax, \where
	.endm

/*
 * svm_enter(exit, vmcb). With GIF clear, interrupts can be enabled without being taken: with
 * V_INTR_MASKING it is L1's IF that says whether one makes L2 exit (APM volume 2, 15.21.1), and
 * it then stays pending until GIF and IF are set (15.17).
 */
	.globl svm_enter
svm_enter:
	mov	%rsi, %rcx
	clgi
	sti
	STAMP	0(%rdi)
	mov	%rcx, %rax
	vmrun	%rax
	STAMP	8(%rdi)
	cli
	stgi
	ret

/*
 * vmx_enter(exit, launched): 0 after an exit, 1 when the entry failed with an error number
 * (VMfailValid), 2 when it failed without (VMfailInvalid). An exit clears IF (SDM volume 3, loading
 * host RFLAGS), and without "acknowledge interrupt on exit" the interrupt stays pending.
 */
	.globl vmx_enter, vmx_exit
vmx_enter:
	mov	$0x6c14, %eax		/* HOST_RSP */
	vmwrite	%rsp, %rax
	test	%sil, %sil		/* a bool: the rest of ESI is anything */
	jz	1f
	STAMP	0(%rdi)
	vmresume
	jmp	2f
1:	STAMP	0(%rdi)
	vmlaunch
2:	mov	$1, %eax		/* MOV leaves CF alone */
	adc	$0, %eax
	ret
vmx_exit:
	STAMP	8(%rdi)
	xor	%eax, %eax
	ret

/* -- Interrupts and exceptions of L1 ----------------------------------------------------------- */

	.globl interrupt_entry
interrupt_entry:
	push	%rax
	push	%rcx
	push	%rdx
	incl	interrupts(%rip)
	mov	$0x80b, %ecx		/* x2APIC: end of interrupt */
	xor	%eax, %eax
	xor	%edx, %edx
	wrmsr
	pop	%rdx
	pop	%rcx
	pop	%rax
	iretq

	.altmacro
	.macro EXCEPTION vector
	.balign	16
exception_\vector:
	/* The vectors that push an error code: APM volume 2, table 8-1. */
	.if	!(\vector == 8 || (\vector >= 10 && \vector <= 14) || \vector == 17 || \vector == 21)
	push	$0
	.endif
	push	$\vector
	jmp	exception
	.endm

	.macro ENTRY_OF vector
	.quad	exception_\vector
	.endm

	.set	number, 0
	.rept	32
	EXCEPTION %number
	.set	number, number + 1
	.endr

exception:
	pop	%rdi			/* vector, error code, RIP */
	pop	%rsi
	pop	%rdx
	call	on_exception
	ud2

	.section .rodata
	.balign	8
	.globl exception_entries
exception_entries:
	.set	number, 0
	.rept	32
	ENTRY_OF %number
	.set	number, number + 1
	.endr

	.data
	.balign	8
gdt:
	.quad	0
	.quad	0x00af9b000000ffff	/* CODE_SELECTOR: 64-bit code */
	.quad	0x00cf93000000ffff	/* DATA_SELECTOR */
gdt_end:
	.globl gdt_register
gdt_register:
	.word	gdt_end - gdt - 1
	.quad	gdt

	.bss
	.globl interrupts
	.balign	4
interrupts:
	.skip	4
	.balign	16
	.skip	16384
stack_end:

	.section .note.GNU-stack, "", @progbits
