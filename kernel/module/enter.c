// SPDX-License-Identifier: GPL-2.0
/*
 * Into the Rust object.
 *
 * It reads and writes whole pages of metadata on its stack, which may take more than a kernel stack has left below a file system. So
 * whatever may take much runs on a stack that belongs to the target (with a guard page behind it, as all of vmalloc). Look-ups and
 * what runs in interrupts take a few dozen bytes and stay where they are. Waiting on the other stack is allowed: it belongs to nobody else
 * until the call returns.
 *
 * It also is the way out when the Rust object panics: the other stack is left as it is, and the target has failed.
 */

#include <linux/ktime.h>
#include <linux/objtool.h>
#include <linux/sched/mm.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>
#include "shim.h"

#define DMR_STACK (192 << 10)

/* Who is in the Rust object: a panic knows only which thread it is. */
struct dmr_inside {
	struct hlist_node list;
	struct task_struct *who;
	struct dmr *c;
};
static HLIST_HEAD(dmr_insiders);
static DEFINE_SPINLOCK(dmr_insiders_lock);

void *dmr_make_stack(void)
{
	return vmalloc(DMR_STACK);
}

#ifndef CONFIG_X86_64
#error "the Rust object is built for x86-64"
#endif

static noinline void dmr_change_stack(void *stack, struct dmr_ask *ask)
{
	/* The kernel's own way to change stacks, which its unwinder knows. Whoever comes back by dmr_leave has no register but these two. */
	register void *top asm("r11") = stack + DMR_STACK - 16;

	asm_inline volatile("movq	%%rbp, 8(%[top])\n"
			    "movq	%%rsp, (%[top])\n"
			    "movq	%[top], %%rsp\n"
			    "call	%c[answer]\n"
			    "dmr_back:\n"
			    "popq	%%rsp\n"
			    : "+r" (top), "+D" (ask), ASM_CALL_CONSTRAINT
			    : [answer] "i" (dmr_answer), [top] "r" (top)
			    : "cc", "rax", "rbx", "rcx", "rdx", "rsi", "r8", "r9", "r10", "r12", "r13", "r14", "r15", "memory");
}

/* From the other stack, however deep, to behind its call. */
static noinline void dmr_leave(void *stack)
{
	asm volatile("movq	8(%0), %%rbp\n"
		     "movq	%0, %%rsp\n"
		     "jmp	dmr_back\n"
		     : : "a" (stack + DMR_STACK - 16) : "memory");
}
STACK_FRAME_NON_STANDARD(dmr_leave);

static struct dmr *dmr_who_is_inside(void)
{
	struct dmr_inside *inside;
	struct dmr *c = NULL;

	spin_lock(&dmr_insiders_lock);
	hlist_for_each_entry(inside, &dmr_insiders, list)
		if (inside->who == current)
			c = inside->c;
	spin_unlock(&dmr_insiders_lock);
	return c;
}

/* Ends the call that panicked, and the target with it; the machine goes on. */
void dmr_panic(const char *text, size_t bytes, const char *file, size_t file_bytes, u32 line)
{
	struct dmr *c = in_task() ? dmr_who_is_inside() : NULL;

	DMCRIT("%s: cannot go on: %.*s at %.*s:%u", c ? dm_table_device_name(c->ti->table) : "?",
	       (int)bytes, text, (int)file_bytes, file, line);
	BUG_ON(!c);
	c->failed = true;
	dmr_leave(c->stack);
}

/* c->owner held and the volume assembled, or nothing is in service. -EIO: the target has failed, and says so in the text. */
int dmr_enter(struct dmr *c, struct dmr_ask *ask)
{
	struct dmr_inside inside = { .who = current, .c = c };
	unsigned int noio = memalloc_noio_save();
	bool before = c->failed;

	ask->c = c;
	ask->shared = &c->shared;
	ask->mono_ns = ktime_get_ns();
	ask->unix_s = ktime_get_real_seconds();
	if (!before) {
		spin_lock(&dmr_insiders_lock);
		hlist_add_head(&inside.list, &dmr_insiders);
		spin_unlock(&dmr_insiders_lock);
		dmr_change_stack(c->stack, ask);
		spin_lock(&dmr_insiders_lock);
		hlist_del(&inside.list);
		spin_unlock(&dmr_insiders_lock);
	}
	memalloc_noio_restore(noio);
	if (c->failed) {
		ask->result = -EIO;
		if (ask->text)
			snprintf(ask->text, ask->room, "error: the target has failed by a mistake of its own, see the kernel's log; load its table again");
	}
	if (c->failed && !before) {
		c->shared.answers++;
		dm_table_event(c->ti->table);
		dmr_kick(c);
	}
	return ask->result;
}
