/* SPDX-License-Identifier: Apache-2.0 */
/*
 * exitfd: each kicker has an eventfd of its own for each vCPU, from KVM_VCPU_MAKE_EXITFD, and
 * writes to it. As user_exit otherwise; kickers share no cache line before the wake-up itself.
 *
 * Proposed in the review of KVM_USER_EXIT (2015), in no released kernel. KVM_VCPU_MAKE_EXITFD is a
 * vCPU ioctl, so that it is called here, in the vCPU's thread.
 */
#include <kickbench/protocol.h>

static int make_exitfd(struct kb_vcpu *v, struct kb_kicker *k)
{
	struct kb_target *target = &k->targets[v->index];

	if (target->exitfd < 0)
		target->exitfd = ioctl(v->fd, KB_VCPU_MAKE_EXITFD, 0);
	return target->exitfd < 0 ? -errno : 0;
}

static int kb_enter(struct kb_vcpu *v)
{
	int error = make_exitfd(v, &v->kickers[KB_CONDUCTOR]);

	for (uint32_t i = 0; i < v->n_kickers && !error; i++)
		error = make_exitfd(v, &v->kickers[i]);
	return error;
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

/* KVM completes the I/O before it looks at requests. Any exitfd will do. */
static int kb_finish_exit(struct kb_vcpu *v)
{
	const uint64_t one = 1;
	const int exitfd = v->kickers[KB_CONDUCTOR].targets[v->index].exitfd;

	return write(exitfd, &one, sizeof(one)) < 0 ? -errno : kb_complete_io(v);
}

static int kb_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	const uint64_t one = 1;

	kb_request_kick(v, k);
	return write(k->targets[v->index].exitfd, &one, sizeof(one)) < 0 ? -errno : 0;
}

#define KB_HAS_FINISH_EXIT
#define KB_PROTOCOL exitfd
#include <kickbench/loop.h>
