/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One kick: it is sent, and then it is taken or found to be lost.
 *
 * It is sent by the protocol's own hook, and timed around it. It is taken when the vCPU's thread
 * says so (kb_take_kick). It is lost when it has not been taken after a time far above any latency
 * seen and the guest still runs; then it is sent again until it is.
 */
#include "internal.h"

#include <kickbench/mark.h>

/* Around the protocol's kick, which is not the engine's and may never return. */
void begin_kick(struct kicker_thread *t, const struct vcpu_thread *vcpu)
{
	atomic_store_explicit(&t->target, vcpu->v.index, memory_order_relaxed);
	atomic_store_explicit(&t->kicks_made,
			      atomic_load_explicit(&t->kicks_made, memory_order_relaxed) + 1,
			      memory_order_relaxed);
	atomic_store_explicit(&t->doing, KB_KICKING, memory_order_relaxed);
}

void end_kick(struct kicker_thread *t)
{
	atomic_store_explicit(&t->doing, KB_IN_LOOP, memory_order_relaxed);
}

void send_kick(struct kick_in_flight *k)
{
	const struct kb_target *target = &k->kicker->targets[k->vcpu->v.index];
	const uint32_t signals = target->signals;
	int error;

	begin_kick(k->thread, k->vcpu);
	KB_PUT_MARK(KB_MARK_BEGIN);
	k->sent = kb_stamp(k->vcpu->v.clock_is_counter, &k->cpu_sent);
	error = k->engine->block.protocol->kick(&k->vcpu->v, k->kicker);
	k->returned = kb_stamp(k->vcpu->v.clock_is_counter, &k->cpu_returned);
	KB_PUT_MARK(KB_MARK_SENT);
	end_kick(k->thread);
	k->signals = target->signals - signals;
	if (error)
		k->thread->error = -error;
}

static bool is_taken(const struct kick_in_flight *k)
{
	return atomic_load_explicit(&k->vcpu->v.acks[k->kicker->index].taken,
				    memory_order_acquire) ==
	       k->kicker->targets[k->vcpu->v.index].requests;
}

/*
 * Waits until the kick is taken, sending it again when it is lost. False when the vCPU left its
 * loop meanwhile (its block ended), or cannot be kicked at all.
 */
bool wait_taken(struct kick_in_flight *k, bool *lost, uint32_t *rescues)
{
	const uint64_t lost_after = to_cycles(k->engine, k->engine->plan.lost_after_ns);
	const uint64_t give_up = to_cycles(k->engine, KICK_MAX_S * NS_PER_S);
	uint64_t next_rescue = k->returned + lost_after; /* the kicker may have been preempted */
	unsigned int spins = 0;
	int error;

	while (!is_taken(k)) {
		uint64_t now = stamp(k->vcpu);

		if (!is_busy(k->vcpu) || now - k->sent > give_up || k->thread->error)
			return is_taken(k);
		if (now >= next_rescue) {
			if (still_runs(k->vcpu) && !is_taken(k)) {
				*lost = true;
				begin_kick(k->thread, k->vcpu);
				error = k->engine->block.protocol->kick(&k->vcpu->v, k->kicker);
				end_kick(k->thread);
				if (error)
					k->thread->error = -error;
				++*rescues;
			}
			next_rescue = stamp(k->vcpu) + lost_after;
		}
		/* One by one, a nap would be in the time until the next vCPU has answered. */
		if (k->engine->plan.kicking == KB_PAUSES && !k->engine->plan.one_by_one)
			doze();
		else
			relax(k->engine, &spins);
	}
	return true;
}

/* The time from `begin` to `at`; 0 when that came first. */
static uint32_t since(uint64_t begin, uint64_t at)
{
	return at > begin ? kb_saturate(at - begin) : 0;
}

static void note_kick(const struct kick_in_flight *k, const struct kb_kick_record *note)
{
	if (k->thread->n_kicks < k->engine->kicks_capacity)
		k->thread->kicks[k->thread->n_kicks++] = *note;
}

/* Now that it is known: when the guest ran again after this kicker's last kick of the vCPU. */
static void note_resumed(const struct kick_in_flight *k, uint64_t resumed_after)
{
	for (uint64_t i = resumed_after ? k->thread->n_kicks : 0; i-- > 0;) {
		struct kb_kick_record *last = &k->thread->kicks[i];

		if (last->block != k->engine->block_index)
			return;
		if (last->vcpu != (int16_t)k->vcpu->v.index)
			continue;
		if (last->latency)
			last->resumed = kb_saturate(last->latency + resumed_after);
		return;
	}
}

/* Kicks once and notes it. False when the vCPU's block is over. */
bool kick_once(struct kick_in_flight *k, bool met)
{
	const bool aimed = k->engine->plan.kicking == KB_AIMED;
	const struct kb_engine *e = k->engine;
	const struct kb_ack *ack = &k->vcpu->v.acks[k->kicker->index];
	uint64_t from;
	bool lost = false;
	struct kb_kick_record note = {.block = e->block_index,
				      .vcpu = (int16_t)k->vcpu->v.index,
				      .kicker = (uint8_t)k->kicker->index,
				      .volley = k->volley,
				      .cpu = -1};

	send_kick(k);
	if (!wait_taken(k, &lost, &note.rescues)) {
		/* Its block has not ended: nothing gets the vCPU out, and the record shows it. */
		if (is_busy(k->vcpu) && !k->thread->error) {
			note.at = k->sent - e->record_from;
			note.latency = UINT32_MAX;
			note.flags = KB_KICK_LOST | (aimed ? KB_KICK_LANDED : 0);
			note_kick(k, &note);
		}
		return false;
	}
	note.at = k->sent - e->record_from;
	note.send = kb_saturate(k->returned - k->sent);
	if (k->cpu_sent == k->cpu_returned && k->cpu_sent != KB_CPU_UNKNOWN)
		note.cpu = (int32_t)k->cpu_sent;
	/* KVM_RUN had returned already, for another kicker: not the wanted state. */
	met = met && ack->taken_at > k->sent;
	if (aimed && e->plan.state != KB_ANY_STATE) /* pending before KVM_RUN was entered */
		met = k->returned <= ack->free_at;
	/* The loop's own time in user space, which was to end then, is no part of the protocol. */
	from = ack->free_at > k->sent ? ack->free_at : k->sent;
	note.latency = ack->taken_at > k->sent ? since(from, ack->taken_at) : 0;
	note.returned = since(from, ack->returned_at);
	if (ack->handler_at <= ack->taken_at)
		note.delivery = since(from, ack->handler_at);
	note.signals = k->signals;
	k->landed = aimed && (lost || ack->landed);
	k->seen = !ack->returned_at;
	note.flags = (uint8_t)((met ? KB_KICK_MET : 0) | (lost ? KB_KICK_LOST : 0) |
			       (k->landed ? KB_KICK_LANDED : 0));
	note_resumed(k, ack->resumed_after);
	note_kick(k, &note);
	return true;
}
