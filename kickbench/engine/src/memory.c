/* SPDX-License-Identifier: Apache-2.0 */
/* The buffers of the threads: each on its thread's own node, and locked where it is written hot. */
#include "internal.h"

#include <string.h>
#include <sys/mman.h>

/* Zeroed memory on the thread's own node: it is the first to touch it. */
void *allocate_touched(size_t bytes)
{
	void *memory =
	    mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		return NULL;
	memset(memory, 0, bytes);
	return memory;
}

/* The same, locked if it may be. */
void *allocate(struct kb_engine *e, size_t bytes)
{
	void *memory = allocate_touched(bytes);

	if (memory && mlock(memory, bytes))
		e->memory_locked = false;
	return memory;
}

size_t scratch_bytes(const struct kb_engine *e)
{
	return 2 * e->samples_capacity * sizeof(uint32_t);
}

size_t histograms_bytes(const struct kb_engine *e)
{
	return (size_t)e->n_entries * KB_HISTOGRAM_BINS * sizeof(uint64_t);
}
