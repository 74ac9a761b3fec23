/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A locked addition to four bytes on two cache lines. The CPU locks the bus, or traps
 * (Documentation/arch/x86/buslock.rst), and a hypervisor that emulates the guest emulates this.
 */
#include "params.h"

	.macro	SETUP
	.endm
	.macro	EXIT
	lock incl	KB_GUEST_SPLIT(%esi)
	.endm
#include "program.inc"
