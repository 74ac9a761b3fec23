/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shares out the steal between two texts of /proc/stat (the files of the command line). Standard
 * input has the number of blocks, that of vCPUs, and the CPU that each vCPU ended each block on;
 * standard output has their steal_ns.
 */
#include "../../kickbench/engine/src/steal.c"

#define MAX_RESULTS 1024

int main(int argc, char **argv)
{
	static struct kb_block_result results[MAX_RESULTS];
	struct steal *s = open_steal(argc == 3 ? argv[1] : "");
	uint32_t n_blocks, n_vcpus, n = 0;

	read_steal(s);
	if (s->fd >= 0)
		close(s->fd);
	s->fd = open(argc == 3 ? argv[2] : "", O_RDONLY);
	read_steal(s);
	if (scanf("%u %u", &n_blocks, &n_vcpus) != 2)
		return 1;
	while (n < MAX_RESULTS && scanf("%d", &results[n].cpu) == 1)
		n++;
	if (n != n_blocks * n_vcpus)
		return 1;
	share_out_steal(s, results, n_blocks, n_vcpus);
	for (uint32_t i = 0; i < n; i++)
		printf("%lld\n", (long long)results[i].steal_ns);
	close_steal(s);
	return 0;
}
