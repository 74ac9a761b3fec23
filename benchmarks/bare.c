/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The loop that the recorded one is measured against: KVM_RUN and nothing else, a stamp at either
 * end. It plays a protocol, so that it runs in the same VM, thread and schedule.
 */
#include <kickbench/clock.h>
#include <kickbench/protocol.h>

#define EXITS 512

static int bare_enter(struct kb_vcpu *v)
{
	(void)v;
	return 0;
}

static int bare_kick(struct kb_vcpu *v, struct kb_kicker *k)
{
	(void)v;
	(void)k;
	return 0;
}

static void bare_nothing(struct kb_vcpu *v)
{
	(void)v;
}

static void bare_loop(struct kb_vcpu *v)
{
	const int fd = v->fd;
	uint64_t first;
	uint32_t cpu;

	do
		ioctl(fd, KVM_RUN, 0);
	while (!kb_window_opens(v, kb_stamp(true, &cpu)));
	first = kb_stamp(true, &cpu);
	for (int i = 0; i < EXITS; i++)
		ioctl(fd, KVM_RUN, 0);
	v->window_last = kb_stamp(true, &cpu);
	v->window_first = first;
	v->exits = EXITS;
}

KB_EXPORT const struct kb_protocol kb_protocol_bare;
KB_EXPORT const struct kb_protocol kb_protocol_bare = {
    .abi = KB_PROTOCOL_ABI,
    .vcpu_size = sizeof(struct kb_vcpu),
    .name = "bare",
    .enter = bare_enter,
    .leave = bare_nothing,
    .handler = bare_nothing,
    .kick = bare_kick,
    .exit_loop = bare_loop,
    .kick_loop = bare_nothing,
};
