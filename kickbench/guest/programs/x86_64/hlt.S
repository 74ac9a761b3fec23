/* SPDX-License-Identifier: Apache-2.0 */
/* Halts. Without an in-kernel irqchip KVM_RUN returns KVM_EXIT_HLT; with one it sleeps inside. */
	.macro	SETUP
	.endm
	.macro	EXIT
	hlt
	.endm
#include "program.inc"
