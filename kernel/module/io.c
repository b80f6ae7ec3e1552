// SPDX-License-Identifier: GPL-2.0
/* Operations on devices: bios of our own, their faults, and what assembly reads and writes. */

#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "shim.h"

#ifndef BLK_STS_NEXUS
#define BLK_STS_NEXUS BLK_STS_RESV_CONFLICT
#endif

/* What a status says of an operation on this device. The only place where the two meet. */
u32 dmr_fault_of(struct block_device *bdev, blk_status_t status)
{
	switch (status) {
	case BLK_STS_OK:
		return DMR_OK;
	case BLK_STS_MEDIUM:
		return DMR_MEDIUM;
	case BLK_STS_PROTECTION:
		return DMR_PROTECTION;
	case BLK_STS_TRANSPORT:
	case BLK_STS_NEXUS:
		return DMR_TRANSPORT;
	case BLK_STS_TIMEOUT:
		return DMR_TIMEOUT;
	case BLK_STS_OFFLINE:
		return DMR_GONE;
	case BLK_STS_NOSPC:
		return DMR_NOSPACE;
	case BLK_STS_NOTSUPP:
		return DMR_UNSUPPORTED;
	case BLK_STS_RESOURCE:
	case BLK_STS_DEV_RESOURCE:
	case BLK_STS_AGAIN:
		return DMR_NOMEMORY;
	default:
		/* A device that was pulled fails what is out with an error that says nothing. */
		if (blk_queue_dying(bdev_get_queue(bdev)) || !bdev_nr_sectors(bdev))
			return DMR_GONE;
		return DMR_UNKNOWN;
	}
}

/* What the client is told. A lost sector is EIO, as from a disk, and not ENODATA, which file systems take for something else. */
blk_status_t dmr_status_of(u32 fault)
{
	switch (fault) {
	case DMR_OK:
		return BLK_STS_OK;
	case DMR_PROTECTION:
		return BLK_STS_PROTECTION;
	case DMR_TRANSPORT:
		return BLK_STS_TRANSPORT;
	case DMR_TIMEOUT:
		return BLK_STS_TIMEOUT;
	case DMR_NOSPACE:
		return BLK_STS_NOSPC;
	case DMR_UNSUPPORTED:
		return BLK_STS_NOTSUPP;
	case DMR_NOMEMORY:
		return BLK_STS_RESOURCE;
	default:
		return BLK_STS_IOERR;
	}
}

static unsigned int dmr_pages(const void *bytes, size_t len)
{
	return DIV_ROUND_UP(offset_in_page(bytes) + len, PAGE_SIZE);
}

/* Bytes from the allocator, wherever they are. The bio has room for their pages. */
static void dmr_add_bytes(struct bio *bio, const void *bytes, size_t len)
{
	while (len) {
		struct page *page = is_vmalloc_addr(bytes) ? vmalloc_to_page(bytes) : virt_to_page(bytes);
		unsigned int part = min_t(size_t, len, PAGE_SIZE - offset_in_page(bytes));

		__bio_add_page(bio, page, part, offset_in_page(bytes));
		bytes += part;
		len -= part;
	}
}

static struct block_device *dmr_device(struct dmr *c, u32 device, sector_t *start)
{
	u32 given;

	*start = 0;
	if (device == DMR_MAIN)
		return c->main->bdev;
	given = device <= DMR_MAX_SPARES ? c->given[device - 1] : ~0;
	if (given >= c->table.spares)
		return NULL;
	*start = c->spares[given].start;
	return c->spares[given].dev->bdev;
}

/* Any context. */
void dmr_ended(struct dmr_io *io)
{
	struct dmr *c = io->c;

	llist_add(&io->done, &c->done);
	dmr_kick(c);
}

static void dmr_bio_ended(struct bio *bio)
{
	struct dmr_io *io = bio->bi_private;

	io->status = bio->bi_status;
	bio_put(bio);
	dmr_ended(io);
}

/* A bio for the next sectors of the operation. */
static struct bio *dmr_make_bio(struct dmr_io *io, struct block_device *bdev)
{
	struct dmr_op *op = &io->op;
	struct dmr *c = io->c;
	u64 left = op->sectors - io->sectors_done;
	u64 most = DMR_CHUNK_PAGES * PAGE_SECTORS;
	blk_opf_t opf = (op->kind == DMR_READ ? REQ_OP_READ : REQ_OP_WRITE) | REQ_SYNC;
	size_t at = op->offset + (io->sectors_done << SECTOR_SHIFT);
	const void *bytes = op->bytes;
	struct bio *bio;

