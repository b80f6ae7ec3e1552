// SPDX-License-Identifier: GPL-2.0
/* The device-mapper target: table lines, suspend and resume, messages, status. */

#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>
#include "shim.h"

unsigned int dmr_debug_level = 1;
module_param_named(debug_level, dmr_debug_level, uint, 0644);
MODULE_PARM_DESC(debug_level, "0: errors and what was lost, 1: what moved and healed, 2 and 3: routine too");
static unsigned long dmr_max_remaps;
module_param_named(max_remaps, dmr_max_remaps, ulong, 0644);
MODULE_PARM_DESC(max_remaps, "most blocks on the spares of a volume whose table line does not say (0: as many as there are slots)");

DEFINE_MUTEX(dmr_targets_lock);
LIST_HEAD(dmr_targets);

/* ---- what the Rust object calls ---- */

void *dmr_alloc(size_t bytes, size_t align)
{
	/* Small memory has the alignment of its size if that is a power of two, large memory that of a page. */
	if (align > 8 && bytes < PAGE_SIZE)
		bytes = roundup_pow_of_two(max(bytes, align));
	return kvmalloc(bytes, GFP_KERNEL | __GFP_NOWARN);
}

void dmr_dealloc(void *memory)
{
	kvfree(memory);
}

void dmr_panic(const char *text, size_t bytes, const char *file, size_t file_bytes, u32 line)
{
	pr_emerg("device-mapper: remap: cannot go on: %.*s at %.*s:%u\n", (int)bytes, text, (int)file_bytes, file, line);
	BUG();
}

/* ---- table lines ---- */

static void dmr_destroy(struct dmr *c)
{
	unsigned int i;

	mutex_lock(&dmr_targets_lock);
	if (!list_empty(&c->list))
		list_del(&c->list);
	mutex_unlock(&dmr_targets_lock);
	dmr_hide_volume(c);
	if (c->wq) {
		cancel_delayed_work_sync(&c->tick);
		destroy_workqueue(c->wq);
	}
	dmr_end(c);
	bioset_exit(&c->bios);
	free_percpu(c->cpu);
	kvfree(c->ios);
	kvfree(c->scratch);
	vfree(c->stack);
	for (i = 0; i < c->table.spares; i++)
		if (c->spares[i].dev)
			dm_put_device(c->ti, c->spares[i].dev);
	if (c->main)
		dm_put_device(c->ti, c->main);
	for (i = 0; i < c->word_count; i++)
		kfree(c->words[i]);
	kfree(c->words);
	kfree(c);
}

/* Which spares of `a` have sectors that `b` uses (bit n: the one of that place). */
static u32 dmr_shared_spares(const struct dmr *a, const struct dmr *b)
{
	unsigned int i, j;
	u32 shared = 0;

	for (i = 0; i < a->table.spares; i++)
		for (j = 0; j < b->table.spares; j++)
			if (a->spares[i].dev->bdev == b->spares[j].dev->bdev &&
			    a->spares[i].start < b->spares[j].start + b->spares[j].sectors &&
			    b->spares[j].start < a->spares[i].start + a->spares[i].sectors)
				shared |= 1U << i;
	return shared;
}

/* Do the two use sectors of the same spare, or the same main device? */
static bool dmr_overlap(const struct dmr *a, const struct dmr *b)
{
	return a->main->bdev == b->main->bdev || dmr_shared_spares(a, b);
}

/* dmr_targets_lock held. */
static struct dmr *dmr_rival(struct dmr *c)
{
	struct dmr *other;

	list_for_each_entry(other, &dmr_targets, list)
		if (other != c && other->in_service && dmr_overlap(c, other))
			return other;
	return NULL;
}

