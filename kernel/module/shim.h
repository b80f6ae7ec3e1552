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
#include <linux/version.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "dmr.h"

#define DM_MSG_PREFIX "remap"

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#define bi_bvec_done bi_offset
#endif

#define DMR_IOS 256			/* operations out at a time; the others wait in the engine */
#define DMR_CHUNK_PAGES 256		/* pages of a bio of our own */
#define DMR_TEXT 512
#define DMR_MAX_WORDS 96
#define DMR_ANSWER 4096
#define DMR_STACK (128 << 10)

#define DMR_MAX_SECTORS (1ULL << 42)	/* of a volume: 2 PiB */

/*
 * What the fast lane knows of a bio until it ends, in bi_private of device-mapper's clone; 0: nothing of it is in the fast lane.
 *   63..22 sector of the volume   21..7 sectors; 0: a flush   6..2 device: 0 main, else 1 + place in the table line   1 counted   0 epoch
 */
#define DMR_EPOCH 1
#define DMR_COUNTED 2
#define DMR_TICKET_SECTORS 16384	/* most sectors of a bio with a ticket */
#define DMR_KEPT 32767			/* instead of sectors: its iterator is in the record beside it */

static inline void *dmr_ticket(u64 sector, u32 sectors, u32 device, u32 counted)
{
	return (void *)(unsigned long)(sector << 22 | sectors << 7 | device << 2 | counted);
}

/* Beside each bio, for those that the owner has, or that do not begin with their first vector. */
struct dmr_bio {
	struct bvec_iter iter;		/* as it came */
	u64 sector;			/* of the volume */
	u32 sectors;
	u8 kind;			/* enum dmr_kind */
	u8 flags;
};

/* An operation of the engine that is out. */
struct dmr_io {
	struct dmr *c;
	struct llist_node done;
	struct list_head list;		/* free, or waiting for a grace */
	struct dmr_op op;
	u64 sectors_done, sectors_out;
	struct bio *bio;
	blk_status_t status;
	bool plain_zeroes;		/* the device has no write zeroes */
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

/* On each cpu. */
struct dmr_cpu {
	unsigned int out[2];		/* counted bios begun here less those that ended here, by epoch */
	u64 remapped;
};

/* A device-mapper target. */
struct dmr {
	/* What the fast lane reads, together. */
	struct dm_dev *main;
	struct dmr_view view;		/* changes only while nothing is in flight */
	struct dmr_cpu __percpu *cpu;
	unsigned int epoch;		/* which of `out` bios are counted in now */

	struct dm_target *ti;
	struct list_head list;		/* of all targets, under dmr_targets_lock, as are the three below */
	bool in_service;
	bool stale;			/* somebody else served these spares since */
	bool shown;			/* in sysfs, as the one of its disk */

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
	u32 block_size, logical_block;	/* bytes */
	struct bio_list backlog;
	struct list_head calls;
	char text[DMR_TEXT];
	bool running;
	bool resting;			/* about to stop: no more messages */

	struct list_head graces;	/* operations that wait for bios that have begun */
	struct list_head draining;	/* those whose bios are all in the other epoch */
	atomic64_t flushes, slow, read_errors, write_errors, failed_reads, failed_writes;
	struct dmr_lanes before;	/* what device-mapper had counted when the table was loaded */
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
};

#define DMR_SCRATCH 65536

extern unsigned int dmr_debug_level;
extern struct mutex dmr_targets_lock;
extern struct list_head dmr_targets;

static inline struct dmr_bio *dmr_bio(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dmr_bio));
}

/* lane.c */
int dmr_target_map(struct dm_target *ti, struct bio *bio);
int dmr_target_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void dmr_grace(struct dmr *c);
void dmr_sum_lanes(struct dmr *c, struct dmr_lanes *sum);
void dmr_count_from_here(struct dmr *c);

/* owner.c */
struct dmr_now dmr_time(void);
void dmr_kick(struct dmr *c);
void dmr_turn(struct dmr *c);
void dmr_work(struct work_struct *work);
void dmr_tick(struct work_struct *work);
void dmr_describe(struct dmr *c);
void dmr_ended(struct dmr_io *io);
int dmr_serve(struct dmr *c);
void dmr_rest(struct dmr *c);
void dmr_end(struct dmr *c);

/* enter.c */
void dmr_take_turn(struct dmr *c);
int dmr_parse(struct dmr *c, u32 grammar);
int dmr_assemble_it(struct dmr *c, struct dmr_volume **volume, u32 served);
void dmr_free_it(struct dmr *c, struct dmr_volume *volume);
int dmr_speak(struct dmr *c, unsigned int argc, char **argv, char *result, unsigned int room);
void dmr_tell_status(struct dmr *c, char *result, unsigned int room);
int dmr_tell_figure(struct dmr *c, u32 number, char *text, unsigned int room);
int dmr_set_figure(struct dmr *c, u32 number, const char *value);

/* io.c */
u32 dmr_fault_of(struct block_device *bdev, blk_status_t status);
blk_status_t dmr_status_of(u32 fault);
void dmr_begin(struct dmr_io *io);
bool dmr_goes_on(struct dmr_io *io, u32 *fault);
u32 dmr_read_device(void *context, u32 device, u64 offset, void *into, size_t bytes);
u32 dmr_zero_device(void *context, u32 device, u64 offset, size_t bytes);

/* shown.c */
int dmr_shown_init(void);
void dmr_shown_exit(void);
int dmr_show_volume(struct dmr *c);
void dmr_hide_volume(struct dmr *c);

#endif
