/* SPDX-License-Identifier: Apache-2.0 */
/* Never runs: KVM_RUN returns before the guest, because run->immediate_exit is set. */
	.code32
	.text
	.globl _start
_start:
	jmp	_start