static int dmr_open_devices(struct dmr *c)
{
	struct dm_target *ti = c->ti;
	unsigned int i;
	int r;

	ti->error = "Main device lookup failed";
	r = dm_get_device(ti, c->words[0], dm_table_get_mode(ti->table), &c->main);
	if (r)
		return r;
	for (i = 0; i < c->table.spares; i++) {
		struct dmr_spare *spare = &c->spares[i];
		sector_t size;

		ti->error = "Spare device lookup failed";
		r = dm_get_device(ti, c->words[c->table.spare[i]], dm_table_get_mode(ti->table), &spare->dev);
		if (r)
			return r;
		size = bdev_nr_sectors(spare->dev->bdev);
		ti->error = "Spare area exceeds device size";
		if (c->table.start[i] >= size || c->table.sectors[i] > size - c->table.start[i])
			return -EINVAL;
		ti->error = "Main device and spare are the same device";
		if (spare->dev->bdev == c->main->bdev)
			return -EINVAL;
		spare->start = c->table.start[i];
		spare->sectors = c->table.sectors[i] ?: size - spare->start;
		spare->number = ~0;
	}
	ti->error = "Table line longer than the main device";
	if (ti->len > bdev_nr_sectors(c->main->bdev))
		return -EINVAL;
	ti->error = "Main device larger than the 2 PiB that this target serves";
	return ti->len > DMR_MAX_SECTORS ? -EFBIG : 0;
}

static int dmr_alloc_all(struct dmr *c, unsigned int argc, char **argv)
{
	unsigned int i;

	c->words = kcalloc(argc, sizeof(*c->words), GFP_KERNEL);
	c->ios = kvcalloc(DMR_IOS, sizeof(*c->ios), GFP_KERNEL);
	c->scratch = kvmalloc(DMR_SCRATCH, GFP_KERNEL);
	c->stack = vmalloc(DMR_STACK);
	c->cpu = alloc_percpu(struct dmr_cpu);
	c->wq = alloc_ordered_workqueue("dm-remap", WQ_MEM_RECLAIM);
	if (!c->words || !c->ios || !c->scratch || !c->stack || !c->cpu || !c->wq)
		return -ENOMEM;
	for (; c->word_count < argc; c->word_count++) {
		c->words[c->word_count] = kstrdup(argv[c->word_count], GFP_KERNEL);
		if (!c->words[c->word_count])
			return -ENOMEM;
	}
	for (i = 0; i < DMR_IOS; i++) {
		c->ios[i].c = c;
		list_add_tail(&c->ios[i].list, &c->free_ios);
	}
	return bioset_init(&c->bios, DMR_IOS, 0, BIOSET_NEED_BVECS);
}

static struct dmr *dmr_make(struct dm_target *ti)
{
	struct dmr *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (!c)
		return NULL;
	c->ti = ti;
	INIT_LIST_HEAD(&c->list);
	INIT_LIST_HEAD(&c->free_ios);
	INIT_LIST_HEAD(&c->graces);
	INIT_LIST_HEAD(&c->draining);
	INIT_LIST_HEAD(&c->calls);
	mutex_init(&c->owner);
	spin_lock_init(&c->incoming_lock);
	bio_list_init(&c->incoming);
	bio_list_init(&c->backlog);
	init_llist_head(&c->done);
	init_waitqueue_head(&c->wait);
	INIT_WORK(&c->work, dmr_work);
	INIT_DELAYED_WORK(&c->tick, dmr_tick);
	return c;
}

static u32 dmr_grammar(const struct dm_target *ti)
{
	if (!strcmp(ti->type->name, "remap"))
		return DMR_GRAMMAR_FOUR;
	return strcmp(ti->type->name, "dm-remap-v4") ? DMR_GRAMMAR_OWN : DMR_GRAMMAR_TWO;
}

/* Opened for writing? (The type of the mode has changed, its bits have not.) */
static bool dmr_writable(struct dm_target *ti)
{
	return (__force unsigned int)dm_table_get_mode(ti->table) & (__force unsigned int)FMODE_WRITE;
}

