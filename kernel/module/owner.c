// SPDX-License-Identifier: GPL-2.0
/* The owner: has the Rust object take turns, answers messages, puts the volume in service and takes it out. One thread at a time, under c->owner. */

#include <linux/ktime.h>
#include "shim.h"

/* Any context. */
void dmr_kick(struct dmr *c)
{
	queue_work(c->wq, &c->work);
}

/* ---- what the Rust object calls in a turn ---- */

void dmr_end_request(struct dmr *c, u64 cookie, int error)
{
	struct bio *bio = (struct bio *)(unsigned long)cookie;

	if (error)
		atomic64_inc(&c->counts[dmr_bio(bio)->kind == DMR_READ ? DMR_FAILED_READS : DMR_FAILED_WRITES]);
	hlist_del_init(&dmr_bio(bio)->held);
	bio->bi_status = errno_to_blk_status(error);
	bio_endio(bio);
}

bool dmr_next(struct dmr *c, struct dmr_input *input, bool requests)
{
	unsigned int bit = find_first_bit(c->faults, DMR_DEVICES * 64);
	struct bio *bio;

	*input = (struct dmr_input){ .is = DMR_ENDED };
	while (c->ended) {
		struct dmr_io *io = llist_entry(c->ended, struct dmr_io, done);

		c->ended = c->ended->next;
		if (dmr_goes_on(io, &input->error))
			continue;
		input->number = io->op.slot;
		c->ios_out--;
		return true;
	}
	if (bit < DMR_DEVICES * 64) {
		clear_bit(bit, c->faults);
		input->is = bit & 32 ? DMR_FLUSH_FAULT : DMR_FAULT;
		input->number = bit / 64;
		input->error = dmr_error_of(c->devs[input->number]->bdev, (__force blk_status_t)(bit % 32));
		return true;
	}
	bio = requests ? bio_list_pop(&c->backlog) : NULL;
	if (!bio)
		return false;
	hlist_add_head(&dmr_bio(bio)->held, &c->held);
	*input = (struct dmr_input){
		.is = DMR_REQUEST, .cookie = (unsigned long)bio, .kind = dmr_bio(bio)->kind, .flags = dmr_bio(bio)->flags,
		.sector = dmr_bio(bio)->sector, .sectors = dmr_bio(bio)->sectors,
	};
	return true;
}

/* ---- turns ---- */

/*
 * The target has failed: what the engine was to decide fails, its requests when no device works on their pages any more. The fast lane goes on:
 * at any moment the view says what is so on the devices, or to ask the owner.
 */
static void dmr_turn_failed(struct dmr *c)
{
	struct hlist_node *next;
	struct dmr_bio *held;
	struct bio *bio;

	for (; c->ended; c->ended = c->ended->next)
		c->ios_out--;
	while ((bio = bio_list_pop(&c->backlog)))
		hlist_add_head(&dmr_bio(bio)->held, &c->held);
	if (!c->ios_out)
		hlist_for_each_entry_safe(held, next, &c->held, held)
			dmr_end_request(c, (unsigned long)dm_bio_from_per_bio_data(held, sizeof(*held)), -EIO);
	c->shared.timeout = U64_MAX;
	c->shared.state = DMR_IS_FROZEN | (c->ios_out ? DMR_IS_BUSY : 0);
}

static void dmr_turn(struct dmr *c)
{
	struct dmr_ask ask = { .what = DMR_TURN };
	u64 at, now;

	c->ended = llist_reverse_order(llist_del_all(&c->done));
	spin_lock_irq(&c->incoming_lock);
	bio_list_merge(&c->backlog, &c->incoming);
	bio_list_init(&c->incoming);
	spin_unlock_irq(&c->incoming_lock);
	if (dmr_enter(c, &ask) == -EIO)
		dmr_turn_failed(c);
	at = c->shared.timeout;
	now = ktime_get_ns();
	if (at != U64_MAX)
		mod_delayed_work(c->wq, &c->tick, at > now ? nsecs_to_jiffies(at - now) + 1 : 0);
	dmr_grace(c);
	wake_up_all(&c->wait);
}

static void dmr_own_turn(struct dmr *c)
{
	mutex_lock(&c->owner);
	if (c->running)			/* else the stack may be in use by an assembly, or an end */
		dmr_turn(c);
	mutex_unlock(&c->owner);
}

