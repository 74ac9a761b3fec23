/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_10_1: QEMU 2.9 to 10.1 on KVM, as it pauses a vCPU.
 *
 * cpu_pause() sets cpu->stop and sends SIG_IPI, whose handler sets run->immediate_exit.
 * kvm_cpu_exec() does not look at cpu->stop: the loop only ends when KVM_RUN was interrupted. Then
 * kvm_eat_signals() clears the byte, and the thread's outer loop reads cpu->stop. A signal that
 * comes in user space makes the next KVM_RUN complete the pending I/O and return, so that no
 * kb_finish_exit is needed.
 *
 * Sources: https://gitlab.com/qemu-project/qemu, accel/kvm/kvm-all.c at 0021c4765a6b (kvm_cpu_exec,
 * kvm_eat_signals, kvm_ipi_signal), and cpu_pause() as commit f8217ae54e4c found it. The patch for
 * 2.9 is 20170227124551.8673-14-pbonzini@redhat.com on qemu-devel.
 * Left out: cpu->thread_kicked, which spares a second signal while one is on its way, and
 * cpu->exit_request, which a pause does not set in these versions.
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

#define KB_PROTOCOL qemu_10_1
#include <kickbench/loop.h>
