// SPDX-License-Identifier: GPL-2.0
/*
 * Into the Rust object.
 *
 * It reads and writes whole pages of metadata on its stack, which may take more than a kernel stack has left below a file system. So
 * whatever may take much runs on a stack that belongs to the target (with a guard page behind it, as all of vmalloc). Look-ups and
 * what runs in interrupts take a few dozen bytes and stay where they are. Waiting on the other stack is allowed: it belongs to nobody else
 * until the call returns.
 */

#include <linux/random.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <asm/asm.h>
#include "shim.h"

struct dmr_trip {
	struct dmr *c;
	void (*go)(struct dmr_trip *trip);
	int r;
	u32 grammar;
	struct dmr_assembly *assembly;
	struct dmr_volume **volume;
	unsigned int argc;
	char **argv;
	struct dmr_call *call;
	char *text;
	unsigned int room;
	u32 number;			/* of a figure */
};

static __used noinline void dmr_arrive(struct dmr_trip *trip)
{
	trip->go(trip);
}

static noinline void dmr_enter(struct dmr_trip *trip)
{
#ifdef CONFIG_X86_64
	/* The kernel's own way to change stacks, which its unwinder knows. */
	register void *top asm("r11") = trip->c->stack + DMR_STACK - 16;

	asm_inline volatile("movq	%%rsp, (%[top])\n"
			    "movq	%[top], %%rsp\n"
			    "call	%c[arrive]\n"
			    "popq	%%rsp\n"
			    : "+r" (top), "+D" (trip), ASM_CALL_CONSTRAINT
			    : [arrive] "i" (dmr_arrive), [top] "r" (top)
			    : "cc", "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "memory");
#else
#error "the Rust object is built for x86-64"
#endif
}

static void dmr_go_turn(struct dmr_trip *trip)
{
	dmr_turn(trip->c);
}

/* c->owner held, memalloc_noio. */
void dmr_take_turn(struct dmr *c)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_turn };

	if (c->volume && c->running)	/* else the stack may be in use by an assembly, or an end */
		dmr_enter(&trip);
}

static void dmr_go_parse(struct dmr_trip *trip)
{
	struct dmr *c = trip->c;

	trip->r = dmr_table_parse(trip->grammar, c->word_count, (const char *const *)c->words, &c->table, c->text, sizeof(c->text));
}

int dmr_parse(struct dmr *c, u32 grammar)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_parse, .grammar = grammar };

	dmr_enter(&trip);
	return trip.r;
}

static void dmr_go_assemble(struct dmr_trip *trip)
{
	trip->r = dmr_assemble(trip->assembly, trip->volume, trip->c->text, sizeof(trip->c->text));
}

/* Nothing is in service but, of another table, `served`. Without a volume to fill in: only looks whether it could be. */
int dmr_assemble_it(struct dmr *c, struct dmr_volume **volume, u32 served)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_assemble, .volume = volume };
	struct dmr_assembly *a = kzalloc(sizeof(*a), GFP_KERNEL);
	unsigned int i, noio;

	if (!a) {
		strscpy(c->text, "Out of memory", sizeof(c->text));
		return -ENOMEM;
	}
	a->table = &c->table;
	a->context = c;
	a->read = dmr_read_device;
	a->zero = dmr_zero_device;
	a->now = dmr_time();
	a->served = served;
	a->volume_bytes = (u64)c->ti->len << SECTOR_SHIFT;
	a->main.bytes = bdev_nr_bytes(c->main->bdev);
	a->main.logical_block = bdev_logical_block_size(c->main->bdev);
	a->main.read_only = bdev_read_only(c->main->bdev);
	snprintf(a->name, sizeof(a->name), "dm-%s", dm_table_device_name(c->ti->table));
	strreplace(a->name, ':', '-');
	get_random_bytes(a->random, sizeof(a->random));
	for (i = 0; i < c->table.spares; i++) {
		a->spares[i].bytes = (u64)c->spares[i].sectors << SECTOR_SHIFT;
		a->spares[i].logical_block = bdev_logical_block_size(c->spares[i].dev->bdev);
		a->spares[i].read_only = bdev_read_only(c->spares[i].dev->bdev);
	}
	trip.assembly = a;
	noio = memalloc_noio_save();
	dmr_enter(&trip);
	memalloc_noio_restore(noio);
	kfree(a);
	return trip.r;
}

static void dmr_go_free(struct dmr_trip *trip)
{
	dmr_free(*trip->volume);
}

/* Nobody else knows it any more. */
void dmr_free_it(struct dmr *c, struct dmr_volume *volume)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_free, .volume = &volume };

	dmr_enter(&trip);
}

