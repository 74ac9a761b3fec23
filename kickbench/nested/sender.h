/* SPDX-License-Identifier: Apache-2.0 */
/* What kickbench/nested/guest.py asks of sender.c; the layout is in both. */
#ifndef KICKBENCH_SENDER_H
#define KICKBENCH_SENDER_H

#include "hypervisor/shared.h"

#include <kickbench/protocol.h>

/* Who sends a nested guest its asynchronous interrupts. */
struct kb_sender {
	struct kb_nested *shared;
	uint64_t tsc_offset; /* L1's TSC less the host's */
	uint64_t seed;	     /* not 0 */
	uint32_t max_delay_ns;
	int32_t vm_fd;
	uint32_t knows_tsc; /* tsc_offset is known: interrupts are stamped */
	uint32_t served;    /* of L1's `armed` */
	uint32_t stop;	    /* set by another thread */
	uint32_t reserved;
};

/* Sends until `stop` is set. 0, or the errno of an interrupt that could not be sent. */
KB_EXPORT int kb_sender_run(struct kb_sender *s);
/* For the binding's test. */
extern KB_EXPORT const size_t kb_sender_size;

#endif
