/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the engine asks of the machine that it runs on: a header for each architecture, chosen here.
 * Each has KB_CACHE_LINE, KB_PAGE_BYTES, KB_PUT_MARK(), kb_counter(), kb_cpu(), kb_relax(),
 * kb_guest_count() and kb_fence_flag(), as x86_64.h describes them.
 */
#ifndef KICKBENCH_ARCH_CURRENT_H
#define KICKBENCH_ARCH_CURRENT_H

#if defined(__x86_64__)
#include <kickbench/arch/x86_64.h>
#elif defined(__aarch64__)
#include <kickbench/arch/aarch64.h>
#else
#error "the engine does not know this architecture: see kickbench/arch/x86_64.h"
#endif

#endif
