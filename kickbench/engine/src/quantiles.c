/* SPDX-License-Identifier: Apache-2.0 */
/* Quantiles of a block's exits, with the ties of a clock that counts in steps spread. */
#include "internal.h"

#include <math.h>
#include <string.h>

#define DIGIT_BITS 8
#define DIGITS	   (1u << DIGIT_BITS)
#define PER_MILLE  1000

static const uint32_t levels[KB_QUANTILES] = {10,  25,	50,  100, 150, 200, 250, 300, 400,
					      500, 600, 700, 800, 900, 950, 990, 999};

void kb_quantile_levels(uint32_t *per_mille)
{
	memcpy(per_mille, levels, sizeof(levels));
}

static uint32_t digit_of(uint32_t cycles, unsigned int shift)
{
	return cycles >> shift & (DIGITS - 1);
}

/*
 * The values in order, in `values` itself or in `scratch`, which has room for them twice. A radix
 * sort: linear, and without a pass for the digits that all exits have in common.
 */
static const uint32_t *sorted_in(uint32_t *scratch, const uint32_t *values, uint64_t n)
{
	uint32_t *to = scratch;

	for (unsigned int shift = 0; shift < 32; shift += DIGIT_BITS) {
		uint64_t ends[DIGITS] = {0}, begin = 0;

		for (uint64_t i = 0; i < n; i++)
			ends[digit_of(values[i], shift)]++;
		if (ends[digit_of(values[0], shift)] == n)
			continue;
		for (uint32_t digit = 0; digit < DIGITS; digit++) {
			const uint64_t count = ends[digit];

			ends[digit] = begin;
			begin += count;
		}
		for (uint64_t i = 0; i < n; i++)
			to[ends[digit_of(values[i], shift)]++] = values[i];
		values = to;
		to = to == scratch ? scratch + n : scratch;
	}
	return values;
}

/* The number of values below `limit`. */
static uint64_t count_below(const uint32_t *sorted, uint64_t n, uint64_t limit)
{
	uint64_t low = 0, high = n;

	while (low < high) {
		const uint64_t middle = low + (high - low) / 2;

		if (sorted[middle] < limit)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

/*
 * The point with `rank` values below it; the value at `index` is the next. That value and its
 * equals are spread over half a step on either side, and no further than half way to the next
 * value.
 */
static double spread_at(const uint32_t *sorted, uint64_t n, double step, uint64_t index,
			double rank)
{
	const uint32_t value = sorted[index];
	const uint64_t below = count_below(sorted, n, value);
	const uint64_t end = count_below(sorted, n, (uint64_t)value + 1);
	double down = step, up = step;

	if (below > 0 && value - sorted[below - 1] < step)
		down = value - sorted[below - 1];
	if (end < n && sorted[end] - value < step)
		up = sorted[end] - value;
	return value - down / 2 + (down + up) / 2 * (rank - (double)below) / (double)(end - below);
}

void kb_quantiles(const uint32_t *cycles, uint64_t n, double step, uint32_t *scratch,
		  float *quantiles)
{
	const uint32_t *sorted = n ? sorted_in(scratch, cycles, n) : NULL;

	for (unsigned int i = 0; i < KB_QUANTILES; i++) {
		const uint64_t parts = levels[i] * n;
		const double rank = (double)parts / PER_MILLE;

		/* A rank between two values is in the middle of where they end and begin. */
		quantiles[i] =
		    n ? (float)((spread_at(sorted, n, step, (parts - 1) / PER_MILLE, rank) +
				 spread_at(sorted, n, step, parts / PER_MILLE, rank)) /
				2)
		      : NAN;
	}
}
