// SPDX-License-Identifier: GPL-2.0
/* The owner: feeds the engine, carries out what it asks for, and tells what it says. One thread at a time, under c->owner. */

#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include "shim.h"

struct dmr_now dmr_time(void)
{
	return (struct dmr_now){ .mono_ns = ktime_get_ns(), .unix_s = ktime_get_real_seconds() };
}

/* Any context. */
void dmr_kick(struct dmr *c)
{
	queue_work(c->wq, &c->work);
}

/* Any context. The bio is the owner's until its request ends. */
void dmr_hold(struct dmr *c, struct bio *bio)
{
	unsigned long flags;

	dmr_bio(bio)->lane = DMR_LANE_SLOW;
	dmr_count(c, slow);
	spin_lock_irqsave(&c->incoming_lock, flags);
	bio_list_add(&c->incoming, bio);
	spin_unlock_irqrestore(&c->incoming_lock, flags);
	dmr_kick(c);
}

void dmr_sum_lanes(struct dmr *c, struct dmr_lanes *sum)
{
	int cpu, i;

	memset(sum, 0, sizeof(*sum));
	for_each_possible_cpu(cpu) {
		const u64 *from = (const u64 *)per_cpu_ptr(c->lanes, cpu);

		for (i = 0; i < sizeof(*sum) / sizeof(u64); i++)
			((u64 *)sum)[i] += READ_ONCE(from[i]);
	}
}

static void dmr_say(struct dmr *c, u32 level)
{
	const char *name = dm_table_device_name(c->ti->table);

	if (level == DMR_ERR)
		DMERR_LIMIT("%s: %s", name, c->text);
	else if (level == DMR_WARN)
		DMWARN_LIMIT("%s: %s", name, c->text);
	else if (level <= dmr_debug_level + 1)
		DMINFO_LIMIT("%s: %s", name, c->text);
}

static void dmr_request_ended(struct dmr *c, struct bio *bio, u32 fault)
{
	if (fault != DMR_OK) {
		if (dmr_bio(bio)->kind == DMR_READ)
			dmr_count(c, failed_reads);
		else
			dmr_count(c, failed_writes);
	}
	bio->bi_status = dmr_status_of(fault);
	bio_endio(bio);
}

static void dmr_answered(struct dmr *c, u64 ticket)
{
	struct dmr_call *call;

	list_for_each_entry(call, &c->calls, list)
		if (call->ticket == ticket)
			complete(&call->done);
}

/* Everything that the engine has to say and wants done, as far as there is room for operations. */
static void dmr_drain(struct dmr *c)
{
	struct dmr_event event;
	struct dmr_io *io;

	while (dmr_poll_event(c->volume, &event, c->text, sizeof(c->text))) {
		if (event.kind == DMR_EVENT_REQUEST)
			dmr_request_ended(c, (struct bio *)(unsigned long)event.cookie, event.fault);
		else if (event.kind == DMR_EVENT_ANSWER)
			dmr_answered(c, event.cookie);
		else
			dmr_say(c, event.level);
		if (event.tell)
			dm_table_event(c->ti->table);
	}
	while (!list_empty(&c->free_ios)) {
		io = list_first_entry(&c->free_ios, struct dmr_io, free);
		if (!dmr_poll_op(c->volume, dmr_time(), &io->op))
			break;
		list_del(&io->free);
		c->out++;
		io->sectors_done = io->sectors_out = 0;
		io->plain_zeroes = false;
		dmr_begin(io);
	}
}

static void dmr_take_done(struct dmr *c)
{
	struct llist_node *list = llist_reverse_order(llist_del_all(&c->done));
	struct dmr_io *io, *next;
	u32 fault;

	llist_for_each_entry_safe(io, next, list, done) {
		if (dmr_goes_on(io, &fault)) {
			dmr_begin(io);
			continue;
		}
		dmr_complete(c->volume, dmr_time(), io->op.id, fault);
		list_add(&io->free, &c->free_ios);
		c->out--;
		dmr_drain(c);
	}
}

static void dmr_take_reports(struct dmr *c)
{
	unsigned int device, fault;
	unsigned long faults;

	for (device = 0; device < DMR_DEVICES; device++) {
		faults = xchg(&c->flush_faults[device], 0);
		for_each_set_bit(fault, &faults, BITS_PER_LONG)
			dmr_report_flush(c->volume, dmr_time(), device, fault);
		faults = xchg(&c->faults[device], 0);
		for_each_set_bit(fault, &faults, BITS_PER_LONG)
			dmr_report(c->volume, dmr_time(), device, fault);
	}
}

/* False: the engine has no room. */
static bool dmr_submit_bio(struct dmr *c, struct bio *bio)
{
	struct dmr_bio *b = dmr_bio(bio);
	int r = dmr_submit(c->volume, dmr_time(), (unsigned long)bio, b->kind, b->flags, b->sector, b->sectors);

	if (r && r != -EBUSY)
		dmr_request_ended(c, bio, DMR_UNKNOWN);
	return r != -EBUSY;
}

