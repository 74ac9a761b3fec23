/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The sender of a nested guest's asynchronous interrupts: waits until L1 is about to enter L2, then
 * for a random time, and sends an MSI. It has no part in the engine's blocks.
 */
#include "sender.h"

#include "random.h"

#include <errno.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <time.h>
#include <x86intrin.h>

#define POLL_NS	    20000	/* asleep: with one CPU, L1 runs on it meanwhile */
#define MSI_ADDRESS 0xfee00000u /* to the APIC whose ID is 0 (Intel SDM volume 3, chapter APIC) */

static void sleep_ns(uint64_t ns)
{
	const struct timespec t = {0, (long)ns};

	nanosleep(&t, NULL);
}

static int send_one(const struct kb_sender *s)
{
	struct kvm_msi msi = {.address_lo = MSI_ADDRESS, .data = KB_NESTED_VECTOR};
	int taken;

	if (s->knows_tsc)
		__atomic_store_n(&s->shared->sent_at, __rdtsc() + s->tsc_offset, __ATOMIC_RELEASE);
	taken = ioctl(s->vm_fd, KVM_SIGNAL_MSI, &msi);
	if (taken < 0)
		return errno;
	return taken ? 0 : ENODEV; /* no APIC took it */
}

int kb_sender_run(struct kb_sender *s)
{
	int error = 0;

	prctl(PR_SET_TIMERSLACK, 1); /* wake up when asked to, not up to 50 us later */
	while (!error && !__atomic_load_n(&s->stop, __ATOMIC_ACQUIRE)) {
		if (__atomic_load_n(&s->shared->armed, __ATOMIC_ACQUIRE) == s->served) {
			sleep_ns(POLL_NS);
			continue;
		}
		s->served++;
		sleep_ns(random_next(&s->seed) % s->max_delay_ns);
		error = send_one(s);
	}
	return error;
}

const size_t kb_sender_size = sizeof(struct kb_sender);
