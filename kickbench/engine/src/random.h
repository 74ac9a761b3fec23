/* SPDX-License-Identifier: Apache-2.0 */
/* Random times. They only have to be out of step with what they are to meet. */
#ifndef KICKBENCH_RANDOM_H
#define KICKBENCH_RANDOM_H

#include <stdint.h>

/* xorshift64 (Marsaglia, Journal of Statistical Software 8(14), 2003). `*state` is never 0. */
static inline uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

/* A state of its own for each `who` of a seed. */
static inline uint64_t random_state(uint32_t seed, uint32_t who)
{
	return ((uint64_t)seed << 32 | (who + 1)) ^ 0x9e3779b97f4a7c15;
}

#endif
