// SPDX-License-Identifier: GPL-2.0
/* Operations on devices: bios of our own, their errors, and what assembly reads and writes. */

#include <linux/mm.h>
#include <linux/vmalloc.h>
#include "shim.h"

#define DMR_CHUNK_PAGES 128		/* pages of a bio of our own */

/* The block layer's own table says what a status means. */
int dmr_error_of(struct block_device *bdev, blk_status_t status)
{
	int error = blk_status_to_errno(status);

	/* A device that was pulled fails what is out with an error that says nothing. */
	if (error == -EIO && (blk_queue_dying(bdev_get_queue(bdev)) || !bdev_nr_sectors(bdev)))
		return -ENODEV;
	return error;
}

/* Any context. */
void dmr_ended(struct dmr_io *io)
{
	llist_add(&io->done, &io->c->done);
	dmr_kick(io->c);
}

static void dmr_bio_ended(struct bio *bio)
{
	struct dmr_io *io = bio->bi_private;

	io->status = bio->bi_status;
	bio_put(bio);
	dmr_ended(io);
}

/* A bio with bytes from the allocator, wherever they are; NULL: zeroes. */
static struct bio *dmr_bytes_bio(struct block_device *bdev, const void *bytes, size_t len, blk_opf_t opf, struct bio_set *bios)
{
	struct bio *bio = bio_alloc_bioset(bdev, DIV_ROUND_UP(offset_in_page(bytes) + len, PAGE_SIZE), opf, GFP_NOIO, bios);
	struct page *page = ZERO_PAGE(0);
	unsigned int part;

	for (; len; len -= part) {
		part = min_t(size_t, len, PAGE_SIZE - offset_in_page(bytes));
		if (bytes)
			page = is_vmalloc_addr(bytes) ? vmalloc_to_page(bytes) : virt_to_page(bytes);
		__bio_add_page(bio, page, part, offset_in_page(bytes));
		if (bytes)
			bytes += part;
	}
	return bio;
}

/* A bio with the bytes of a request from a byte offset on. */
static struct bio *dmr_request_bio(struct block_device *bdev, struct bio *held, size_t at, blk_opf_t opf, struct bio_set *bios)
{
	struct bio *bio = bio_alloc_clone(bdev, held, GFP_NOIO, bios);

	if (!bio)
		return NULL;
	bio_set_dev(bio, bdev);		/* the held one may have been moved to its partition's place */
	bio->bi_opf = opf;
	bio->bi_iter = dmr_bio(held)->iter;
	if (at)
		bio_advance(bio, at);
	return bio;
}

/* A bio for the next sectors of the operation. */
static struct bio *dmr_make_bio(struct dmr_io *io, struct block_device *bdev)
{
	const struct dmr_op *op = &io->op;
	struct bio_set *bios = &io->c->bios;
	size_t at = op->offset + (io->sectors_done << SECTOR_SHIFT);
	blk_opf_t opf = REQ_SYNC | (op->flags & DMR_FUA ? REQ_FUA : 0);
	struct bio *bio;

	io->sectors_out = op->sectors - io->sectors_done;
	if (op->kind == DMR_FLUSH)
		return bio_alloc_bioset(bdev, 0, REQ_OP_WRITE | REQ_PREFLUSH | REQ_SYNC, GFP_NOIO, bios);
	if (op->kind == DMR_ZEROES && !io->plain_zeroes) {
		opf |= REQ_OP_WRITE_ZEROES | (op->flags & DMR_UNMAP ? 0 : REQ_NOUNMAP);
		io->sectors_out = min_t(u64, io->sectors_out, UINT_MAX >> SECTOR_SHIFT);
		bio = bio_alloc_bioset(bdev, 0, opf, GFP_NOIO, bios);
	} else {
		opf |= op->kind == DMR_READ ? REQ_OP_READ : REQ_OP_WRITE;
		if (op->cookie) {
			bio = dmr_request_bio(bdev, (struct bio *)(unsigned long)op->cookie, at, opf, bios);
		} else {
			io->sectors_out = min_t(u64, io->sectors_out, DMR_CHUNK_PAGES * PAGE_SECTORS);
			bio = dmr_bytes_bio(bdev, op->bytes ? op->bytes + at : NULL, io->sectors_out << SECTOR_SHIFT, opf, bios);
		}
	}
	if (!bio)
		return NULL;
	bio->bi_iter.bi_size = io->sectors_out << SECTOR_SHIFT;
	bio->bi_iter.bi_sector = io->c->shared.devices[op->device].start + op->sector + io->sectors_done;
	return bio;
}

/* Owner. Begins the operation, or the rest of it. */
static void dmr_go(struct dmr_io *io)
{
	struct block_device *bdev = io->c->devs[io->op.device]->bdev;
	struct bio *bio;

	if (io->op.kind == DMR_ZEROES && !bdev_write_zeroes_sectors(bdev))
		io->plain_zeroes = true;
	bio = dmr_make_bio(io, bdev);
	if (!bio) {
		io->status = BLK_STS_RESOURCE;
		dmr_ended(io);
		return;
	}
	bio->bi_end_io = dmr_bio_ended;
	bio->bi_private = io;
	submit_bio(bio);
}

void dmr_begin(struct dmr *c, const struct dmr_op *op)
{
	struct dmr_io *io = &c->ios[op->slot];

	*io = (struct dmr_io){ .c = c, .op = *op };
	c->ios_out++;
	if (op->kind == DMR_GRACE)
		list_add_tail(&io->list, &c->graces);
	else
		dmr_go(io);
}

/* Owner. A part of the operation ended. False: that was all, and `error` says how it ended. */
bool dmr_goes_on(struct dmr_io *io, int *error)
{
	*error = dmr_error_of(io->c->devs[io->op.device]->bdev, io->status);
	if (io->op.kind == DMR_ZEROES && *error == -EOPNOTSUPP && !io->plain_zeroes) {
		io->plain_zeroes = true;
	} else {
		io->sectors_done += io->sectors_out;
		if (*error || io->op.kind >= DMR_FLUSH || io->sectors_done >= io->op.sectors)
			return false;
	}
	dmr_go(io);
	return true;
}

/* Assembly: nothing is in service, everything waits. */
int dmr_wait(struct dmr *c, u32 device, u64 sector, u32 bytes, bool write)
{
	struct block_device *bdev = c->devs[device]->bdev;
	blk_opf_t opf = write ? REQ_OP_WRITE | REQ_SYNC | REQ_PREFLUSH | REQ_FUA : REQ_OP_READ | REQ_SYNC;
	struct bio *bio = dmr_bytes_bio(bdev, c->shared.scratch, bytes, opf, &c->bios);
	int error;

	bio->bi_iter.bi_sector = c->shared.devices[device].start + sector;
	submit_bio_wait(bio);
	error = dmr_error_of(bdev, bio->bi_status);
	bio_put(bio);
	return error;
}
