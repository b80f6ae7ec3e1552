/* SPDX-License-Identifier: GPL-2.0 */
/* What the files of the shim share. Locks and contexts: kernel/README.md. */
#ifndef DMR_SHIM_H
#define DMR_SHIM_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/llist.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <linux/workqueue.h>
#include "dmr.h"

#define DM_MSG_PREFIX "remap"

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 3, 0)
#define bi_bvec_done bi_offset
#endif

#define DMR_TEXT 512
#define DMR_ANSWER 4096

/*
 * What the fast lane knows of a bio until it ends, in bi_private of device-mapper's clone; 0: nothing of it is in the fast lane.
 *   63..22 sector of the volume   21..7 sectors; 0: a flush   6..2 device   1 counted   0 epoch
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
	struct hlist_node held;		/* of those that the engine has */
};

/* An operation of the engine that is out. */
struct dmr_io {
	struct dmr *c;
	struct llist_node done;
	struct list_head list;		/* of those that wait for a grace */
	struct dmr_op op;
	u64 sectors_done, sectors_out;
	blk_status_t status;
	bool plain_zeroes;		/* the device has no write zeroes */
};

/* On each cpu. */
struct dmr_cpu {
	unsigned int out[2];		/* counted bios begun here less those that ended here, by epoch */
	u64 remapped;
};

/* A device-mapper target. */
struct dmr {
	/* What the fast lane reads, together. */
	struct block_device *main;
	struct dmr_cpu __percpu *cpu;
	unsigned int epoch;		/* which of `out` bios are counted in now */
	struct dmr_shared shared;	/* begins with the view, which changes only while nothing is in flight */
	struct dm_dev *devs[DMR_DEVICES];

	struct dm_target *ti;
	char *line;			/* what the table status says */
	struct list_head list;		/* of all targets, under dmr_targets_lock, as are the three below */
	bool in_service;
	bool stale;			/* somebody else served these spares since */
	bool shown;			/* in sysfs, as the one of its disk */

	struct mutex owner;		/* the Rust object's target and all down to `draining` */
	bool assembled;			/* there is a volume */
	bool running;			/* and the owner takes turns */
	bool resting;			/* about to stop: no more messages */
	bool failed;			/* the Rust object panicked: it is never asked again */
	unsigned int ios_out;
	struct hlist_head held;		/* requests that the engine has */
	struct llist_node *ended;	/* of operations: taken from `done` */
	struct bio_list backlog;	/* taken from `incoming` */
	struct list_head graces;	/* operations that wait for bios that have begun */
	struct list_head draining;	/* those whose bios are all in the other epoch */

	struct dmr_io *ios;
	struct bio_set bios;
	struct llist_head done;
	spinlock_t incoming_lock;
	struct bio_list incoming;
	/* Failed bios of the fast lane that the engine was not told of yet: a bit for each device, flush or not, and status. */
	DECLARE_BITMAP(faults, DMR_DEVICES * 64);
	atomic64_t counts[DMR_COUNTS];

	struct workqueue_struct *wq;
	struct work_struct work;
	struct delayed_work tick;
	wait_queue_head_t wait;		/* for the end of a turn */
	void *stack;			/* what the Rust object runs on, one at a time: under c->owner, or nothing is in service */
	char text[DMR_TEXT];
};

extern struct mutex dmr_targets_lock;
extern struct list_head dmr_targets;

static inline struct dmr_bio *dmr_bio(struct bio *bio)
{
	return dm_per_bio_data(bio, sizeof(struct dmr_bio));
}

static inline struct gendisk *dmr_disk(struct dmr *c)
{
	return dm_disk(dm_table_get_md(c->ti->table));
}

/* lane.c */
int dmr_target_map(struct dm_target *ti, struct bio *bio);
int dmr_target_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error);
void dmr_grace(struct dmr *c);
void dmr_count(struct dmr *c);

/* owner.c */
void dmr_kick(struct dmr *c);
void dmr_work(struct work_struct *work);
void dmr_tick(struct work_struct *work);
int dmr_serve(struct dmr *c);
void dmr_rest(struct dmr *c);
void dmr_end(struct dmr *c);
int dmr_ask(struct dmr *c, struct dmr_ask *ask);
int dmr_speak(struct dmr *c, unsigned int argc, char **argv, char *result, unsigned int room);

/* enter.c */
int dmr_enter(struct dmr *c, struct dmr_ask *ask);
void *dmr_make_stack(void);

/* io.c */
int dmr_error_of(struct block_device *bdev, blk_status_t status);
void dmr_ended(struct dmr_io *io);
bool dmr_goes_on(struct dmr_io *io, int *error);

/* shown.c */
int dmr_shown_init(void);
void dmr_shown_exit(void);
int dmr_show_volume(struct dmr *c);
void dmr_hide_volume(struct dmr *c);

#endif
