/* SPDX-License-Identifier: Apache-2.0 */
/* Where the engine's memory and threads are, and on which nodes. */
#include "internal.h"

const void *kb_engine_address(const struct kb_engine *e, uint32_t vcpu, uint32_t part)
{
	const struct vcpu_thread *t = &e->vcpu_threads[vcpu];

	switch (part) {
	case KB_FLAG:
		return &t->v.kick_requested;
	case KB_TLS:
		return t->tls;
	default:
		return t->samples;
	}
}

int32_t kb_engine_kicker_cpu(const struct kb_engine *e, uint32_t kicker)
{
	return e->kicker_threads[kicker].cpu;
}

/* With no nodes to move to, move_pages(2) only reports where the pages are. */
int kb_nodes_of(const uint64_t *addresses, uint64_t count, int32_t *nodes)
{
	return syscall(SYS_move_pages, 0, count, addresses, NULL, nodes, 0) ? errno : 0;
}
