/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The parameter block of one vCPU: what a guest program reads, and where it puts its own stamps.
 * Shared by the assembly sources, the engine and the loader (kickbench/guest/loader.py).
 */
#ifndef KICKBENCH_GUEST_PARAMS_H
#define KICKBENCH_GUEST_PARAMS_H

#define KB_GUEST_NEXT_LOW   0x00 /* TSC at which the next exit is due */
#define KB_GUEST_NEXT_HIGH  0x04
#define KB_GUEST_GAPS	    0x08 /* guest address of the table of gaps, in cycles */
#define KB_GUEST_GAP_MASK   0x0c /* its length - 1; a power of two */
#define KB_GUEST_GAP_INDEX  0x10
#define KB_GUEST_RING	    0x14 /* guest address of the ring of round trips, in cycles */
#define KB_GUEST_RING_MASK  0x18 /* its length - 1; a power of two */
#define KB_GUEST_HEAD	    0x1c /* round trips made so far, modulo 2^32 */
#define KB_GUEST_LATE_LIMIT 0x20 /* cycles behind schedule at which the schedule is dropped */
#define KB_GUEST_LATE	    0x24 /* how often it was */
#define KB_GUEST_HEARTBEAT  0x28 /* the spinning program counts here */
#define KB_GUEST_PHASE	    0x2c /* not 0: begin a new schedule, so many cycles from now */
#define KB_GUEST_MIX 0x34 /* guest address of the next exit's code (at full speed, the first's) */
#define KB_GUEST_MIX_MASK 0x38 /* what an exit's address may be: after the last comes the first */

#define KB_GUEST_SPLIT 0x7e /* four bytes on two cache lines: behind the structure */

#define KB_GUEST_IOEVENTFD 0x90 /* a port */

#define KB_GUEST_PRIVATE 0xff000 /* a page that is private to the guest, and not there */

#define KB_MIX_ENTRY 16 /* bytes of an exit's code, if the guest is paced */

#define KB_GUEST_ENTRY 0x1000 /* guest address of the program */

#ifndef __ASSEMBLER__
#include <stddef.h>
#include <stdint.h>

struct kb_guest_params {
	uint32_t next_low, next_high;
	uint32_t gaps, gap_mask, gap_index;
	uint32_t ring, ring_mask, head;
	uint32_t late_limit, late;
	uint32_t heartbeat;
	uint32_t phase;	   /* written by the engine, set to 0 by the guest */
	uint32_t mean_gap; /* cycles, for the engine: the guest does not read it */
	uint32_t mix, mix_mask;
};

_Static_assert(sizeof(struct kb_guest_params) <= KB_GUEST_SPLIT, "layout");
_Static_assert(offsetof(struct kb_guest_params, gaps) == KB_GUEST_GAPS, "layout");
_Static_assert(offsetof(struct kb_guest_params, ring) == KB_GUEST_RING, "layout");
_Static_assert(offsetof(struct kb_guest_params, head) == KB_GUEST_HEAD, "layout");
_Static_assert(offsetof(struct kb_guest_params, late) == KB_GUEST_LATE, "layout");
_Static_assert(offsetof(struct kb_guest_params, heartbeat) == KB_GUEST_HEARTBEAT, "layout");
_Static_assert(offsetof(struct kb_guest_params, phase) == KB_GUEST_PHASE, "layout");
_Static_assert(offsetof(struct kb_guest_params, mix) == KB_GUEST_MIX, "layout");
_Static_assert(offsetof(struct kb_guest_params, mix_mask) == KB_GUEST_MIX_MASK, "layout");
#endif
#endif
