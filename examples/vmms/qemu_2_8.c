/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_2_8: QEMU before 2.9 on KVM, and later versions on kernels without KVM_CAP_IMMEDIATE_EXIT,
 * as it pauses a vCPU.
 *
 * The pause sets cpu->stop and sends SIG_IPI, which is blocked outside KVM_RUN. KVM_RUN returns
 * EINTR, kvm_eat_signals() consumes the signal and asks sigpending() whether there is another one.
 * Then the thread's outer loop reads cpu->stop. The loop around KVM_RUN does not. A signal that
 * comes in user space makes the next KVM_RUN complete the pending I/O and return, so that no
 * kb_finish_exit is needed.
 *
 * Source: https://gitlab.com/qemu-project/qemu, accel/kvm/kvm-all.c at 0021c4765a6b
 * (kvm_init_cpu_signals, kvm_eat_signals: what they do if kvm_immediate_exit is false).
 * Left out: cpu->thread_kicked, which spares a second signal while one is on its way, and
 * cpu->exit_request, which a pause does not set in these versions.
 *
 * Expected: no kick is lost. Each exit pays for the two changes of the mask in KVM_RUN.
 */
#include "blocked.h"

static inline bool kb_before_run(struct kb_vcpu *v)
{
	(void)v;
	return false;
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	sigset_t pending;

	if (!error)
		return false;
	do {
		eat_one(v);
		sigpending(&pending);
	} while (sigismember(&pending, v->signal) == 1);
	return kb_kick_requested(v);
}

#define KB_PROTOCOL qemu_2_8
#include <kickbench/loop.h>
