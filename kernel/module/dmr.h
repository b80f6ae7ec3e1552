/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Everything that passes between the shim  and the Rust object.
 *
 * Integers and buffers only. The Rust side knows no structure of the kernel, the C side no policy and no byte of the format.
 * The structures are mirrored in kernel/rust/object/src/abi.rs; both sides assert their sizes when they are built.
 *
 * Who may call what, and in which context, stands behind each function:
 *   [any]    any context; no lock, no allocation, does not sleep
 *   [owner]  process context, under the volume's owner mutex and memalloc_noio; may allocate, does not sleep otherwise
 *   [open]   process context, nothing locked, the volume not in service; may read and write through the callbacks
 * Sectors have 512 bytes everywhere.
 */
#ifndef DMR_H
#define DMR_H

#include <linux/compiler.h>
#include <linux/types.h>
#include <asm/barrier.h>

#define DMR_MAX_SPARES 16
#define DMR_MAX_BOUNCES 257
#define DMR_MAIN 0		/* device numbers: the main device, then the volume's spares */
#define DMR_SPARE(n) ((n) + 1)
#define DMR_DEVICES (DMR_MAX_SPARES + 1)

struct dmr_volume;		/* the engine and what belongs to it */
struct dmr_lookup;		/* what dmr_map needs of it */

/* What became of an operation. */
enum dmr_fault {
	DMR_OK, DMR_MEDIUM, DMR_PROTECTION, DMR_TRANSPORT, DMR_TIMEOUT, DMR_GONE, DMR_NOSPACE, DMR_UNSUPPORTED, DMR_UNKNOWN,
	DMR_NOMEMORY,
};

/* What is asked of the volume, and what it asks of a device. */
enum dmr_kind { DMR_READ, DMR_WRITE, DMR_ZEROES, DMR_DISCARD, DMR_FLUSH, DMR_GRACE };
#define DMR_FUA 1		/* durable before it completes */
#define DMR_UNMAP 2		/* zeroes: the space may be given back */

struct dmr_now {
	u64 mono_ns;
	u64 unix_s;
};

/* ---- the table line ---- */

enum dmr_grammar { DMR_GRAMMAR_OWN, DMR_GRAMMAR_FOUR, DMR_GRAMMAR_TWO };	/* "dm-remap", "remap", "dm-remap-v4" */
enum dmr_form { DMR_FORM_V2, DMR_FORM_V4 };

struct dmr_table {
	u64 start[DMR_MAX_SPARES];	/* first sector of each spare's slice */
	u64 sectors[DMR_MAX_SPARES];	/* its length; 0: to the end of the device */
	u64 max_remaps;			/* most blocks on spares; 0: as many as there are slots */
	u32 spare[DMR_MAX_SPARES];	/* which word names the spare; word 0 names the main device */
	u32 spares;
	u32 block_size;			/* bytes; 0: 4096, or what the volume has */
	u32 policy;			/* 0: the volume's own; 1: rewrite-then-remap; 2: remap-only */
	u32 form;			/* enum dmr_form */
	u32 adopt;			/* 0: a spare that holds nothing; 1: any spare; 2: never */
	u32 any_main;			/* serve this main device though it is not the one that was adopted */
	u32 any_state;			/* serve a volume that was released */
};

/* [any] 0, or -EINVAL with the reason in `why`. */
int dmr_table_parse(u32 grammar, u32 argc, const char *const *argv, struct dmr_table *table, char *why, size_t room);

/* ---- assembly ---- */

struct dmr_device {
	u64 bytes;
	u32 logical_block;		/* bytes */
	u32 read_only;
};

struct dmr_assembly {
	const struct dmr_table *table;
	void *context;			/* handed to the callbacks */
	/* Both wait for the device and return an enum dmr_fault; `device` as above; offsets in bytes of the slice. */
	u32 (*read)(void *context, u32 device, u64 offset, void *into, size_t bytes);
	u32 (*zero)(void *context, u32 spare, u64 offset, size_t bytes);	/* durable before it returns */
	struct dmr_now now;
	u32 served;			/* spares (bit n: the one of that place) that the table to be replaced serves now; 0: none does */
	struct dmr_device main;
	struct dmr_device spares[DMR_MAX_SPARES];
	u64 volume_bytes;		/* length of the table line */
	char name[64];			/* of a volume that is adopted */
	u8 random[16 * (DMR_MAX_SPARES + 1)];	/* for the names of a volume that is adopted */
};

