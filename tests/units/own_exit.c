/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Says whether KVM_RUN came back with an exit of the guest program's own. The command line has the
 * program's exit, its other exit, the exit that KVM_RUN left, and its error.
 */
#include <kickbench/protocol.h>

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
	struct kvm_run run = {0};
	struct kb_vcpu vcpu = {.run = &run};

	(void)argc;
	vcpu.expected_exit = strtoul(argv[1], NULL, 10);
	vcpu.other_exit = strtoul(argv[2], NULL, 10);
	run.exit_reason = strtoul(argv[3], NULL, 10);
	puts(kb_is_own_exit(&vcpu, atoi(argv[4])) ? "own" : "other");
	return 0;
}
