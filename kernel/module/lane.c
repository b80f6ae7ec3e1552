// SPDX-License-Identifier: GPL-2.0
/*
 * The fast lane: bios go straight to a device, many at once, without a lock. Why none of them is lost by a move (C11): README.md.
 */

#include <linux/part_stat.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include "shim.h"

/* ---- who is under way ---- */

/* The caller is not preempted before it has looked up. */
static __always_inline unsigned int dmr_count_in(struct dmr *c)
{
	/* Whoever sees an epoch sees all moves that were published before it began. */
	unsigned int epoch = smp_load_acquire(&c->epoch) & DMR_EPOCH;

	this_cpu_inc(c->cpu->out[epoch]);
	return epoch;
}

static __always_inline void dmr_count_out(struct dmr *c, unsigned int epoch)
{
	/* On x86 a store is not seen before what this cpu did in front of it: what the bio did is over. */
	barrier();
	this_cpu_dec(c->cpu->out[epoch]);
}

static unsigned int dmr_under_way(struct dmr *c, unsigned int epoch)
{
	unsigned int sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += READ_ONCE(per_cpu_ptr(c->cpu, cpu)->out[epoch]);
	return sum;
}

/* Owner, not on the other stack. Ends the operations that waited for bios, if these have ended. */
void dmr_grace(struct dmr *c)
{
	struct dmr_io *io, *next;

	if (list_empty(&c->draining)) {
		if (list_empty(&c->graces))
			return;
		list_splice_init(&c->graces, &c->draining);
		smp_store_release(&c->epoch, !c->epoch);
		/* Whoever may not have seen the moves is counted in the other epoch now, and nobody else will be. */
		synchronize_rcu_expedited();
	}
	if (dmr_under_way(c, !c->epoch)) {
		mod_delayed_work(c->wq, &c->tick, 1);
		return;
	}
	smp_rmb();			/* what they did is over before what comes next begins */
	list_for_each_entry_safe(io, next, &c->draining, list) {
		list_del(&io->list);
		io->status = BLK_STS_OK;
		dmr_ended(io);
	}
}

/* ---- map ---- */

/* What is asked; -1: something that this target does not do. */
static int dmr_kind(const struct bio *bio)
{
	switch (bio_op(bio)) {
	case REQ_OP_READ:
		return DMR_READ;
	case REQ_OP_WRITE:
		return DMR_WRITE;
	case REQ_OP_WRITE_ZEROES:
		return DMR_ZEROES;
	case REQ_OP_DISCARD:
		return DMR_DISCARD;
	default:
		return -1;
	}
}

/* Any context. The bio is the owner's until its request ends. `iter` says what of it is asked for. */
static void dmr_hold(struct dmr *c, struct bio *bio, u64 sector, const struct bvec_iter *iter, u8 flags)
{
	struct dmr_bio *b = dmr_bio(bio);
	unsigned long irq;

	b->iter = *iter;
	b->sector = sector;
	b->sectors = iter->bi_size >> SECTOR_SHIFT;
	b->kind = dmr_kind(bio);
	b->flags = flags;
	if (b->kind == DMR_ZEROES && !(bio->bi_opf & REQ_NOUNMAP))
		b->flags |= DMR_UNMAP;
	bio->bi_private = NULL;
	atomic64_inc(&c->counts[DMR_SLOW]);
	spin_lock_irqsave(&c->incoming_lock, irq);
	bio_list_add(&c->incoming, bio);
	spin_unlock_irqrestore(&c->incoming_lock, irq);
	dmr_kick(c);
}

static __always_inline int dmr_send(struct bio *bio, struct block_device *bdev, u64 sector, void *ticket)
{
	bio->bi_private = ticket;
	bio->bi_iter.bi_sector = sector;
	bio_set_dev(bio, bdev);		/* calls: nothing is kept over it */
	return DM_MAPIO_REMAPPED;
}

/* Does it begin elsewhere than with its first vector? Then it is the rest of one that was split. */
static __always_inline bool dmr_is_part(const struct bio *bio)
{
	return bio->bi_iter.bi_idx | bio->bi_iter.bi_bvec_done;
}

