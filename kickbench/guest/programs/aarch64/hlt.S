/* SPDX-License-Identifier: Apache-2.0 */
/* Halts. WFI sleeps inside of KVM_RUN until there is an interrupt, and never leaves by itself. */
	.macro	SETUP
	.endm
	.macro	EXIT
	wfi
	.endm
#include "program.inc"