static void dmr_go_message(struct dmr_trip *trip)
{
	struct dmr *c = trip->c;
	const char *names[2 * DMR_MAX_SPARES];
	struct dmr_lanes lanes;
	unsigned int i;

	for (i = 0; i < c->table.spares; i++) {
		names[2 * i] = c->words[c->table.spare[i]];
		names[2 * i + 1] = c->spares[i].dev->name;
	}
	dmr_sum_lanes(c, &lanes);
	trip->r = dmr_message(c->volume, dmr_time(), trip->argc, (const char *const *)trip->argv, c->table.spares,
			      names, &lanes, &trip->call->ticket, trip->text, trip->room);
	dmr_describe(c);		/* a spare may be about to join */
	if (trip->r)
		list_add(&trip->call->list, &c->calls);
	dmr_turn(c);
}

static void dmr_go_answer(struct dmr_trip *trip)
{
	struct dmr *c = trip->c;

	list_del(&trip->call->list);
	if (!trip->r)
		dmr_answer(c->volume, trip->call->ticket, trip->text, trip->room);
	else
		dmr_forget(c->volume, trip->call->ticket);
}

/*
 * Answers a message; waits, unless it is killed, for what takes time. (device-mapper gives the words of the message in the memory that
 * is to take the answer.)
 */
int dmr_speak(struct dmr *c, unsigned int argc, char **argv, char *result, unsigned int room)
{
	struct dmr_call call = { .ticket = 0 };
	struct dmr_trip trip = {
		.c = c, .go = dmr_go_message, .argc = min_t(unsigned int, argc, DMR_MAX_WORDS), .argv = argv, .call = &call,
		.text = kzalloc(DMR_ANSWER, GFP_KERNEL), .room = DMR_ANSWER,
	};
	unsigned int noio;
	int r = 0;

	if (!trip.text)
		return -ENOMEM;
	init_completion(&call.done);
	noio = memalloc_noio_save();
	mutex_lock(&c->owner);
	if (c->volume && c->running && !c->resting)
		dmr_enter(&trip);
	else
		snprintf(trip.text, trip.room, "error: the device is suspended: resume it first");
	mutex_unlock(&c->owner);
	if (trip.r) {
		r = wait_for_completion_killable(&call.done);
		trip.r = r;
		trip.go = dmr_go_answer;
		mutex_lock(&c->owner);
		dmr_enter(&trip);
		mutex_unlock(&c->owner);
	}
	memalloc_noio_restore(noio);
	strscpy(result, trip.text, room);
	kfree(trip.text);
	return r;
}

static void dmr_go_status(struct dmr_trip *trip)
{
	struct dmr *c = trip->c;
	struct dmr_lanes lanes;

	dmr_sum_lanes(c, &lanes);
	dmr_status(c->volume, c->table.form, &lanes, c->main->name, c->spares[0].dev->name, trip->text, trip->room);
}

void dmr_tell_status(struct dmr *c, char *result, unsigned int room)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_status, .text = result, .room = room };

	mutex_lock(&c->owner);
	if (c->volume)
		dmr_enter(&trip);
	else
		snprintf(result, room, "not in service");
	mutex_unlock(&c->owner);
}

static void dmr_go_figure(struct dmr_trip *trip)
{
	struct dmr_lanes lanes;

	dmr_sum_lanes(trip->c, &lanes);
	dmr_figure(trip->c->volume, trip->number, &lanes, trip->text, trip->room);
}

/* One of the figures that dmr_figure_name names. */
int dmr_tell_figure(struct dmr *c, u32 number, char *text, unsigned int room)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_figure, .number = number, .text = text, .room = room, .r = -ENODEV };

	mutex_lock(&c->owner);
	if (c->volume) {
		trip.r = 0;
		dmr_enter(&trip);
	}
	mutex_unlock(&c->owner);
	return trip.r;
}

static void dmr_go_tune(struct dmr_trip *trip)
{
	trip->r = dmr_tune(trip->c->volume, trip->number, trip->text);
}

int dmr_set_figure(struct dmr *c, u32 number, const char *value)
{
	struct dmr_trip trip = { .c = c, .go = dmr_go_tune, .number = number, .text = (char *)value, .r = -ENODEV };
	unsigned int noio = memalloc_noio_save();

	mutex_lock(&c->owner);
	if (c->volume)
		dmr_enter(&trip);
	mutex_unlock(&c->owner);
	memalloc_noio_restore(noio);
	dmr_kick(c);
	return trip.r;
}
