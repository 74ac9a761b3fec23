/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Marks for who watches the program from outside, instruction by instruction: kickbench lab
 * explain.
 *
 * A mark is an instruction that does nothing and has a number in it. Each architecture has its own
 * (KB_PUT_MARK in its header). Marks are in every build, so that what is watched is what is timed.
 */
#ifndef KICKBENCH_MARK_H
#define KICKBENCH_MARK_H

#include <kickbench/arch/current.h>

#define KB_MARKS 0x4b420000 /* "KB" */

/* What follows is to be watched, as a section of its own. */
#define KB_MARK_WATCH (KB_MARKS + 0)
/* This CPU begins what is to be explained: a block of exits, a kick, or L1's entry to L2. */
#define KB_MARK_BEGIN (KB_MARKS + 1)
/* And it ends that. */
#define KB_MARK_END (KB_MARKS + 2)
/* A kicker's call is over. The kick that it sent may still be on its way. */
#define KB_MARK_SENT (KB_MARKS + 3)
/* A kicker begins to pause all vCPUs. All that happens until they are out is watched. */
#define KB_MARK_PAUSE (KB_MARKS + 4)
/* All of them are out. */
#define KB_MARK_PAUSED (KB_MARKS + 5)

#endif
