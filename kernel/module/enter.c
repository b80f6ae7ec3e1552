// SPDX-License-Identifier: GPL-2.0
/*
 * Into the Rust object.
 *
 * It reads and writes whole pages of metadata on its stack, which may take more than a kernel stack has left below a file system. So
 * whatever may take much runs on a stack that belongs to the target (with a guard page behind it, as all of vmalloc). Look-ups and
 * what runs in interrupts take a few dozen bytes and stay where they are. Waiting on the other stack is allowed: it belongs to nobody else
 * until the call returns.
 */

#include <linux/ktime.h>
#include <linux/sched/mm.h>
#include <linux/vmalloc.h>
#include <asm/asm.h>
#include "shim.h"

#define DMR_STACK (192 << 10)

void *dmr_make_stack(void)
{
	return vmalloc(DMR_STACK);
}

static noinline void dmr_change_stack(void *stack, struct dmr_ask *ask)
{
#ifdef CONFIG_X86_64
	/* The kernel's own way to change stacks, which its unwinder knows. */
	register void *top asm("r11") = stack + DMR_STACK - 16;

	asm_inline volatile("movq	%%rsp, (%[top])\n"
			    "movq	%[top], %%rsp\n"
			    "call	%c[answer]\n"
			    "popq	%%rsp\n"
			    : "+r" (top), "+D" (ask), ASM_CALL_CONSTRAINT
			    : [answer] "i" (dmr_answer), [top] "r" (top)
			    : "cc", "rax", "rcx", "rdx", "rsi", "r8", "r9", "r10", "memory");
#else
#error "the Rust object is built for x86-64"
#endif
}

/* c->owner held and the volume assembled, or nothing is in service. */
int dmr_enter(struct dmr *c, struct dmr_ask *ask)
{
	unsigned int noio = memalloc_noio_save();

	ask->c = c;
	ask->shared = &c->shared;
	ask->mono_ns = ktime_get_ns();
	ask->unix_s = ktime_get_real_seconds();
	dmr_change_stack(c->stack, ask);
	memalloc_noio_restore(noio);
	return ask->result;
}
