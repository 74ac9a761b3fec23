/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the programs in the kernel (watch.bpf.c) and the observer (kickbench/watch/programs.py)
 * share: the layout of the maps. All times are in ns of CLOCK_MONOTONIC.
 */
#ifndef KICKBENCH_OBSERVE_WATCH_H
#define KICKBENCH_OBSERVE_WATCH_H

#define KB_MAX_VCPUS   4096  /* KVM's own limit on x86 */
#define KB_MAX_WAYS    16384 /* ways to leave, over all vCPUs */
#define KB_MAX_SENDERS 1024

/* A histogram has 16 bins for each power of two: a bin is at most 1/16 of its value wide. */
#define KB_SUB_BITS 4
#define KB_BINS	    608 /* up to 2^41 ns, 36 minutes; the last one has all that is longer */

/* An exit's reason is KVM's, or this plus the errno that KVM_RUN returned. */
#define KB_REASON_ERROR 0x10000

/* What a vCPU did when it was kicked. */
#define KB_STATE_USERSPACE 0 /* between two KVM_RUNs */
#define KB_STATE_RUNNING   1 /* in KVM_RUN and on a CPU: in the guest, or in the kernel */
#define KB_STATE_HALTED	   2 /* in KVM_RUN and asleep */
#define KB_STATE_WAITING   3 /* in KVM_RUN, and waiting for a CPU */

/* A kick, from the signal until the vCPU answered. */
struct kb_kick {
	__u64 sent_ns;	  /* 0: there is none */
	__u64 left_ns;	  /* when KVM_RUN returned; 0: it did not */
	__u64 handled_ns; /* when the signal's handler was entered; 0: it was not */
	__u32 vcpu;	  /* slot */
	__u32 sender;	  /* thread id; 0: the kernel, for example a timer */
	__s32 signal;
	__s32 code;	    /* si_code: how it was sent */
	__u32 state;	    /* KB_STATE_ */
	__u32 more;	    /* kicks that came before the answer to this one */
	__u32 reason;	    /* of the exit that followed, as in struct kb_way */
	__u8 set_by_sender; /* kvm_run->immediate_exit was 1 when the signal was sent */
	__u8 set_at_exit;   /* it was 1 when KVM_RUN returned */
	__u8 pad[2];
};

/* Kicks that were answered, also those that did not fit into the ring. */
struct kb_kick_counts {
	__u64 by_state[4]; /* all of them, by KB_STATE_ */
	__u64 left, handled;
	__u64 more;	  /* sum of kb_kick.more */
	__u64 longest_ns; /* from the signal until KVM_RUN returned */
};

/* A way to leave KVM_RUN: for which reason and, of I/O, what the guest accessed. */
struct kb_way {
	__u64 address; /* port or guest-physical address */
	__u32 vcpu;    /* slot */
	__u32 reason;
	__u32 size; /* bytes of one access */
	__u32 write;
};

struct kb_way_count {
	struct kb_way way;
	__u64 exits;
	__u64 in_run_ns; /* from the entry of KVM_RUN until it returned, of `timed` exits */
	__u64 timed;
	__u64 userspace_ns; /* from then until the next KVM_RUN, of `handled` exits */
	__u64 handled;
};

/* Who sends signals to threads of vCPUs. */
struct kb_sender {
	__u32 thread; /* 0: the kernel */
	__u32 process;
	__s32 signal;
	__s32 code;
	__s32 system_call; /* number; -1: none, or unknown */
	__u32 to_process;  /* the signal was for the process, and any thread could take it */
};

struct kb_sender_count {
	__u64 sent;
	__u64 pending; /* of these: the signal was pending already, so it is one with another */
	__u64 failed;  /* ignored, or the queue was full */
	char comm[16];
};

/* What KVM counts of a vCPU itself (struct kvm_vcpu_stat); 0 where this kernel has no such count.
 */
struct kb_kvm_counts {
	__u64 exits; /* out of the guest, also those that the kernel handles */
	__u64 halt_wait_ns;
	__u64 halt_polls, halt_polls_good;
	__u64 halt_poll_ns;
};

struct kb_vcpu {
	__u64 kvm_vcpu; /* kernel address of the struct */
	__u32 id;	/* KVM's number of the vCPU */
	__u32 thread;	/* the last that ran it */
	__u64 exits;
	__u64 entries, looked_at;   /* KVM_RUNs that began, and exits, while looking at details */
	__u64 eintr, eintr_unasked; /* no signal, stop or immediate_exit was there */
	__u64 eintr_immediate;	    /* of eintr: kvm_run->immediate_exit was 1 */
	__u64 foreign_signals;	    /* delivered to its thread, and not sent to it alone */
	__u64 kicks_before;	    /* signals to its thread alone, before that was known */
	__u64 mask;		    /* that of KVM_SET_SIGNAL_MASK: signals blocked in KVM_RUN */
	__u32 has_mask;		    /* there is one */
	__u32 changed_thread;	    /* how often another thread took it over */
	struct kb_kick kick;	    /* the oldest that is not answered */
	struct kb_kick_counts kicks;
	struct kb_kvm_counts kvm;
	__u64 gap_ns[KB_BINS];	     /* from one exit to the next */
	__u64 userspace_ns[KB_BINS]; /* from an exit to the next KVM_RUN */
	__u64 in_run_ns[KB_BINS];    /* from KVM_RUN to the exit */
};

/* One for all. */
struct kb_totals {
	__u32 watching; /* the observer sets it to begin */
	__u32 detail;	/* and this to have times and ways too, not counts and kicks alone */
	__u32 n_vcpus, n_ways;
	__u64 siglock_waits, siglock_wait_ns; /* contention on the watched process's siglock */
	__u64 siglock_vcpu_waits;	      /* of these, by threads of vCPUs */
	__u64 handlers, handlers_set;	      /* ends seen of handlers; immediate_exit was 1 then */
	__u64 lost_kicks, lost_vcpus, lost_ways, lost_senders, lost_threads;
};
#endif
