/* SPDX-License-Identifier: Apache-2.0 */
/*
 * firecracker_1_13: Firecracker 1.8 to 1.13, as it sends a vCPU an event.
 *
 * VcpuHandle::send_event() puts the event into a channel, then sends a signal. The handler finds
 * kvm_run in thread-local storage and sets immediate_exit. Before KVM_RUN the loop looks at the
 * byte: if it is set, the loop clears it and reads the channel without KVM_RUN. After EINTR it does
 * the same. It reads the channel at no other time.
 *
 * The pause is answered there, whether or not I/O is pending: there is no kb_finish_exit.
 *
 * Sources: https://github.com/firecracker-microvm/firecracker, src/vmm/src/vstate/vcpu.rs at
 * v1.13.0 (run_emulation, register_kick_signal_handler), pull request 1410 (2019, the handler) and
 * commit 32cfc5e8d (2024, the look before KVM_RUN).
 *
 * Expected: no kick is lost.
 */
#include "handled.h"

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return __atomic_load_n(&v->run->immediate_exit, __ATOMIC_RELAXED) && clear_and_read(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && clear_and_read(v);
}

#define KB_PROTOCOL firecracker_1_13
#include <kickbench/loop.h>
