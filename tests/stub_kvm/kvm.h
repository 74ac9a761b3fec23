/* SPDX-License-Identifier: Apache-2.0 */
#ifndef KICKBENCH_STUB_KVM_H
#define KICKBENCH_STUB_KVM_H

#include "engine.h"

#define STUB_VCPUS 64

/* The vCPU with this index, which is its descriptor as well: nothing but the stub ever sees it. */
struct kb_vcpu_config stub_vcpu(int index, uint32_t n_cpus, const int32_t *cpus);

/* A protocol of the catalogue by its name; NULL: there is none. */
const struct kb_protocol *find_protocol(const char *name);

#endif
