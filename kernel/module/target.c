// SPDX-License-Identifier: GPL-2.0
/* The device-mapper target: table lines, suspend and resume, messages, status. */

#include <linux/module.h>
#include <linux/random.h>
#include <linux/vmalloc.h>
#include "shim.h"

static unsigned int dmr_debug_level = 1;
module_param_named(debug_level, dmr_debug_level, uint, 0644);
MODULE_PARM_DESC(debug_level, "0: errors and what was lost, 1: what moved and healed, 2 and 3: routine too");
static unsigned long dmr_max_remaps;
module_param_named(max_remaps, dmr_max_remaps, ulong, 0644);
MODULE_PARM_DESC(max_remaps, "most blocks on the spares of a volume whose table line does not say (0: as many as there are slots)");

DEFINE_MUTEX(dmr_targets_lock);
LIST_HEAD(dmr_targets);

static struct target_type dmr_types[];

/* ---- what the Rust object calls in any context ---- */

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

void dmr_random(void *bytes, size_t len)
{
	get_random_bytes(bytes, len);
}

void dmr_log(struct dmr *c, u32 level, bool tell, const char *text)
{
	const char *name = dm_table_device_name(c->ti->table);

	if (level == DMR_ERR)
		DMERR_LIMIT("%s: %s", name, text);
	else if (level == DMR_WARN)
		DMWARN_LIMIT("%s: %s", name, text);
	else if (level <= dmr_debug_level + 1)
		DMINFO_LIMIT("%s: %s", name, text);
	if (tell)
		dm_table_event(c->ti->table);
}

/* ---- who uses what ---- */

/* Of which devices of `a` does `b` use sectors, too (bit n: device n)? */
static u32 dmr_overlap(const struct dmr *a, const struct dmr *b)
{
	const struct dmr_device *x = a->shared.devices, *y = b->shared.devices;
	unsigned int i, j;
	u32 both = 0;

	for (i = 0; i < a->shared.devices_given; i++)
		for (j = 0; j < b->shared.devices_given; j++)
			if (x[i].id == y[j].id && x[i].start < y[j].start + y[j].sectors && y[j].start < x[i].start + x[i].sectors)
				both |= 1U << i;
	return both;
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

static void dmr_set_service(struct dmr *c, bool in_service)
{
	mutex_lock(&dmr_targets_lock);
	c->in_service = in_service;
	mutex_unlock(&dmr_targets_lock);
}

/* ---- table lines ---- */

static void dmr_destroy(struct dmr *c)
{
	struct dmr_ask ask = { .what = DMR_FREE };
	unsigned int i;

	mutex_lock(&dmr_targets_lock);
	list_del_init(&c->list);
	mutex_unlock(&dmr_targets_lock);
	dmr_hide_volume(c);
	if (c->wq) {
		cancel_delayed_work_sync(&c->tick);
		destroy_workqueue(c->wq);
	}
	if (c->shared.target)
		dmr_enter(c, &ask);
	bioset_exit(&c->bios);
	free_percpu(c->cpu);
	kvfree(c->ios);
	kvfree(c->shared.scratch);
	vfree(c->stack);
	for (i = 0; i < DMR_DEVICES; i++)
		if (c->devs[i])
			dm_put_device(c->ti, c->devs[i]);
	kfree(c->line);
	kfree(c);
}

static int dmr_open_devices(struct dmr *c, char **argv)
{
	struct dm_target *ti = c->ti;
	unsigned int i;
	int r;

	for (i = 0; i < c->shared.devices_given; i++) {
		struct dmr_device *device = &c->shared.devices[i];
		struct block_device *bdev;

		ti->error = i ? "Spare device lookup failed" : "Main device lookup failed";
		r = dm_get_device(ti, argv[device->word], dm_table_get_mode(ti->table), &c->devs[i]);
		if (r)
			return r;
		bdev = c->devs[i]->bdev;
		device->name = c->devs[i]->name;
		device->id = bdev->bd_dev;
		device->size = bdev_nr_sectors(bdev);
		device->start = min(device->start, device->size);
		device->sectors = device->sectors ?: device->size - device->start;
		device->logical_block = bdev_logical_block_size(bdev);
		device->read_only = bdev_read_only(bdev);
	}
	c->main = c->devs[DMR_MAIN]->bdev;
	return 0;
}

static struct dmr *dmr_make(struct dm_target *ti)
{
	struct dmr *c = kzalloc(sizeof(*c), GFP_KERNEL);

	if (!c)
		return NULL;
	c->ti = ti;
	INIT_LIST_HEAD(&c->list);
	INIT_LIST_HEAD(&c->graces);
	INIT_LIST_HEAD(&c->draining);
	mutex_init(&c->owner);
	spin_lock_init(&c->incoming_lock);
	bio_list_init(&c->incoming);
	bio_list_init(&c->backlog);
	init_llist_head(&c->done);
	init_waitqueue_head(&c->wait);
	INIT_WORK(&c->work, dmr_work);
	INIT_DELAYED_WORK(&c->tick, dmr_tick);
	c->ios = kvcalloc(DMR_OPS, sizeof(*c->ios), GFP_KERNEL);
	c->shared.scratch = kvmalloc(DMR_SCRATCH, GFP_KERNEL);
	c->stack = dmr_make_stack();
	c->cpu = alloc_percpu(struct dmr_cpu);
	c->wq = alloc_ordered_workqueue("dm-remap", WQ_MEM_RECLAIM);
	c->line = kzalloc(DMR_ANSWER, GFP_KERNEL);
	if (c->ios && c->shared.scratch && c->stack && c->cpu && c->wq && c->line &&
	    !bioset_init(&c->bios, DMR_OPS, 0, BIOSET_NEED_BVECS))
		return c;
	dmr_destroy(c);
	return NULL;
}

/* Opened for writing? (The type of the mode has changed, its bits have not.) */
static bool dmr_writable(struct dm_target *ti)
{
	return (__force unsigned int)dm_table_get_mode(ti->table) & (__force unsigned int)FMODE_WRITE;
}

/* Everything but what has to be undone by dmr_destroy. The reason of a refusal is in ti->error. */
static int dmr_build(struct dmr *c, unsigned int argc, char **argv)
{
	struct dmr_ask ask = { .what = DMR_PARSE, .argc = argc, .argv = (const char *const *)argv, .text = c->text, .room = DMR_TEXT };
	struct dm_target *ti = c->ti;
	struct dmr *rival;
	bool other;
	int r;

	ask.number = ti->type - dmr_types;
	c->shared.sectors = ti->len;
	c->shared.max_remaps = dmr_max_remaps;
	dm_copy_name_and_uuid(dm_table_get_md(ti->table), c->shared.name, NULL);
	r = dmr_enter(c, &ask);
	ti->error = c->text;
	if (r)
		return r;
	ti->error = "A read-only table is not served; 'dm-remap serve --read-only' reads the volume";
	if (!dmr_writable(ti))
		return -EROFS;
	r = dmr_open_devices(c, argv);
	if (r)
		return r;
	mutex_lock(&dmr_targets_lock);
	list_add(&c->list, &dmr_targets);
	rival = dmr_rival(c);
	other = rival && dm_table_get_md(rival->ti->table) != dm_table_get_md(ti->table);
	ask.number = rival ? dmr_overlap(c, rival) : 0;
	mutex_unlock(&dmr_targets_lock);
	ti->error = "Main device or spare is in use by another volume in service";
	if (other)
		return -EBUSY;
	/* Of a table that is to replace another one the spares in service are looked at when it does: until then they change. */
	ask.what = DMR_REHEARSE;
	ti->error = c->text;
	r = dmr_enter(c, &ask);
	if (r)
		return r;
	ask.what = DMR_TABLE;
	ask.text = c->line;
	ask.room = DMR_ANSWER;
	return dmr_enter(c, &ask);
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
	ti->num_flush_bios = c->shared.devices_given;
	ti->num_write_zeroes_bios = 1;
	ti->num_discard_bios = bdev_max_discard_sectors(c->main) ? 1 : 0;
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
		if (other != c && dmr_overlap(c, other))
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
		dmr_set_service(c, false);
	}
	return r;
}

