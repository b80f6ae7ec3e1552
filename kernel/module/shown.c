// SPDX-License-Identifier: GPL-2.0
/* What is shown outside of device-mapper's own interface: sysfs, debugfs, module parameters. Which figures there are the Rust object knows. */

#include <linux/debugfs.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include "shim.h"

#define DMR_MAX_FIGURES 64
#define DMR_COMMAND 1024

/* ---- sysfs: /sys/block/dm-N/remap/, one value in a file ---- */

static struct device_attribute dmr_attributes[DMR_MAX_FIGURES];
static struct attribute *dmr_attribute_list[DMR_MAX_FIGURES + 1];
static const struct attribute_group dmr_group = { .name = "remap", .attrs = dmr_attribute_list };

/* dmr_targets_lock held. The target whose figures the disk shows. */
static struct dmr *dmr_shown(struct gendisk *disk)
{
	struct dmr *c;

	list_for_each_entry(c, &dmr_targets, list)
		if (c->shown && dmr_disk(c) == disk)
			return c;
	return NULL;
}

static int dmr_ask_disk(struct device *dev, struct dmr_ask *ask)
{
	struct dmr *c;
	int r = -ENODEV;

	mutex_lock(&dmr_targets_lock);
	c = dmr_shown(dev_to_disk(dev));
	if (c)
		r = dmr_ask(c, ask);
	mutex_unlock(&dmr_targets_lock);
	return r;
}

static ssize_t dmr_attribute_show(struct device *dev, struct device_attribute *attribute, char *page)
{
	struct dmr_ask ask = { .what = DMR_FIGURE, .argc = 1, .argv = &attribute->attr.name, .text = page, .room = PAGE_SIZE };

	return dmr_ask_disk(dev, &ask) ?: strlen(page);
}

static ssize_t dmr_attribute_store(struct device *dev, struct device_attribute *attribute, const char *page, size_t count)
{
	const char *words[] = { attribute->attr.name, page };
	struct dmr_ask ask = { .what = DMR_TUNE, .argc = 2, .argv = words };

	return dmr_ask_disk(dev, &ask) ?: count;
}

/*
 * The volume is about to serve. A table that takes over from another one takes over its folder: nothing is made or removed while bios
 * wait for the device.
 */
int dmr_show_volume(struct dmr *c)
{
	struct gendisk *disk = dmr_disk(c);
	unsigned int noio = memalloc_noio_save();
	struct dmr *before;
	int r = 0;

	mutex_lock(&dmr_targets_lock);
	before = dmr_shown(disk);
	if (before)
		before->shown = false;
	c->shown = true;
	mutex_unlock(&dmr_targets_lock);
	if (!before)
		r = sysfs_create_group(&disk_to_dev(disk)->kobj, &dmr_group);
	memalloc_noio_restore(noio);
	if (r)
		c->shown = false;
	return r;
}

/* Nobody finds the target any more. */
void dmr_hide_volume(struct dmr *c)
{
	if (c->shown)
		sysfs_remove_group(&disk_to_dev(dmr_disk(c))->kobj, &dmr_group);
	c->shown = false;
}

/* ---- debugfs: dm-remap/remap_control ---- */

static struct dentry *dmr_folder;
static DEFINE_MUTEX(dmr_control_lock);
static char dmr_said[DMR_COMMAND];	/* to the last command, under dmr_control_lock */

static bool dmr_is_used(dev_t id)
{
	bool used = false;
	unsigned int i;
	struct dmr *c;

	mutex_lock(&dmr_targets_lock);
	list_for_each_entry(c, &dmr_targets, list)
		for (i = 0; c->in_service && i < c->shared.devices_given; i++)
			used |= c->shared.devices[i].id == id;
	mutex_unlock(&dmr_targets_lock);
	return used;
}

/* A module cannot make a device of device-mapper: it says how that is done. */
static int dmr_control_add(char **paths)
{
	dev_t ids[2] = { 0, 0 };
	const char *why = NULL;
	int i;

	for (i = 0; i < 2 && !why; i++) {
		if (lookup_bdev(paths[i], &ids[i]))
			why = "is no block device";
		else if (dmr_is_used(ids[i]))
			why = "is in use by a volume in service";
		else if (i && ids[0] == ids[1])
			why = "is the main device, too";
		if (why)
			snprintf(dmr_said, sizeof(dmr_said), "error: %s %s\n", paths[i], why);
	}
	if (why)
		return -EINVAL;
	snprintf(dmr_said, sizeof(dmr_said), "dmsetup create remap-%s --table \"0 $(blockdev --getsz %s) dm-remap %s %s\"\n",
		 kbasename(paths[0]), paths[0], paths[0], paths[1]);
	return 0;
}