/* Everything but what has to be undone by dmr_destroy. The reason of a refusal is in ti->error. */
static int dmr_build(struct dmr *c, unsigned int argc, char **argv)
{
	struct dm_target *ti = c->ti;
	struct dmr *rival;
	bool other;
	u32 served;
	int r;

	ti->error = "Too many words";
	if (argc < 1 || argc > DMR_MAX_WORDS)
		return -E2BIG;
	ti->error = "Out of memory";
	r = dmr_alloc_all(c, argc, argv);
	if (r)
		return r;
	r = dmr_parse(c, dmr_grammar(ti));
	ti->error = c->text;
	if (r)
		return r;
	if (!c->table.max_remaps)
		c->table.max_remaps = dmr_max_remaps;
	ti->error = "A read-only table is not served; 'dm-remap serve --read-only' reads the volume";
	if (!dmr_writable(ti))
		return -EROFS;
	r = dmr_open_devices(c);
	if (r)
		return r;
	mutex_lock(&dmr_targets_lock);
	list_add(&c->list, &dmr_targets);
	rival = dmr_rival(c);
	other = rival && dm_table_get_md(rival->ti->table) != dm_table_get_md(ti->table);
	served = rival ? dmr_shared_spares(c, rival) : 0;
	mutex_unlock(&dmr_targets_lock);
	ti->error = "Main device or spare is in use by another volume in service";
	if (other)
		return -EBUSY;
	/* Of a table that is to replace another one the spares in service are looked at when it does: until then they change. */
	r = dmr_assemble_it(c, NULL, served);
	ti->error = c->text;
	return r;
}

/* device-mapper prints the reason after the target is gone. */
static char dmr_refusal[DMR_TEXT];

static int dmr_target_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct dmr *c = dmr_make(ti);
	int r;

	ti->error = "Out of memory";
	if (!c)
		return -ENOMEM;
	r = dmr_build(c, argc, argv);
	if (r) {
		mutex_lock(&dmr_targets_lock);
		strscpy(dmr_refusal, ti->error, sizeof(dmr_refusal));
		ti->error = dmr_refusal;
		mutex_unlock(&dmr_targets_lock);
		dmr_destroy(c);
		return r;
	}
	ti->error = NULL;
	ti->private = c;
	ti->per_io_data_size = sizeof(struct dmr_bio);
	ti->num_flush_bios = 1 + c->table.spares;
	ti->num_write_zeroes_bios = 1;
	ti->num_discard_bios = bdev_max_discard_sectors(c->main->bdev) ? 1 : 0;
	ti->discards_supported = ti->num_discard_bios;
	return 0;
}

static void dmr_target_dtr(struct dm_target *ti)
{
	dmr_destroy(ti->private);
}

/* ---- in and out of service ---- */

static int dmr_target_preresume(struct dm_target *ti)
{
	struct dmr *c = ti->private, *other;
	int r;

	mutex_lock(&dmr_targets_lock);
	other = dmr_rival(c);
	if (other) {
		DMERR("%s: main device or spare is in use by %s", dm_table_device_name(ti->table),
		      dm_table_device_name(other->ti->table));
		mutex_unlock(&dmr_targets_lock);
		return -EBUSY;
	}
	c->in_service = true;
	list_for_each_entry(other, &dmr_targets, list)
		if (other != c && other->main && dmr_overlap(c, other))
			other->stale = true;
	mutex_unlock(&dmr_targets_lock);
	if (c->stale)			/* what it knows is out of date: read it again */
		dmr_end(c);
	c->stale = false;
	r = dmr_serve(c);
	if (!r && !c->shown)
		r = dmr_show_volume(c);
	if (r) {
		dmr_rest(c);
		mutex_lock(&dmr_targets_lock);
		c->in_service = false;
		mutex_unlock(&dmr_targets_lock);
	}
	return r;
}