/* device-mapper has waited for all bios. What the engine does by itself may still be under way. */
static void dmr_target_postsuspend(struct dm_target *ti)
{
	dmr_rest(ti->private);
	dmr_set_service(ti->private, false);
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
	struct dmr_ask ask = { .what = DMR_STATUS, .text = result, .room = maxlen };
	unsigned int sz = 0;

	if (type == STATUSTYPE_TABLE) {
		DMEMIT("%s", c->line);
	} else if (type == STATUSTYPE_IMA) {
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",main=%s,spares=%u;", c->devs[DMR_MAIN]->name, c->shared.devices_given - 1);
	} else if (dmr_ask(c, &ask)) {
		DMEMIT("%s", c->failed ? "Fail" : "not in service");
	}
}

static int dmr_target_iterate(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct dmr *c = ti->private;
	unsigned int i;
	int r = 0;

	for (i = 0; !r && i < c->shared.devices_given; i++)
		r = fn(ti, c->devs[i], c->shared.devices[i].start, i ? c->shared.devices[i].sectors : ti->len, data);
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

/* The order is the Rust object's, which knows the grammar of each. */
static struct target_type dmr_types[] = { DMR_TARGET("dm-remap"), DMR_TARGET("remap"), DMR_TARGET("dm-remap-v4") };

static void dmr_unregister(int n)
{
	while (n--)
		dm_unregister_target(&dmr_types[n]);
	dmr_shown_exit();
}

static int __init dmr_init(void)
{
	int i, r;

	BUILD_BUG_ON(sizeof(struct dmr_place) != 16 || sizeof(struct dmr_view) != 32 || sizeof(struct dmr_device) != 48);
	BUILD_BUG_ON(sizeof(struct dmr_shared) != 1192 || sizeof(struct dmr_ask) != 80);
	BUILD_BUG_ON(sizeof(struct dmr_op) != 56 || sizeof(struct dmr_input) != 48);
	r = dmr_shown_init();
	if (r)
		return r;
	for (i = 0; i < ARRAY_SIZE(dmr_types); i++) {
		r = dm_register_target(&dmr_types[i]);
		if (r) {
			dmr_unregister(i);
			return r;
		}
	}
	return 0;
}

static void __exit dmr_exit(void)
{
	dmr_unregister(ARRAY_SIZE(dmr_types));
}

module_init(dmr_init);
module_exit(dmr_exit);
MODULE_ALIAS("dm-dm-remap");
MODULE_ALIAS("dm-remap");
MODULE_ALIAS("dm-dm-remap-v4");
MODULE_DESCRIPTION("Keeps a failing disk in service: remaps bad blocks to a spare");
MODULE_AUTHOR("the dm-remap authors");
MODULE_LICENSE("GPL");
