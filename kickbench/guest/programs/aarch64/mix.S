/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Takes one exit after another of a table that all vCPUs share, each vCPU from a place of its own.
 * The table is machine code (kickbench/arch/aarch64.py), so that an exit costs one branch. At full
 * speed the code of the exits follows one another, and the last jumps to the first. A paced guest
 * jumps to each exit, in x19, and comes back to x20.
 */
#define HAS_CHOOSE
#include "params.h"

	.macro	CHOOSE
	ldr	w19, [x0, #KB_GUEST_MIX]
	ldr	w4, [x0, #KB_GUEST_MIX_MASK]
	add	w5, w19, #KB_MIX_ENTRY
	and	w5, w5, w4
	str	w5, [x0, #KB_GUEST_MIX]
	adr	x20, done
	.endm

	.macro	SETUP
	.endm

	.macro	EXIT
#ifdef PACED
	br	x19
done:
#else
	ldr	w1, [x0, #KB_GUEST_MIX]
	br	x1
#endif
	.endm
#include "program.inc"