void dmr_work(struct work_struct *work)
{
	dmr_own_turn(container_of(work, struct dmr, work));
}

void dmr_tick(struct work_struct *work)
{
	dmr_own_turn(container_of(to_delayed_work(work), struct dmr, tick));
}

/* ---- questions ---- */

/* Asks under c->owner. -ENODEV: there is no volume, or one that is suspended and to begin something. */
int dmr_ask(struct dmr *c, struct dmr_ask *ask)
{
	ask->result = -ENODEV;
	mutex_lock(&c->owner);
	if (ask->what == DMR_MESSAGE ? c->running && !c->resting : c->assembled) {
		dmr_count(c);
		dmr_enter(c, ask);
		if (ask->what == DMR_MESSAGE || ask->what == DMR_TUNE)
			dmr_kick(c);
	}
	mutex_unlock(&c->owner);
	return ask->result;
}

/*
 * Answers a message; waits, unless it is killed, for what takes time. (device-mapper gives the words of the message in the memory that
 * is to take the answer.)
 */
int dmr_speak(struct dmr *c, unsigned int argc, char **argv, char *result, unsigned int room)
{
	struct dmr_ask ask = {
		.what = DMR_MESSAGE, .argc = argc, .argv = (const char *const *)argv,
		.text = kzalloc(DMR_ANSWER, GFP_KERNEL), .room = DMR_ANSWER,
	};
	u32 seen;
	int r = 0;

	if (!ask.text)
		return -ENOMEM;
	seen = READ_ONCE(c->shared.answers);
	if (dmr_ask(c, &ask) == -ENODEV)
		snprintf(ask.text, ask.room, "error: the device is suspended: resume it first");
	while (ask.result > 0 && !r) {
		r = wait_event_killable(c->wait, READ_ONCE(c->shared.answers) != seen);
		seen = READ_ONCE(c->shared.answers);
		ask.what = r ? DMR_FORGET : DMR_RESULT;
		dmr_ask(c, &ask);
	}
	strscpy(result, ask.text, room);
	kfree(ask.text);
	return r;
}

/* ---- in and out of service ---- */

/*
 * Waits until nothing is under way, then stops. Messages that are being done come to their end: who sent one holds the table until it is answered,
 * and a table that replaces it waits for that.
 */
void dmr_rest(struct dmr *c)
{
	flush_work(&c->work);
	mutex_lock(&c->owner);
	c->resting = true;
	while (c->running && (c->shared.state & DMR_IS_BUSY || !llist_empty(&c->done))) {
		mutex_unlock(&c->owner);
		wait_event_timeout(c->wait, !(READ_ONCE(c->shared.state) & DMR_IS_BUSY), HZ / 10);
		flush_work(&c->work);
		mutex_lock(&c->owner);
	}
	c->running = c->resting = false;
	mutex_unlock(&c->owner);
	cancel_delayed_work_sync(&c->tick);
}

/* Assembles the volume, unless it was only resting, and begins to serve it. */
int dmr_serve(struct dmr *c)
{
	struct dmr_ask ask = { .what = DMR_ASSEMBLE };
	bool fresh = !c->assembled;
	int r;

	if (fresh) {
		dmr_count(c);		/* what was before is not of this table */
		r = dmr_enter(c, &ask);
		if (r)
			return r;
	}
	mutex_lock(&c->owner);
	c->assembled = c->running = true;
	mutex_unlock(&c->owner);
	dmr_kick(c);
	if (!fresh)
		return 0;
	/* The copies are brought in step before anything is served. */
	wait_event(c->wait, READ_ONCE(c->shared.state) & (DMR_IS_LIVE | DMR_IS_FROZEN));
	if (c->shared.state & DMR_IS_LIVE)
		return 0;
	DMERR("%s: cannot write metadata to the spare; nothing is served", dm_table_device_name(c->ti->table));
	dmr_rest(c);
	dmr_end(c);
	return -EIO;
}

/* Nothing is out. What was not durable was not acknowledged. */
void dmr_end(struct dmr *c)
{
	struct dmr_ask ask = { .what = DMR_END };

	mutex_lock(&c->owner);
	c->assembled = false;
	mutex_unlock(&c->owner);
	dmr_enter(c, &ask);
}
