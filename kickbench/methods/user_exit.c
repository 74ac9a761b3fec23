/* SPDX-License-Identifier: Apache-2.0 */
/*
 * user_exit: the kicker calls KVM_USER_EXIT on the vCPU's descriptor, and KVM_RUN returns
 * KVM_EXIT_REQUEST, now or, when the vCPU is not in KVM_RUN, at the next one.
 *
 * Proposed in 2015, in no released kernel. There is no signal, no mask and no handler. The flag is
 * needed: a vCPU that leaves for a reason of its own when it is kicked keeps that reason, and does
 * not leave early the next time. So its thread must look at the flag before it enters again.
 */
#include <kickbench/protocol.h>

static int kb_enter(struct kb_vcpu *v)
{
	(void)v;
	return 0;
}

static void kb_leave(struct kb_vcpu *v)
{
	kb_forget_kicks(v);
}

static inline bool kb_before_run(struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

static inline bool kb_after_run(struct kb_vcpu *v, int error)
{
	return !error && v->run->exit_reason == KB_EXIT_REQUEST && kb_kick_requested(v);
}

static void kb_handler(struct kb_vcpu *v)
{
	(void)v;
}

/* KVM completes the I/O before it looks at requests. */
static int kb_finish_exit(struct kb_vcpu *v)
{
	struct kb_user_exit arg = {{0}};

	return ioctl(v->fd, KB_USER_EXIT, &arg) == 0 ? kb_complete_io(v) : -errno;
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	struct kb_user_exit arg = {{0}};

	kb_request_kick(v, k);
	return ioctl(v->fd, KB_USER_EXIT, &arg) == 0 ? 0 : -errno;
}

#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL user_exit
#include <kickbench/loop.h>
