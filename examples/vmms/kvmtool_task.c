/* SPDX-License-Identifier: Apache-2.0 */
/*
 * kvmtool_task: kvmtool, as it runs a task on a vCPU's thread (kvm_cpu__run_on_all_cpus).
 *
 * It sets cpu->task and sends SIGKVMTASK, whose handler does nothing. The loop reads cpu->task,
 * then calls KVM_RUN. After EINTR it comes round to cpu->task. Nothing protects the time between
 * the two, and the caller waits for the task without a time-out.
 *
 * Source: https://git.kernel.org/pub/scm/linux/kernel/git/will/kvmtool.git, kvm-cpu.c at
 * b48735e5d562 (kvm_cpu__start, kvm_cpu__run, kvm_cpu_signal_handler), since commit e300a5e (2016).
 * Left out: kvm__pause(), where the thread waits inside the handler of another signal. It is not
 * lost, but the hooks cannot say it: a kick is taken by the loop.
 *
 * Expected: in a race with a wide window nearly every aimed kick is lost.
 */
#include "unheeded.h"

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	kb_request_kick(v, k);
	return kb_send_signal(v, k);
}

#define KB_PROTOCOL kvmtool_task
#include <kickbench/loop.h>