static ssize_t dmr_control_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	char *text, **words;
	int n, r = -EINVAL;

	if (count >= DMR_COMMAND / 4)
		return -EINVAL;
	text = memdup_user_nul(from, count);
	if (IS_ERR(text))
		return PTR_ERR(text);
	words = argv_split(GFP_KERNEL, text, &n);
	kfree(text);
	if (!words)
		return -ENOMEM;
	mutex_lock(&dmr_control_lock);
	if (n == 3 && !strcmp(words[0], "add")) {
		r = dmr_control_add(words + 1);
	} else if (n == 1 && !strcmp(words[0], "list")) {
		dmr_said[0] = 0;
		r = 0;
	} else {
		snprintf(dmr_said, sizeof(dmr_said), "error: unknown command (try: add <main> <spare>, list)\n");
	}
	mutex_unlock(&dmr_control_lock);
	argv_free(words);
	return r ?: count;
}

/* The answer to the last command, and every volume in service: its table line and its status. */
static int dmr_control_show(struct seq_file *file, void *unused)
{
	struct dmr_ask ask = { .what = DMR_STATUS, .text = kmalloc(DMR_ANSWER, GFP_KERNEL), .room = DMR_ANSWER };
	struct dmr *c;

	if (!ask.text)
		return -ENOMEM;
	mutex_lock(&dmr_control_lock);
	seq_puts(file, dmr_said);
	mutex_unlock(&dmr_control_lock);
	mutex_lock(&dmr_targets_lock);
	list_for_each_entry(c, &dmr_targets, list)
		if (c->in_service && !dmr_ask(c, &ask))
			seq_printf(file, "%pg: 0 %llu %s %s: %s\n", dmr_disk(c)->part0, (u64)c->ti->len, c->ti->type->name, c->line, ask.text);
	mutex_unlock(&dmr_targets_lock);
	kfree(ask.text);
	return 0;
}

static int dmr_control_open(struct inode *inode, struct file *file)
{
	return single_open(file, dmr_control_show, NULL);
}

static const struct file_operations dmr_control = {
	.owner = THIS_MODULE,
	.open = dmr_control_open,
	.read = seq_read,
	.write = dmr_control_write,
	.llseek = seq_lseek,
	.release = single_release,
};

/* ---- module parameters that sum up a figure of all volumes ---- */

static int dmr_sum_get(char *page, const struct kernel_param *parameter)
{
	const char *name = parameter->arg;
	struct dmr_ask ask = { .what = DMR_FIGURE, .argc = 1, .argv = &name, .text = page, .room = PAGE_SIZE };
	struct dmr *c;
	u64 sum = 0, one;

	mutex_lock(&dmr_targets_lock);
	list_for_each_entry(c, &dmr_targets, list)
		if (c->in_service && !dmr_ask(c, &ask) && !kstrtou64(page, 10, &one))
			sum += one;
	mutex_unlock(&dmr_targets_lock);
	return sysfs_emit(page, "%llu\n", sum);
}

static const struct kernel_param_ops dmr_sum_ops = { .get = dmr_sum_get };
module_param_cb(global_read_errors, &dmr_sum_ops, "read_errors", 0444);
MODULE_PARM_DESC(global_read_errors, "device reads that failed, of all volumes in service");
module_param_cb(global_write_errors, &dmr_sum_ops, "write_errors", 0444);
MODULE_PARM_DESC(global_write_errors, "device writes that failed, of all volumes in service");
module_param_cb(global_auto_remaps, &dmr_sum_ops, "auto_remaps", 0444);
MODULE_PARM_DESC(global_auto_remaps, "blocks remapped because of an error, of all volumes in service");

int dmr_shown_init(void)
{
	const char *name;
	bool tunable;
	u32 i;

	for (i = 0; (name = dmr_figure_name(i, &tunable)); i++) {
		if (WARN_ON(i == DMR_MAX_FIGURES))
			return -E2BIG;
		sysfs_attr_init(&dmr_attributes[i].attr);
		dmr_attributes[i].attr.name = name;
		dmr_attributes[i].attr.mode = tunable ? 0644 : 0444;
		dmr_attributes[i].show = dmr_attribute_show;
		dmr_attributes[i].store = tunable ? dmr_attribute_store : NULL;
		dmr_attribute_list[i] = &dmr_attributes[i].attr;
	}
	dmr_folder = debugfs_create_dir("dm-remap", NULL);
	debugfs_create_file("remap_control", 0600, dmr_folder, NULL, &dmr_control);
	return 0;
}

void dmr_shown_exit(void)
{
	debugfs_remove(dmr_folder);
}
