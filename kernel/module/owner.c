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
	if (fault != DMR_OK)
		atomic64_inc(dmr_bio(bio)->kind == DMR_READ ? &c->failed_reads : &c->failed_writes);
	bio->bi_status = dmr_status_of(fault);
	bio_endio(bio);
}

static void dmr_answered(struct dmr *c, u64 ticket)
{
	struct dmr_call *call;

	dmr_describe(c);		/* a spare may have left */
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
		io = list_first_entry(&c->free_ios, struct dmr_io, list);
		if (!dmr_poll_op(c->volume, dmr_time(), &io->op))
			break;
		list_del(&io->list);
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
		list_add(&io->list, &c->free_ios);
		c->out--;
		dmr_drain(c);
	}
}

static void dmr_take_reports(struct dmr *c)
{
	unsigned int given, device, fault;
	unsigned long faults, flush_faults;

	for (given = 0; given < DMR_DEVICES; given++) {
		flush_faults = xchg(&c->flush_faults[given], 0);
		faults = xchg(&c->faults[given], 0);
		device = given ? DMR_SPARE(c->spares[given - 1].number) : DMR_MAIN;
		if (given && device == DMR_MAIN)	/* it has left */
			continue;
		for_each_set_bit(fault, &flush_faults, BITS_PER_LONG)
			dmr_report_flush(c->volume, dmr_time(), device, fault);
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

/* c->owner held, memalloc_noio, in service. Takes what came in and hands on what came out of it. */
void dmr_turn(struct dmr *c)
{
	u64 at, now;

	dmr_take_done(c);
	dmr_take_reports(c);
	dmr_take_bios(c);
	if (dmr_next_timeout(c->volume) <= ktime_get_ns())
		dmr_timeout(c->volume, dmr_time());
	dmr_drain(c);
	at = dmr_next_timeout(c->volume);
	now = ktime_get_ns();
	if (!list_empty(&c->draining))
		mod_delayed_work(c->wq, &c->tick, 1);
	else if (at != U64_MAX)
		mod_delayed_work(c->wq, &c->tick, at > now ? nsecs_to_jiffies(at - now) + 1 : 0);
	wake_up_all(&c->wait);
}

static void dmr_own_turn(struct dmr *c)
{
	unsigned int noio = memalloc_noio_save();

	mutex_lock(&c->owner);
	dmr_take_turn(c);
	dmr_grace(c);
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
	quiet = !c->out && bio_list_empty(&c->backlog) && llist_empty(&c->done) && list_empty(&c->calls);
	mutex_unlock(&c->owner);
	return quiet;
}

/*
 * Waits until nothing is under way, then stops. Messages that are being done come to their end: who sent one holds the table until it is answered,
 * and a table that replaces it waits for that.
 */
void dmr_rest(struct dmr *c)
{
	if (!c->running)
		return;
	mutex_lock(&c->owner);
	c->resting = true;
	mutex_unlock(&c->owner);
	while (!dmr_is_quiet(c))
		wait_event_timeout(c->wait, !READ_ONCE(c->out) && list_empty(&c->calls), HZ / 10);
	mutex_lock(&c->owner);
	c->running = c->resting = false;
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

/* Owner. Which of the given spares are of the volume; bios find their spare by it. */
void dmr_describe(struct dmr *c)
{
	struct dmr_shape shape;
	unsigned int i, j;
	u32 number;

	dmr_shape(c->volume, &shape);
	for (i = 0; i < c->table.spares; i++) {
		number = ~0;
		for (j = 0; j < DMR_MAX_SPARES; j++)
			if (shape.spare[j] == i)
				number = j;
		WRITE_ONCE(c->spares[i].number, number);
	}
	for (j = 0; j < DMR_MAX_SPARES; j++)
		WRITE_ONCE(c->given[j], shape.spare[j]);
	c->block_size = shape.block_size;
	c->logical_block = shape.logical_block;
}

/* Assembles the volume, unless it was only resting, and begins to serve it. */
int dmr_serve(struct dmr *c)
{
	struct dmr_volume *volume = NULL;
	bool fresh = !c->volume;
	u32 state;
	int r;

	if (fresh) {
		r = dmr_assemble_it(c, &volume, 0);
		if (r) {
			DMERR("%s: %s", dm_table_device_name(c->ti->table), c->text);
			return r;
		}
		if (c->text[0])
			DMINFO("%s: %s", dm_table_device_name(c->ti->table), c->text);
		mutex_lock(&c->owner);
		c->volume = volume;
		dmr_describe(c);
		dmr_view(c->volume, &c->view);
		mutex_unlock(&c->owner);
		dmr_count_from_here(c);
		if (c->logical_block > bdev_logical_block_size(c->main->bdev)) {
			DMERR("%s: the volume has logical blocks of %u bytes, its main device now has smaller ones; use 'dm-remap serve'",
			      dm_table_device_name(c->ti->table), c->logical_block);
			dmr_end(c);
			return -EINVAL;
		}
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
	struct dmr_volume *volume;
	unsigned int i;

	mutex_lock(&c->owner);
	volume = c->volume;
	c->volume = NULL;
	mutex_unlock(&c->owner);
	if (!volume)
		return;
	dmr_free_it(c, volume);
	for (i = 0; i < DMR_MAX_BOUNCES; i++) {
		kfree(c->bounce[i]);
		c->bounce[i] = NULL;
	}
}