/*
 * [open] Reads the metadata and starts the engine, or adopts a spare that holds nothing. With `volume` NULL it only looks, and
 * writes nothing; and only at spares that are not served now. 0 or a negative errno with the reason in `why`, which also says (on 0) what a person should know.
 */
int dmr_assemble(const struct dmr_assembly *assembly, struct dmr_volume **volume, char *why, size_t room);
/* [open] No operation is out, nobody holds its view. */
void dmr_free(struct dmr_volume *volume);

struct dmr_shape {
	u64 sectors;			/* of the volume */
	u32 block_size;			/* bytes */
	u32 logical_block;		/* bytes: the least that may be asked for */
	u32 spares;			/* in use by the volume */
	u32 spare[DMR_MAX_SPARES];	/* which of the given spares is the volume's number n; ~0: it has left */
};
/* [owner] */
void dmr_shape(const struct dmr_volume *volume, struct dmr_shape *shape);

/* ---- the fast lane ---- */

enum dmr_place_kind { DMR_PLACE_MAIN, DMR_PLACE_SPARE, DMR_PLACE_OWNER, DMR_PLACE_NOTHING };

struct dmr_place {
	u64 sector;			/* on the device (spare: of its slice) */
	u32 sectors;			/* how many of those asked for lie there, at least 1 */
	u16 kind;			/* enum dmr_place_kind: owner: hand it over; nothing: it is done already */
	u16 device;
};

/* For look-ups. What it points to lives as long as the volume and is changed by its owner alone. */
struct dmr_view {
	const u64 *summary;		/* a bit for each region: something in it is not simply on the main device */
	const u64 *moving;		/* how many blocks are moving */
	const struct dmr_lookup *lookup;
	u32 region_shift;		/* a region has 2 to this power sectors */
};

/* [owner] */
void dmr_view(const struct dmr_volume *volume, struct dmr_view *view);
/* [any] Is all of it, by one word of the summary, on the main device? False: ask dmr_map. */
static inline bool dmr_is_on_main(const struct dmr_view *view, u64 sector, u32 sectors)
{
	u64 first = sector >> view->region_shift, last = (sector + sectors - 1) >> view->region_shift;

	return !smp_load_acquire(view->moving) && first / 64 == last / 64 &&
	       !(READ_ONCE(view->summary[first / 64]) >> first % 64 & ((2ULL << (last - first)) - 1));
}
/* [any] Where the sectors from `sector` on are, as far as they lie together. */
struct dmr_place dmr_map(const struct dmr_lookup *lookup, u64 sector, u32 sectors, u32 kind);
/* [any] May the fault of an operation be a bad sector? Then its request belongs to the owner. */
bool dmr_blames_medium(u32 fault);

/* ---- the slow lane ---- */

enum dmr_source { DMR_NOTHING, DMR_REQUEST, DMR_BOUNCE, DMR_BYTES };

struct dmr_op {
	u64 id;
	u64 sector;			/* on the device; grace: of the volume */
	u64 sectors;
	u64 cookie;			/* DMR_REQUEST: of which request; DMR_BOUNCE: which buffer (below DMR_MAX_BOUNCES) */
	u64 offset;			/* byte offset in it */
	const void *bytes;		/* DMR_BYTES: valid until dmr_complete */
	u32 device;
	u32 kind;
	u32 flags;
	u32 source;
};

enum dmr_event_kind { DMR_EVENT_NONE, DMR_EVENT_REQUEST, DMR_EVENT_ANSWER, DMR_EVENT_NOTICE };
enum dmr_level { DMR_ERR, DMR_WARN, DMR_INFO, DMR_DEBUG };

struct dmr_event {
	u64 cookie;			/* the request's, or the ticket of the message */
	u32 kind;
	u32 fault;			/* of a request; DMR_OK: done */
	u32 level;			/* of a notice, for the log */
	u32 tell;			/* a notice that waiters for dm events want to hear of */
};

