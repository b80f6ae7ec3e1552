/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything that passes between the shim and the Rust object.
 *
 * Integers and buffers only. The Rust side knows no structure of the kernel, the C side no policy and no byte of the format.
 * The structures are mirrored in kernel/rust/object/src/abi.rs; both sides assert their sizes when they are built.
 *
 * Who may call what, and in which context, stands behind each function:
 *   [any]    any context; no lock, no allocation, does not sleep
 *   [owner]  process context, under the target's owner mutex and memalloc_noio; may allocate, does not sleep otherwise
 *   [open]   process context, nothing locked, the volume not in service; may wait for devices
 * Sectors have 512 bytes everywhere. Errors are those of the block layer, as errnos (negative; 0: none).
 * A device's number: 0 is the main device, n + 1 the spare number n of the table line.
 */
#ifndef DMR_H
#define DMR_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <asm/barrier.h>

#define DMR_MAIN 0
#define DMR_DEVICES 17
#define DMR_OPS 256		/* operations that are out at a time; the others wait in the engine */
#define DMR_SCRATCH 65536

struct dmr;			/* a target: what C knows of it */
struct dmr_target;		/* and Rust: the table line, and the volume while there is one */
struct dmr_lookup;		/* what dmr_map needs of it */

/* What is asked of the volume, and what it asks of a device. */
enum dmr_kind { DMR_READ, DMR_WRITE, DMR_ZEROES, DMR_DISCARD, DMR_FLUSH, DMR_GRACE };
#define DMR_FUA 1		/* durable before it completes */
#define DMR_UNMAP 2		/* zeroes: the space may be given back */

/* ---- the fast lane ---- */

enum dmr_lane { DMR_LANE_MAIN, DMR_LANE_SPARE, DMR_LANE_OWNER, DMR_LANE_NOBODY };

struct dmr_place {
	u64 sector;			/* on the device (spare: of its slice) */
	u32 sectors;			/* how many of those asked for lie there, at least 1 */
	u16 lane;			/* enum dmr_lane: owner: hand it over; nobody: it is done already */
	u16 spare;			/* number of the volume */
};

/* For look-ups. What it points to lives as long as the volume and is changed by its owner alone. */
struct dmr_view {
	const u64 *summary;		/* a bit for each region: something in it is not simply on the main device */
	const u64 *moving;		/* how many blocks are moving */
	const struct dmr_lookup *lookup;
	u32 region_shift;		/* a region has 2 to this power sectors */
};

/* [any] Is all of it, by one word of the summary, on the main device? False: ask dmr_map. */
static inline bool dmr_is_on_main(const struct dmr_view *view, u64 sector, u32 sectors)
{
	/* Shifts are masked (here they are small anyway): else the compiler of a kernel with UBSAN adds a look at each. */
	u32 shift = view->region_shift % 64;
	u64 first = sector >> shift, last = (sector + sectors - 1) >> shift;

	/* In one word: from the first bit on, and nothing behind the last. */
	return !smp_load_acquire(view->moving) && (first ^ last) < 64 &&
	       !(READ_ONCE(view->summary[first / 64]) >> first % 64 << ~(last - first) % 64);
}
/* [any] Where the sectors from `sector` on are, as far as they lie together. */
struct dmr_place dmr_map(const struct dmr_lookup *lookup, u64 sector, u32 sectors, u32 kind);
/* [any] May the error of an operation be a bad sector? Then its request belongs to the owner. */
bool dmr_blames_medium(int error);

/* ---- what both sides know of a target ---- */

struct dmr_device {
	u64 start, sectors;		/* the slice; as the table line says it, sectors 0: to the end */
	u64 size;			/* sectors of all of it */
	const char *name;		/* what device-mapper calls it */
	u32 word;			/* which of the table line names it */
	u32 id;				/* two of the same are one device */
	u32 logical_block;		/* bytes */
	u32 read_only;
};

enum dmr_count {
	DMR_READS, DMR_WRITES, DMR_FLUSHES, DMR_DISCARDS,	/* parts of bios; all but the flushes only while the queue's iostats are on */
	DMR_READ_SECTORS, DMR_WRITTEN_SECTORS,
	DMR_SLOW, DMR_REMAPPED,			/* of these, what the owner handled, and what went straight to a spare */
	DMR_READ_ERRORS, DMR_WRITE_ERRORS,	/* operations of the fast lane that failed */
	DMR_FAILED_READS, DMR_FAILED_WRITES,	/* what the client was told */
	DMR_COUNTS
};

enum dmr_state { DMR_IS_LIVE = 1, DMR_IS_FROZEN = 2, DMR_IS_BUSY = 4 };