/* An empty one for each device of the table line. */
static int dmr_map_flush(struct dmr *c, struct bio *bio)
{
	unsigned int device = dm_bio_get_target_bio_nr(bio);

	if (device == DMR_MAIN) {
		atomic64_inc(&c->counts[DMR_FLUSHES]);
	} else if (!(READ_ONCE(c->shared.members) >> device & 1)) {	/* not, or no longer, of the volume */
		bio->bi_private = NULL;
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
	bio->bi_private = dmr_ticket(1, 0, device, 0);
	bio_set_dev(bio, c->devs[device]->bdev);
	return DM_MAPIO_REMAPPED;
}

/* Whatever is not a read or a write of the main device. */
static noinline int dmr_map_other(struct dmr *c, struct bio *bio, u64 sector)
{
	u32 sectors = bio_sectors(bio), kind, device;
	struct dmr_place place;
	unsigned int counted;

	if (bio->bi_opf & REQ_PREFLUSH)
		return dmr_map_flush(c, bio);
	if (dmr_kind(bio) < 0)
		return DM_MAPIO_KILL;
	kind = dmr_kind(bio);
	if (kind != DMR_DISCARD)	/* those are not asked for again if they fail */
		sectors = min_t(u32, sectors, DMR_TICKET_SECTORS);
	preempt_disable();
	counted = DMR_COUNTED | dmr_count_in(c);
	place = dmr_map(c->shared.view.lookup, sector, sectors, kind);
	preempt_enable();
	if (place.sectors < bio_sectors(bio))
		dm_accept_partial_bio(bio, place.sectors);
	sectors = kind == DMR_DISCARD ? 1 : place.sectors;
	if (dmr_is_part(bio)) {
		dmr_bio(bio)->iter = bio->bi_iter;
		sectors = DMR_KEPT;
	}
	if (place.lane == DMR_LANE_MAIN)
		return dmr_send(bio, c->main, place.sector, dmr_ticket(sector, sectors, DMR_MAIN, counted));
	if (place.lane == DMR_LANE_SPARE) {
		device = READ_ONCE(c->shared.device_of[place.spare]);
		if (likely(device)) {
			this_cpu_inc(c->cpu->remapped);
			return dmr_send(bio, c->devs[device]->bdev, c->shared.devices[device].start + place.sector,
					dmr_ticket(sector, sectors, device, counted));
		}
	}
	dmr_count_out(c, counted & DMR_EPOCH);
	if (place.lane == DMR_LANE_NOBODY) {
		bio->bi_private = NULL;
		bio_endio(bio);
	} else {
		dmr_hold(c, bio, sector, &bio->bi_iter, bio->bi_opf & REQ_FUA ? DMR_FUA : 0);
	}
	return DM_MAPIO_SUBMITTED;
}

/* It was counted for nothing. */
static noinline int dmr_map_counted(struct dmr *c, struct bio *bio, u64 sector, unsigned int epoch)
{
	dmr_count_out(c, epoch);
	preempt_enable();
	return dmr_map_other(c, bio, sector);
}

int dmr_target_map(struct dm_target *ti, struct bio *bio)
{
	struct dmr *c = ti->private;
	u64 sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	unsigned int what = (__force u32)(bio->bi_opf & (REQ_OP_MASK | REQ_PREFLUSH));
	u32 sectors = bio_sectors(bio);
	unsigned int epoch;

	if (unlikely(what > REQ_OP_WRITE || sectors > DMR_TICKET_SECTORS || dmr_is_part(bio)))
		return dmr_map_other(c, bio, sector);
	if (what == REQ_OP_READ) {	/* of the main device: no move has to wait for it */
		if (!dmr_is_on_main(&c->shared.view, sector, sectors))
			return dmr_map_other(c, bio, sector);
		return dmr_send(bio, c->main, sector, dmr_ticket(sector, sectors, DMR_MAIN, 0));
	}
	preempt_disable();
	epoch = dmr_count_in(c);
	if (unlikely(!dmr_is_on_main(&c->shared.view, sector, sectors)))
		return dmr_map_counted(c, bio, sector, epoch);
	preempt_enable();
	return dmr_send(bio, c->main, sector, dmr_ticket(sector, sectors, DMR_MAIN, DMR_COUNTED | epoch));
}

/* ---- the end ---- */

static noinline int dmr_failed(struct dmr *c, struct bio *bio, unsigned long ticket, blk_status_t *error)
{
	u32 device = ticket >> 2 & 31, sectors = ticket >> 7 & 32767;
	/* As it came: how far the device has moved the bio's own one on says nothing for sure. */
	struct bvec_iter iter = { .bi_size = sectors << SECTOR_SHIFT };
	bool read = bio_op(bio) == REQ_OP_READ;

	/* It was the owner's, or whoever must not wait is told to come again. */
	if (!ticket || *error == BLK_STS_AGAIN)
		return DM_ENDIO_DONE;
	bio->bi_private = NULL;
	if (sectors && bio_op(bio) == REQ_OP_DISCARD) {	/* a hint */
		if (*error != BLK_STS_NOTSUPP)
			*error = BLK_STS_OK;
		return DM_ENDIO_DONE;
	}
	if (sectors) {
		atomic64_inc(&c->counts[read ? DMR_READ_ERRORS : DMR_WRITE_ERRORS]);
		if (dmr_blames_medium(dmr_error_of(c->devs[device]->bdev, *error))) {
			if (sectors == DMR_KEPT)
				iter = dmr_bio(bio)->iter;
			/* Whether it was to be durable at once may be forgotten by now (devices without a cache drop the flag). */
			dmr_hold(c, bio, ticket >> 22, &iter, DMR_FUA);
			return DM_ENDIO_INCOMPLETE;
		}
		atomic64_inc(&c->counts[read ? DMR_FAILED_READS : DMR_FAILED_WRITES]);
	}
	set_bit(device * 64 + (sectors ? 0 : 32) + min_t(u32, (__force u32)*error, 31), c->faults);
	dmr_kick(c);
	return DM_ENDIO_DONE;
}

int dmr_target_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	unsigned long ticket = (unsigned long)bio->bi_private;

	if (ticket & DMR_COUNTED)
		dmr_count_out(ti->private, ticket & DMR_EPOCH);
	if (likely(*error == BLK_STS_OK))
		return DM_ENDIO_DONE;
	return dmr_failed(ti->private, bio, ticket, error);
}

/* What was counted until now, here and by device-mapper itself (for each part of a bio). */
void dmr_count(struct dmr *c)
{
	struct block_device *disk = dmr_disk(c)->part0;
	u64 *counts = c->shared.counts;
	int i;

	for (i = 0; i < DMR_COUNTS; i++)
		counts[i] = atomic64_read(&c->counts[i]);
	counts[DMR_READS] = part_stat_read(disk, ios[STAT_READ]);
	counts[DMR_WRITES] = part_stat_read(disk, ios[STAT_WRITE]);
	counts[DMR_DISCARDS] = part_stat_read(disk, ios[STAT_DISCARD]);
	counts[DMR_READ_SECTORS] = part_stat_read(disk, sectors[STAT_READ]);
	counts[DMR_WRITTEN_SECTORS] = part_stat_read(disk, sectors[STAT_WRITE]);
	for_each_possible_cpu(i)
		counts[DMR_REMAPPED] += READ_ONCE(per_cpu_ptr(c->cpu, i)->remapped);
}
