/* SPDX-License-Identifier: Apache-2.0 */
/* Never runs: KVM_RUN returns before the guest, because run->immediate_exit is set. */
	.text
	.globl _start
_start:
	b	_start