struct dmr_shared {
	/* Written by the Rust object, the view when the volume is assembled, the others as soon as they change. The fast lane reads these, and they change seldom. */
	struct dmr_view view;
	struct dmr_target *target;
	u32 members;			/* bit n: device n is of the volume */
	u32 devices_given;		/* by the table line */
	u32 device_of[DMR_DEVICES - 1];	/* which device is spare number n of the volume; 0: none */
	struct dmr_device devices[DMR_DEVICES];	/* slice and word */
	/* These it writes whenever it was asked something. */
	u64 timeout;			/* when a turn is due, on the clock of mono_ns; ~0: not at all */
	u32 state;
	u32 answers;			/* goes up when a message that took time has its answer */
	/* By the shim. */
	void *scratch;			/* what dmr_wait reads into, and writes */
	u64 sectors;			/* of the table line */
	u64 max_remaps;			/* of a table line that does not say */
	u64 counts[DMR_COUNTS];		/* up to date for messages, status and figures */
	char name[128];			/* of a volume that is adopted */
};

/* ---- what the Rust object is asked; dmr_answer runs on the target's own stack ---- */

enum dmr_what {
	DMR_PARSE,	/* [open] the words of a table line of the grammar `number`: makes the target and its devices; else the reason is in `text` */
	DMR_REHEARSE,	/* [open] can it be assembled? Writes nothing, and looks only at spares that are not served now (bit n of `number`: device n is) */
	DMR_ASSEMBLE,	/* [open] reads the metadata and starts the engine, or adopts a spare that holds nothing */
	DMR_END,	/* [open] no operation is out, nobody holds the view: the volume goes */
	DMR_FREE,	/* [open] and the target with it */
	DMR_TURN,	/* [owner] takes what came in and hands on what comes out of it */
	DMR_MESSAGE,	/* [owner] 0: the answer is in `text`; 1: it is being done as `ticket`: ask for its result */
	DMR_RESULT,	/* [owner] of `ticket`: 0: the answer is in `text`; 1: not yet */
	DMR_FORGET,	/* [owner] nobody waits for the answer of `ticket` any more */
	DMR_STATUS,	/* [owner] the status line without the three words of device-mapper */
	DMR_FIGURE,	/* [owner] the value of the figure of this name */
	DMR_TUNE,	/* [owner] sets it: -EINVAL: no such value */
	DMR_TABLE,	/* [open] the table line, with device-mapper's names of the devices */
};

struct dmr_ask {
	struct dmr *c;
	struct dmr_shared *shared;
	u64 mono_ns, unix_s;
	u64 ticket;
	const char *const *argv;
	char *text;
	u64 room;
	u32 argc;
	u32 what;
	u32 number;
	int result;			/* 0 or a negative errno, unless it says otherwise above */
};
void dmr_answer(struct dmr_ask *ask);

/* [any] The name of the figure of this number, NULL behind the last; `tunable`: it can be set. */
const char *dmr_figure_name(u32 number, bool *tunable);

/* ---- what the Rust object calls ---- */

struct dmr_op {
	u64 sector;			/* on the device */
	u64 sectors;
	u64 cookie;			/* of the request whose bytes are meant, or 0 */
	u64 offset;			/* byte offset in it */
	void *bytes;			/* else these; valid until the operation ended */
	u32 slot;			/* its name, below DMR_OPS */
	u32 device;
	u32 kind;
	u32 flags;
};

enum dmr_input_kind { DMR_ENDED, DMR_FAULT, DMR_FLUSH_FAULT, DMR_REQUEST };

struct dmr_input {
	u64 cookie;			/* of a request */
	u64 sector, sectors;
	u32 is;				/* enum dmr_input_kind */
	u32 kind, flags;		/* of a request */
	u32 number;			/* slot of an operation that ended; device on which a bio of the fast lane failed */
	int error;
};

enum dmr_level { DMR_ERR, DMR_WARN, DMR_INFO, DMR_DEBUG };

/* [owner] What came in, once each: operations that ended, then faults that do not blame the medium, then (if wanted) requests. */
bool dmr_next(struct dmr *c, struct dmr_input *input, bool requests);
/* [owner] Begins an operation, in any order with others that are out. */
void dmr_begin(struct dmr *c, const struct dmr_op *op);
/* [owner] The request has ended. */
void dmr_end_request(struct dmr *c, u64 cookie, int error);
/* News for the log; `tell`: waiters for dm events want to hear of it. */
void dmr_log(struct dmr *c, u32 level, bool tell, const char *text);
/* [open] Reads sectors of the slice into the scratch memory, or writes it (durable before it returns). */
int dmr_wait(struct dmr *c, u32 device, u64 sector, u32 bytes, bool write);

void dmr_random(void *bytes, size_t len);
void *dmr_alloc(size_t bytes, size_t align);
void dmr_dealloc(void *memory);
/* Does not return. If dmr_answer called it: nothing is asked of this target any more; else: a BUG. */
void dmr_panic(const char *text, size_t bytes, const char *file, size_t file_bytes, u32 line);

#endif
