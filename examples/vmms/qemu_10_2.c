/* SPDX-License-Identifier: Apache-2.0 */
/*
 * qemu_10_2: QEMU since 10.2 on KVM, as it pauses a vCPU.
 *
 * As qemu_10_1, but cpu_pause() calls cpu_exit(), which sets cpu->exit_request with release before
 * it sends SIG_IPI. kvm_cpu_exec() reads the flag with acquire before each KVM_RUN. If it is set,
 * the thread sets run->immediate_exit itself and enters KVM_RUN all the same: KVM completes the
 * pending I/O and returns. qemu_process_cpu_events() clears the flag, not kvm_cpu_exec().
 *
 * Sources: https://gitlab.com/qemu-project/qemu, commits ac6c8a390b45 (release and acquire),
 * f8217ae54e4c (cpu_pause calls cpu_exit) and 9a191d3782d7 (who clears the flag), September 2025.
 * Left out: cpu->thread_kicked, which spares a second signal while one is on its way.
 *
 * Expected: no kick is lost. A kick that is seen in user space costs one more KVM_RUN.
 */
#include "handled.h"

static inline bool kb_before_run(struct kb_vcpu *v)
{
	if (KB_LIKELY(!kb_kick_requested(v)))
		return false;
	kb_set_immediate_exit(v, 1);
	kb_complete_io(v);
	return clear_and_read(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return error && clear_and_read(v);
}

#define KB_PROTOCOL qemu_10_2
#include <kickbench/loop.h>
