/* SPDX-License-Identifier: Apache-2.0 */
/* The helpers of protocol.h, for protocols in languages that cannot include it. */
#include <kickbench/foreign.h>

int kb_foreign_fd(const struct kb_vcpu *v)
{
	return v->fd;
}

uint32_t kb_foreign_index(const struct kb_vcpu *v)
{
	return v->index;
}

int kb_foreign_signal(const struct kb_vcpu *v)
{
	return v->signal;
}

struct kvm_run *kb_foreign_run(struct kb_vcpu *v)
{
	return v->run;
}

uint8_t *kb_foreign_immediate_exit(struct kb_vcpu *v)
{
	return &v->run->immediate_exit;
}

void kb_foreign_request_kick(struct kb_vcpu *v, const struct kb_kicker *k)
{
	kb_request_kick(v, k);
}

bool kb_foreign_kick_requested(const struct kb_vcpu *v)
{
	return kb_kick_requested(v);
}

void kb_foreign_forget_kicks(struct kb_vcpu *v)
{
	kb_forget_kicks(v);
}

int kb_foreign_send_signal(const struct kb_vcpu *v, const struct kb_kicker *k)
{
	return kb_send_signal(v, k);
}

int kb_foreign_complete_io(struct kb_vcpu *v)
{
	return kb_complete_io(v);
}