/* What the shim counts and what device-mapper does, since the table was loaded. */
struct dmr_lanes {
	u64 reads, writes, flushes, discards;	/* parts of bios; all but the flushes only while the queue's iostats are on */
	u64 read_sectors, written_sectors;
	u64 slow, remapped;		/* of these, those that the owner handled, and that went straight to a spare */
	u64 read_errors, write_errors;	/* operations of the fast lane that failed */
	u64 failed_reads, failed_writes;	/* what the client was told */
};

/* [owner] 0; -EBUSY: too many, ask again after an event; -EINVAL: behind the end. Ends with DMR_EVENT_REQUEST. */
int dmr_submit(struct dmr_volume *v, struct dmr_now now, u64 cookie, u32 kind, u32 flags, u64 sector, u64 sectors);
/* [owner] Exactly once for each operation that was taken. */
void dmr_complete(struct dmr_volume *v, struct dmr_now now, u64 id, u32 fault);
/* [owner] */
void dmr_timeout(struct dmr_volume *v, struct dmr_now now);
/* [owner] When to call dmr_timeout, on the clock of mono_ns; ~0: not at all. */
u64 dmr_next_timeout(const struct dmr_volume *v);
/* [owner] The next operation to carry out, in any order with others that are out. */
bool dmr_poll_op(struct dmr_volume *v, struct dmr_now now, struct dmr_op *op);
/* [owner] The next event; text for the log. */
bool dmr_poll_event(struct dmr_volume *v, struct dmr_event *event, char *text, size_t room);
/* [owner] An operation of the fast lane failed with a fault that does not blame the medium. */
void dmr_report(struct dmr_volume *v, struct dmr_now now, u32 device, u32 fault);
/* [owner] A flush that the fast lane passed on failed. */
void dmr_report_flush(struct dmr_volume *v, struct dmr_now now, u32 device, u32 fault);

enum dmr_state { DMR_IS_LIVE = 1, DMR_IS_IDLE = 2, DMR_IS_FROZEN = 4 };
/* [owner] */
u32 dmr_state(const struct dmr_volume *v);

/*
 * [owner] A message. 0: the answer is in `text`; 1: it is being done, DMR_EVENT_ANSWER with this ticket will come, then ask
 * dmr_answer. Every message has an answer; one that begins with "error:" was not done. `names` has two for each of the `spares` of
 * the table line: the word in it, and how device-mapper calls the device. Changes of the spares change the volume's shape: see dmr_shape.
 */
int dmr_message(struct dmr_volume *v, struct dmr_now now, u32 argc, const char *const *argv, u32 spares,
		const char *const *names, const struct dmr_lanes *lanes, u64 *ticket, char *text, size_t room);
/* [owner] The answer to a message whose DMR_EVENT_ANSWER came. */
void dmr_answer(struct dmr_volume *v, u64 ticket, char *text, size_t room);
/* [owner] Nobody waits for the answer any more. */
void dmr_forget(struct dmr_volume *v, u64 ticket);
/* [owner] The status line without the three words of device-mapper; `main` and `spare` are how the devices are called. */
void dmr_status(const struct dmr_volume *v, u32 form, const struct dmr_lanes *lanes, const char *main, const char *spare,
		char *text, size_t room);

/* ---- figures and tunables by name ---- */

/* [any] The name of the figure of this number, NULL behind the last; `tunable`: it can be set. */
const char *dmr_figure_name(u32 number, bool *tunable);
/* [owner] Its value, with a line end. */
void dmr_figure(const struct dmr_volume *v, u32 number, const struct dmr_lanes *lanes, char *text, size_t room);
/* [owner] 0, or -EINVAL: no such value. */
int dmr_tune(struct dmr_volume *v, u32 number, const char *value);

/* ---- what the Rust object calls ---- */

void *dmr_alloc(size_t bytes, size_t align);
void dmr_dealloc(void *memory);
void dmr_panic(const char *text, size_t bytes, const char *file, size_t file_bytes, u32 line);

#endif
