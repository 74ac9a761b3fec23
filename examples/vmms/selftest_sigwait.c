/* SPDX-License-Identifier: Apache-2.0 */
/*
 * selftest_sigwait: the kernel's selftest dirty_log_test, as it stopped its vCPU until 2025.
 *
 * SIG_IPI is blocked outside KVM_RUN. The loop reads host_quit, then calls KVM_RUN. After EINTR it
 * takes the signal with sigwait(), which would sleep if there was none: there always is one, since
 * no other signal gets through.
 *
 * Sources: https://git.kernel.org/pub/scm/linux/kernel/git/torvalds/linux.git,
 * tools/testing/selftests/kvm/dirty_log_test.c (vcpu_worker) before the patch "KVM: selftests: Drop
 * signal/kick from dirty ring testcase" (20250111003004.1235645-4-seanjc@google.com).
 * Left out: the semaphores by which the threads wait for each other.
 *
 * Expected: no kick is lost. A kick that was seen in user space leaves its signal: one spurious
 * exit.
 */
#include "blocked.h"

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	const sigset_t kick = kick_signal(v);
	int got;

	if (!error)
		return false;
	sigwait(&kick, &got);
	return kb_kick_requested(v);
}

#define KB_PROTOCOL selftest_sigwait
#include <kickbench/loop.h>
