/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crosvm: crosvm on Linux, as it sends a vCPU a message (VcpuControl).
 *
 * kick_all_vcpus() puts the message into the vCPU's channel, then sends a signal. The handler finds
 * the vCPU in thread-local storage and sets its run->immediate_exit. The loop reads the channel
 * only when KVM_RUN was interrupted: it clears the byte, and comes round to the channel. To the
 * hooks it is the same loop as qemu_10_1.
 *
 * Source: https://github.com/google/crosvm, src/crosvm/sys/linux/vcpu.rs at 03b88b64c396
 * (setup_vcpu_signal_handler, vcpu_loop, kick_all_vcpus).
 * Left out: kick_halted_vcpus(), for interrupt controllers in user space.
 *
 * Expected: no kick is lost.
 */
#include "handled.h"

static inline bool kb_before_run(struct kb_vcpu *v)
{
	(void)v;
	return false;
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && clear_and_read(v);
}

#define KB_PROTOCOL crosvm
#include <kickbench/loop.h>