/* device-mapper has waited for all bios. What the engine does by itself may still be under way. */
static void dmr_target_postsuspend(struct dm_target *ti)
{
	struct dmr *c = ti->private;

	dmr_rest(c);
	mutex_lock(&dmr_targets_lock);
	c->in_service = false;
	mutex_unlock(&dmr_targets_lock);
}

/* ---- what it says ---- */

static int dmr_target_message(struct dm_target *ti, unsigned int argc, char **argv, char *result, unsigned int room)
{
	/* 1: there is a text. Every message has one; dmsetup prints it. */
	return dmr_speak(ti->private, argc, argv, result, room) ?: 1;
}

static void dmr_target_status(struct dm_target *ti, status_type_t type, unsigned int flags, char *result, unsigned int maxlen)
{
	struct dmr *c = ti->private;
	unsigned int sz = 0, i, j;

	switch (type) {
	case STATUSTYPE_INFO:
		dmr_tell_status(c, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		for (i = 0; i < c->word_count; i++) {
			const char *word = i ? c->words[i] : c->main->name;

			for (j = 0; j < c->table.spares; j++)
				if (c->table.spare[j] == i)
					word = c->spares[j].dev->name;
			DMEMIT("%s%s", i ? " " : "", word);
		}
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",main=%s,spares=%u;", c->main->name, c->table.spares);
		break;
	}
}

static int dmr_target_iterate(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct dmr *c = ti->private;
	unsigned int i;
	int r = fn(ti, c->main, 0, ti->len, data);

	for (i = 0; !r && i < c->table.spares; i++)
		r = fn(ti, c->spares[i].dev, c->spares[i].start, c->spares[i].sectors, data);
	return r;
}

#define DMR_TARGET(name_)					\
	{							\
		.name = name_,					\
		.version = { 1, 0, 0 },				\
		.features = DM_TARGET_SINGLETON | DM_TARGET_NOWAIT,	\
		.module = THIS_MODULE,				\
		.ctr = dmr_target_ctr,				\
		.dtr = dmr_target_dtr,				\
		.map = dmr_target_map,				\
		.end_io = dmr_target_end_io,			\
		.preresume = dmr_target_preresume,		\
		.postsuspend = dmr_target_postsuspend,		\
		.message = dmr_target_message,			\
		.status = dmr_target_status,			\
		.iterate_devices = dmr_target_iterate,		\
	}

static struct target_type dmr_types[] = { DMR_TARGET("dm-remap"), DMR_TARGET("remap"), DMR_TARGET("dm-remap-v4") };

static int __init dmr_init(void)
{
	int i, r;

	BUILD_BUG_ON(sizeof(struct dmr_table) != 360 || sizeof(struct dmr_assembly) != 672 || sizeof(struct dmr_shape) != 88);
	BUILD_BUG_ON(sizeof(struct dmr_place) != 16 || sizeof(struct dmr_op) != 64 || sizeof(struct dmr_event) != 24);
	BUILD_BUG_ON(sizeof(struct dmr_lanes) != 96 || sizeof(struct dmr_view) != 32);
	r = dmr_shown_init();
	if (r)
		return r;
	for (i = 0; i < ARRAY_SIZE(dmr_types); i++) {
		r = dm_register_target(&dmr_types[i]);
		if (r) {
			while (i--)
				dm_unregister_target(&dmr_types[i]);
			dmr_shown_exit();
			return r;
		}
	}
	return 0;
}

static void __exit dmr_exit(void)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(dmr_types); i++)
		dm_unregister_target(&dmr_types[i]);
	dmr_shown_exit();
}

module_init(dmr_init);
module_exit(dmr_exit);
MODULE_ALIAS("dm-dm-remap");
MODULE_ALIAS("dm-remap");
MODULE_ALIAS("dm-dm-remap-v4");
MODULE_DESCRIPTION("Keeps a failing disk in service: remaps bad blocks to a spare");
MODULE_AUTHOR("the dm-remap authors");
MODULE_LICENSE("GPL");
