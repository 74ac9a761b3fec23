/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The whole user space of a Linux guest to observe: reads the clock for ever, in one process for
 * each CPU. With clocksource=acpi_pm each reading is a system call that reads the ACPI PM timer's
 * port, because the vDSO cannot (arch/x86/include/asm/vdso/gettimeofday.h).
 */
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
	struct timespec now;
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	printf("%ld CPUs read the clock\n", cpus);
	fflush(stdout);
	while (--cpus > 0 && fork() > 0)
		;
	for (;;)
		clock_gettime(CLOCK_MONOTONIC, &now);
}
