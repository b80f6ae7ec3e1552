// SPDX-License-Identifier: GPL-2.0
/* What is shown outside of device-mapper's own interface: sysfs, debugfs, module parameters. Which figures there are the Rust object knows. */

#include <linux/debugfs.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/seq_file.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include "shim.h"

#define DMR_MAX_FIGURES 64
#define DMR_VALUE 64
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
		if (c->shown && dm_disk(dm_table_get_md(c->ti->table)) == disk)
			return c;
	return NULL;
}

static ssize_t dmr_attribute_show(struct device *dev, struct device_attribute *attribute, char *page)
{
	struct dmr *c;
	int r = -ENODEV;

	mutex_lock(&dmr_targets_lock);
	c = dmr_shown(dev_to_disk(dev));
	if (c)
		r = dmr_tell_figure(c, attribute - dmr_attributes, page, DMR_VALUE);
	mutex_unlock(&dmr_targets_lock);
	return r ?: strlen(page);
}

static ssize_t dmr_attribute_store(struct device *dev, struct device_attribute *attribute, const char *page, size_t count)
{
	char value[DMR_VALUE];
	struct dmr *c;
	int r = -ENODEV;

	if (count >= sizeof(value))
		return -EINVAL;
	strscpy(value, page, sizeof(value));
	mutex_lock(&dmr_targets_lock);
	c = dmr_shown(dev_to_disk(dev));
	if (c)
		r = dmr_set_figure(c, attribute - dmr_attributes, strim(value));
	mutex_unlock(&dmr_targets_lock);
	return r ?: count;
}

/*
 * The volume is about to serve. A table that takes over from another one takes over its folder: nothing is made or removed while bios
 * wait for the device.
 */
int dmr_show_volume(struct dmr *c)
{
	struct gendisk *disk = dm_disk(dm_table_get_md(c->ti->table));
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
		sysfs_remove_group(&disk_to_dev(dm_disk(dm_table_get_md(c->ti->table)))->kobj, &dmr_group);
	c->shown = false;
}

/* ---- debugfs: dm-remap/remap_control ---- */

static struct dentry *dmr_folder;
static DEFINE_MUTEX(dmr_control_lock);
static char dmr_said[DMR_COMMAND];	/* to the last command, under dmr_control_lock */

/* dmr_targets_lock held. */
static bool dmr_uses(struct dmr *c, const struct block_device *bdev)
{
	unsigned int i;

	for (i = 0; i < c->table.spares; i++)
		if (c->spares[i].dev->bdev == bdev)
			return true;
	return c->main->bdev == bdev;
}

static int dmr_add_device(const char *path, struct file **file, struct block_device **bdev)
{
	struct dmr *c;
	int r = 0;

	*file = filp_open(path, O_RDONLY | O_LARGEFILE, 0);
	if (IS_ERR(*file)) {
		snprintf(dmr_said, sizeof(dmr_said), "error: %s cannot be opened (%ld)\n", path, PTR_ERR(*file));
		return PTR_ERR(*file);
	}
	if (!S_ISBLK(file_inode(*file)->i_mode)) {
		snprintf(dmr_said, sizeof(dmr_said), "error: %s is no block device\n", path);
		r = -ENOTBLK;
	} else {
		*bdev = I_BDEV((*file)->f_mapping->host);
		mutex_lock(&dmr_targets_lock);
		list_for_each_entry(c, &dmr_targets, list)
			if (c->in_service && dmr_uses(c, *bdev))
				r = -EBUSY;
		mutex_unlock(&dmr_targets_lock);
		if (r)
			snprintf(dmr_said, sizeof(dmr_said), "error: %s is in use by a volume in service\n", path);
	}
	if (r)
		filp_close(*file, NULL);
	return r;
}

/* A module cannot make a device of device-mapper: it says how that is done. */
static int dmr_control_add(const char *main, const char *spare)
{
	struct block_device *main_bdev, *spare_bdev;
	struct file *main_file, *spare_file;
	int r;

	r = dmr_add_device(main, &main_file, &main_bdev);
	if (r)
		return r;
	r = dmr_add_device(spare, &spare_file, &spare_bdev);
	if (!r) {
		if (main_bdev == spare_bdev) {
			snprintf(dmr_said, sizeof(dmr_said), "error: %s and %s are the same device\n", main, spare);
			r = -EINVAL;
		} else {
			snprintf(dmr_said, sizeof(dmr_said), "dmsetup create remap-%pg --table '0 %llu dm-remap %s %s'\n",
				 main_bdev, (u64)bdev_nr_sectors(main_bdev), main, spare);
		}
		filp_close(spare_file, NULL);
	}
	filp_close(main_file, NULL);
	return r;
}

static ssize_t dmr_control_write(struct file *file, const char __user *from, size_t count, loff_t *at)
{
	char *text, *rest, *words[4] = { NULL };
	unsigned int n = 0;
	int r = -EINVAL;

	if (count >= DMR_COMMAND / 2)
		return -EINVAL;
	text = memdup_user_nul(from, count);
	if (IS_ERR(text))
		return PTR_ERR(text);
	for (rest = strim(text); rest && *rest && n < ARRAY_SIZE(words); rest = rest ? skip_spaces(rest) : NULL)
		words[n++] = strsep(&rest, " \t\n");
	mutex_lock(&dmr_control_lock);
	if (n == 3 && !strcmp(words[0], "add")) {
		r = dmr_control_add(words[1], words[2]);
	} else if (n == 1 && !strcmp(words[0], "list")) {
		dmr_said[0] = 0;
		r = 0;
	} else {
		snprintf(dmr_said, sizeof(dmr_said), "error: unknown command (try: add <main> <spare>, list)\n");
	}
	mutex_unlock(&dmr_control_lock);
	kfree(text);
	return r ?: count;
}

/* The answer to the last command, and every volume in service. */
static int dmr_control_show(struct seq_file *file, void *unused)
{
	struct dmr *c;
	char *status = kmalloc(DMR_ANSWER, GFP_KERNEL);
	unsigned int i;

	if (!status)
		return -ENOMEM;
	mutex_lock(&dmr_control_lock);
	seq_puts(file, dmr_said);
	mutex_unlock(&dmr_control_lock);
	mutex_lock(&dmr_targets_lock);
	list_for_each_entry(c, &dmr_targets, list) {
		if (!c->in_service)
			continue;
		dmr_tell_status(c, status, DMR_ANSWER);
		seq_printf(file, "%pg: main %pg, spare", dm_disk(dm_table_get_md(c->ti->table))->part0, c->main->bdev);
		for (i = 0; i < c->table.spares; i++)
			seq_printf(file, " %pg", c->spares[i].dev->bdev);
		seq_printf(file, ", %llu sectors, %s\n", (u64)c->ti->len, status);
	}
	mutex_unlock(&dmr_targets_lock);
	kfree(status);
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
	const char *name = parameter->arg, *figure;
	char value[DMR_VALUE];
	struct dmr *c;
	u64 sum = 0, one;
	u32 number;
	bool tunable;

	for (number = 0; (figure = dmr_figure_name(number, &tunable)); number++)
		if (!strcmp(figure, name))
			break;
	mutex_lock(&dmr_targets_lock);
	list_for_each_entry(c, &dmr_targets, list)
		if (c->in_service && !dmr_tell_figure(c, number, value, sizeof(value)) && !kstrtou64(value, 10, &one))
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
