/* SPDX-License-Identifier: Apache-2.0 */
/* Histograms of cycles: which bin, which edges, and their sum over the vCPUs. */
#include "internal.h"

#include <string.h>

uint32_t histogram_bin(uint32_t cycles)
{
	uint32_t shift;

	if (cycles < 2 * KB_HISTOGRAM_HALF)
		return cycles;
	shift = 32 - KB_HISTOGRAM_BITS - (uint32_t)__builtin_clz(cycles);
	return shift * KB_HISTOGRAM_HALF + (cycles >> shift);
}

void kb_histogram_edges(uint64_t *edges)
{
	for (uint32_t bin = 0; bin <= KB_HISTOGRAM_BINS; bin++) {
		uint32_t shift = bin < 2 * KB_HISTOGRAM_HALF ? 0 : bin / KB_HISTOGRAM_HALF - 1;

		edges[bin] = (uint64_t)(bin - shift * KB_HISTOGRAM_HALF) << shift;
	}
}

void kb_engine_histogram(const struct kb_engine *e, uint32_t entry, uint64_t *counts)
{
	memset(counts, 0, KB_HISTOGRAM_BINS * sizeof(*counts));
	for (uint32_t i = 0; i < e->n_vcpus; i++) {
		const uint64_t *mine =
		    e->vcpu_threads[i].histograms + (size_t)entry * KB_HISTOGRAM_BINS;

		for (uint32_t bin = 0; bin < KB_HISTOGRAM_BINS; bin++)
			counts[bin] += mine[bin];
	}
}
