/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the shim share. Locks and contexts: kernel/README.md. */
#ifndef DMR_SHIM_H
#define DMR_SHIM_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/completion.h>
#include <linux/device-mapper.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/spinlock.h>
#include <linux/srcu.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "dmr.h"

#define DM_MSG_PREFIX "remap"

#define DMR_IOS 256			/* operations out at a time; the others wait in the engine */
#define DMR_CHUNK_PAGES 256		/* pages of a bio of our own */
#define DMR_TEXT 512
#define DMR_MAX_WORDS 96
#define DMR_ANSWER 4096
#define DMR_STACK (128 << 10)

enum dmr_lane { DMR_LANE_NONE, DMR_LANE_FAST, DMR_LANE_FLUSH, DMR_LANE_SLOW };

/* Beside each bio. */
struct dmr_bio {
	struct bvec_iter iter;		/* what of it is ours, as it came */
	u64 sector;			/* of the volume */
	u32 sectors;
	int srcu;
	u8 lane;			/* enum dmr_lane */
	u8 kind;			/* enum dmr_kind */
	u8 flags;
	u8 device;			/* by its number in the volume */
};

/* An operation of the engine that is out. */
struct dmr_io {
	struct dmr *c;
	struct llist_node done;
	struct list_head free;
	struct dmr_op op;
	u64 sectors_done, sectors_out;
	struct bio *bio;
	blk_status_t status;
	bool plain_zeroes;		/* the device has no write zeroes */
	struct rcu_head grace;
};

/* A message that waits. */
struct dmr_call {
	struct list_head list;
	struct completion done;
	u64 ticket;
};

struct dmr_spare {
	struct dm_dev *dev;
	sector_t start, sectors;
	u32 number;			/* in the volume; ~0: none */
};

/* A device-mapper target. */
struct dmr {
	struct dm_target *ti;
	struct list_head list;		/* of all targets, under dmr_targets_lock, as are in_service and stale */
	bool in_service;
	bool stale;			/* somebody else served these spares since */

	struct dm_dev *main;
	struct dmr_spare spares[DMR_MAX_SPARES];
	struct dmr_table table;
	char **words;			/* of the table line */
	unsigned int word_count;

	struct mutex owner;		/* the engine and all down to `calls` */
	struct dmr_volume *volume;
	u32 given[DMR_MAX_SPARES];	/* of each spare of the volume: which of `spares` */
	struct dmr_io *ios;
	struct list_head free_ios;
	unsigned int out;
	void *bounce[DMR_MAX_BOUNCES];
	u32 block_size;
	struct bio_list backlog;
	struct list_head calls;
	char text[DMR_TEXT];
	bool running;

	const struct dmr_view *view;	/* changes only while nothing is in flight */
	struct srcu_struct srcu;	/* held from the look-up to the end of the operation (C11) */
	struct dmr_lanes __percpu *lanes;
	struct bio_set bios;

	spinlock_t incoming_lock;
	struct bio_list incoming;
	struct llist_head done;
	unsigned long faults[DMR_DEVICES];	/* bits: enum dmr_fault, not told to the engine yet */
	unsigned long flush_faults[DMR_DEVICES];

	struct workqueue_struct *wq;
	struct work_struct work;
	struct delayed_work tick;
	wait_queue_head_t wait;
	void *scratch;			/* for assembly */
	void *stack;			/* what the Rust object runs on, one at a time: under c->owner, or nothing is in service */
	bool has_srcu;
};

#define DMR_SCRATCH 65536
#define dmr_count(c, what) this_cpu_inc((c)->lanes->what)
#define dmr_add(c, what, n) this_cpu_add((c)->lanes->what, n)

extern unsigned int dmr_debug_level;

static inline struct dmr_bio *dmr_bio(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dmr_bio));
}

/* owner.c */
struct dmr_now dmr_time(void);
void dmr_kick(struct dmr *c);
void dmr_turn(struct dmr *c);
void dmr_work(struct work_struct *work);
void dmr_tick(struct work_struct *work);
void dmr_hold(struct dmr *c, struct bio *bio);
void dmr_sum_lanes(struct dmr *c, struct dmr_lanes *sum);
int dmr_serve(struct dmr *c);
void dmr_rest(struct dmr *c);
void dmr_end(struct dmr *c);

/* enter.c */
void dmr_take_turn(struct dmr *c);
int dmr_parse(struct dmr *c, u32 grammar);
int dmr_assemble_it(struct dmr *c, struct dmr_volume **volume);
void dmr_free_it(struct dmr *c);
int dmr_speak(struct dmr *c, unsigned int argc, char **argv, char *result, unsigned int room);
void dmr_tell_status(struct dmr *c, char *result, unsigned int room);

/* io.c */
u32 dmr_fault_of(struct block_device *bdev, blk_status_t status);
blk_status_t dmr_status_of(u32 fault);
void dmr_begin(struct dmr_io *io);
bool dmr_goes_on(struct dmr_io *io, u32 *fault);
u32 dmr_read_device(void *context, u32 device, u64 offset, void *into, size_t bytes);
u32 dmr_zero_device(void *context, u32 device, u64 offset, size_t bytes);

#endif