	if (op->flags & DMR_FUA)
		opf |= REQ_FUA;
	if (op->kind == DMR_FLUSH)
		return bio_alloc_bioset(bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC, GFP_NOIO, &c->bios);
	if (op->kind == DMR_ZEROES && !io->plain_zeroes) {
		io->sectors_out = min_t(u64, left, UINT_MAX >> SECTOR_SHIFT);
		opf = REQ_OP_WRITE_ZEROES | REQ_SYNC | (op->flags & DMR_FUA ? REQ_FUA : 0) |
		      (op->flags & DMR_UNMAP ? 0 : REQ_NOUNMAP);
		bio = bio_alloc_bioset(bdev, 0, opf, GFP_NOIO, &c->bios);
		bio->bi_iter.bi_size = io->sectors_out << SECTOR_SHIFT;
		return bio;
	}
	if (op->source == DMR_REQUEST) {
		struct bio *held = (struct bio *)(unsigned long)op->cookie;

		io->sectors_out = left;
		bio = bio_alloc_clone(bdev, held, GFP_NOIO, &c->bios);
		bio_set_dev(bio, bdev);		/* the held one may have been moved to its partition's place */
		bio->bi_opf = opf;
		bio->bi_iter = dmr_bio(held)->iter;
		if (at)
			bio_advance(bio, at);
		bio->bi_iter.bi_size = left << SECTOR_SHIFT;
		return bio;
	}
	io->sectors_out = min(left, most);
	if (op->kind == DMR_ZEROES) {
		bio = bio_alloc_bioset(bdev, DIV_ROUND_UP(io->sectors_out, PAGE_SECTORS), opf, GFP_NOIO, &c->bios);
		for (left = io->sectors_out; left; left -= min_t(u64, left, PAGE_SECTORS))
			__bio_add_page(bio, ZERO_PAGE(0), min_t(u64, left, PAGE_SECTORS) << SECTOR_SHIFT, 0);
		return bio;
	}
	if (op->source == DMR_BOUNCE) {
		/* One block is at most 64 KiB; of order 3 and below the allocator does not refuse. */
		if (!c->bounce[op->cookie])
			c->bounce[op->cookie] = kmalloc(c->block_size, GFP_NOIO);
		bytes = c->bounce[op->cookie];
		if (!bytes)
			return NULL;
	}
	bytes += at;
	bio = bio_alloc_bioset(bdev, dmr_pages(bytes, io->sectors_out << SECTOR_SHIFT), opf, GFP_NOIO, &c->bios);
	dmr_add_bytes(bio, bytes, io->sectors_out << SECTOR_SHIFT);
	return bio;
}

/* Owner. Begins the operation, or the rest of it. */
void dmr_begin(struct dmr_io *io)
{
	struct dmr_op *op = &io->op;
	struct block_device *bdev;
	struct bio *bio;
	sector_t start;

	if (op->kind == DMR_GRACE) {
		list_add_tail(&io->list, &io->c->graces);
		dmr_kick(io->c);
		return;
	}
	bdev = dmr_device(io->c, op->device, &start);
	if (!bdev || op->kind == DMR_DISCARD) {
		io->status = bdev ? BLK_STS_OK : BLK_STS_OFFLINE;
		io->sectors_out = op->sectors;
		dmr_ended(io);
		return;
	}
	if (op->kind == DMR_ZEROES && !bdev_write_zeroes_sectors(bdev))
		io->plain_zeroes = true;
	bio = dmr_make_bio(io, bdev);
	if (!bio) {
		io->status = BLK_STS_RESOURCE;
		dmr_ended(io);
		return;
	}
	if (op->kind != DMR_FLUSH)
		bio->bi_iter.bi_sector = start + op->sector + io->sectors_done;
	bio->bi_end_io = dmr_bio_ended;
	bio->bi_private = io;
	submit_bio(bio);
}

/* Owner. A part of the operation ended: is there more to do? Else how did it end? */
bool dmr_goes_on(struct dmr_io *io, u32 *fault)
{
	struct dmr_op *op = &io->op;
	struct block_device *bdev;
	sector_t start;

	*fault = DMR_OK;
	if (op->kind == DMR_GRACE)
		return false;
	bdev = dmr_device(io->c, op->device, &start);
	*fault = bdev ? dmr_fault_of(bdev, io->status) : DMR_GONE;
	if (op->kind == DMR_ZEROES && *fault == DMR_UNSUPPORTED && !io->plain_zeroes) {
		io->plain_zeroes = true;
		return true;
	}
	if (*fault != DMR_OK || op->kind == DMR_FLUSH)
		return false;
	io->sectors_done += io->sectors_out;
	return io->sectors_done < op->sectors;
}

/* ---- assembly: nothing is in service, everything waits ---- */

static u32 dmr_wait_for(struct dmr *c, u32 device, u64 offset, size_t bytes, blk_opf_t opf)
{
	struct block_device *bdev = c->main->bdev;
	struct bio *bio;
	sector_t start = 0;
	u32 fault;

	if (device != DMR_MAIN) {	/* here by its place in the table line */
		bdev = c->spares[device - 1].dev->bdev;
		start = c->spares[device - 1].start;
	}
	bio = bio_alloc(bdev, dmr_pages(c->scratch, bytes), opf, GFP_KERNEL);
	bio->bi_iter.bi_sector = start + (offset >> SECTOR_SHIFT);
	dmr_add_bytes(bio, c->scratch, bytes);
	submit_bio_wait(bio);
	fault = dmr_fault_of(bdev, bio->bi_status);
	bio_put(bio);
	return fault;
}

u32 dmr_read_device(void *context, u32 device, u64 offset, void *into, size_t bytes)
{
	struct dmr *c = context;

	while (bytes) {
		size_t part = min_t(size_t, bytes, DMR_SCRATCH);
		u32 fault = dmr_wait_for(c, device, offset, part, REQ_OP_READ | REQ_SYNC);

		if (fault != DMR_OK)
			return fault;
		memcpy(into, c->scratch, part);
		into += part;
		offset += part;
		bytes -= part;
	}
	return DMR_OK;
}

u32 dmr_zero_device(void *context, u32 device, u64 offset, size_t bytes)
{
	struct dmr *c = context;

	memset(c->scratch, 0, DMR_SCRATCH);
	while (bytes) {
		size_t part = min_t(size_t, bytes, DMR_SCRATCH);
		u32 fault = dmr_wait_for(c, device, offset, part, REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA);

		if (fault != DMR_OK)
			return fault;
		offset += part;
		bytes -= part;
	}
	return DMR_OK;
}