static void dmr_take_bios(struct dmr *c)
{
	struct bio *bio;

	spin_lock_irq(&c->incoming_lock);
	bio_list_merge(&c->backlog, &c->incoming);
	bio_list_init(&c->incoming);
	spin_unlock_irq(&c->incoming_lock);
	while ((bio = bio_list_pop(&c->backlog))) {
		if (!dmr_submit_bio(c, bio)) {
			bio_list_add_head(&c->backlog, bio);
			return;
		}
		dmr_drain(c);
	}
}

/* c->owner held, memalloc_noio. Takes what came in and hands on what came out of it. */
void dmr_turn(struct dmr *c)
{
	u64 at;

	if (!c->volume || !c->running)
		return;
	dmr_take_done(c);
	dmr_take_reports(c);
	dmr_take_bios(c);
	if (dmr_next_timeout(c->volume) <= ktime_get_ns())
		dmr_timeout(c->volume, dmr_time());
	dmr_drain(c);
	at = dmr_next_timeout(c->volume);
	if (at != U64_MAX) {
		u64 now = ktime_get_ns();

		mod_delayed_work(c->wq, &c->tick, at > now ? nsecs_to_jiffies(at - now) + 1 : 0);
	}
	wake_up_all(&c->wait);
}

static void dmr_own_turn(struct dmr *c)
{
	unsigned int noio = memalloc_noio_save();

	mutex_lock(&c->owner);
	dmr_take_turn(c);
	mutex_unlock(&c->owner);
	memalloc_noio_restore(noio);
}

void dmr_work(struct work_struct *work)
{
	dmr_own_turn(container_of(work, struct dmr, work));
}

void dmr_tick(struct work_struct *work)
{
	dmr_own_turn(container_of(to_delayed_work(work), struct dmr, tick));
}

/* Nothing is out and nothing will be until somebody asks. */
static bool dmr_is_quiet(struct dmr *c)
{
	bool quiet;

	flush_work(&c->work);
	mutex_lock(&c->owner);
	quiet = !c->out && bio_list_empty(&c->backlog) && llist_empty(&c->done);
	mutex_unlock(&c->owner);
	return quiet;
}

/* Waits until nothing is under way, then stops. */
void dmr_rest(struct dmr *c)
{
	if (!c->running)
		return;
	while (!dmr_is_quiet(c))
		wait_event_timeout(c->wait, !READ_ONCE(c->out), HZ / 10);
	mutex_lock(&c->owner);
	c->running = false;
	mutex_unlock(&c->owner);
	cancel_delayed_work_sync(&c->tick);
	/* Between the look and the stop the time may have come for something. */
	while (c->out) {
		mutex_lock(&c->owner);
		c->running = true;
		dmr_take_turn(c);
		c->running = false;
		mutex_unlock(&c->owner);
		wait_event_timeout(c->wait, !llist_empty(&c->done), HZ / 10);
	}
}

static void dmr_describe(struct dmr *c, struct dmr_shape *shape)
{
	unsigned int i;

	dmr_shape(c->volume, shape);
	for (i = 0; i < DMR_MAX_SPARES; i++)
		c->spares[i].number = ~0;
	for (i = 0; i < DMR_MAX_SPARES; i++) {
		c->given[i] = shape->spare[i];
		if (shape->spare[i] < c->table.spares)
			c->spares[shape->spare[i]].number = i;
	}
	c->block_size = shape->block_size;
}

/* Assembles the volume, unless it was only resting, and begins to serve it. */
int dmr_serve(struct dmr *c)
{
	struct dmr_shape shape;
	bool fresh = !c->volume;
	u32 state;
	int r;

	if (fresh) {
		r = dmr_assemble_it(c, &c->volume);
		if (r) {
			DMERR("%s: %s", dm_table_device_name(c->ti->table), c->text);
			return r;
		}
		if (c->text[0])
			DMINFO("%s: %s", dm_table_device_name(c->ti->table), c->text);
		dmr_describe(c, &shape);
		if (shape.logical_block > bdev_logical_block_size(c->main->bdev)) {
			DMERR("%s: the volume has logical blocks of %u bytes, its main device now has smaller ones; use 'dm-remap serve'",
			      dm_table_device_name(c->ti->table), shape.logical_block);
			dmr_end(c);
			return -EINVAL;
		}
		c->view = dmr_view(c->volume);
	}
	mutex_lock(&c->owner);
	c->running = true;
	mutex_unlock(&c->owner);
	dmr_kick(c);
	if (!fresh)
		return 0;
	do {	/* the copies are brought in step before anything is served */
		mutex_lock(&c->owner);
		state = dmr_state(c->volume);
		mutex_unlock(&c->owner);
		if (state & (DMR_IS_LIVE | DMR_IS_FROZEN))
			break;
		wait_event_timeout(c->wait, c->out == 0, HZ / 50);
	} while (1);
	if (state & DMR_IS_LIVE)
		return 0;
	DMERR("%s: cannot write metadata to the spare; nothing is served", dm_table_device_name(c->ti->table));
	dmr_rest(c);
	dmr_end(c);
	return -EIO;
}

/* Nothing is out. What was not durable was not acknowledged. */
void dmr_end(struct dmr *c)
{
	unsigned int i;

	if (!c->volume)
		return;
	dmr_free_it(c);
	c->volume = NULL;
	c->view = NULL;
	for (i = 0; i < DMR_MAX_BOUNCES; i++) {
		kfree(c->bounce[i]);
		c->bounce[i] = NULL;
	}
}
