/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes one exit after another of a table that all vCPUs share, each vCPU from a place of its own.
 * The table is machine code (kickbench/arch/x86_64.py): to look the exits up here would need many
 * instructions, which are slow where KVM emulates the guest. At full speed the code of the exits
 * follows one another, and the last jumps to the first. A paced guest calls each exit, in %edi, and
 * comes back to %ecx.
 */
#define HAS_CHOOSE
#include "params.h"

	.macro	CHOOSE
	mov	KB_GUEST_MIX(%esi), %edi
	lea	KB_MIX_ENTRY(%edi), %ecx
	and	KB_GUEST_MIX_MASK(%esi), %ecx
	mov	%ecx, KB_GUEST_MIX(%esi)
	mov	$KB_GUEST_ENTRY + done - _start, %ecx
	.endm

	.macro	SETUP
	.endm

	.macro	EXIT
#ifdef PACED
	jmp	*%edi
done:
#else
	jmp	*KB_GUEST_MIX(%esi)
#endif
	.endm
#include "program.inc"
