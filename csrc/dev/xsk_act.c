/* The list of flow rules that the XDP program asks first: maps pb_acts (what), pb_act_order (when), pb_act_counts. */
#define _GNU_SOURCE
#include "dev/xsk_prog.h"

#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <stdlib.h>

static int put_order(struct pb_xsk_prog *p, uint32_t at, uint32_t slot)
{
	p->act_order[at] = slot;
	return bpf_map_update_elem(p->act_order_fd, &at, &slot, BPF_ANY) ? -errno : 0;
}

static int clear_counts(struct pb_xsk_prog *p, uint32_t slot)
{
	int cpus = libbpf_num_possible_cpus();
	struct pb_act_counters *zero = calloc(cpus > 0 ? (size_t)cpus : 1, sizeof(*zero));
	if (!zero)
		return -ENOMEM;
	int err = cpus < 1 ? -EIO : bpf_map_update_elem(p->act_counts_fd, &slot, zero, BPF_ANY) ? -errno : 0;
	free(zero);
	return err;
}

static int find_place(const struct pb_xsk_prog *p, uint32_t slot)
{
	for (uint32_t i = 0; i < p->conf.nacts; i++)
		if (p->act_order[i] == slot)
			return (int)i;
	return -ENOENT;
}

/* A slot that no rule has; the one after the last that was given out first, so that a program that still looks at a
 * rule just deleted does not see another in its place. */
static int find_slot(struct pb_xsk_prog *p)
{
	for (uint32_t i = 0; i < PB_ACT_RULES; i++) {
		uint32_t slot = (p->act_next + i) % PB_ACT_RULES;
		if (find_place(p, slot) >= 0)
			continue;
		p->act_next = slot + 1;
		return (int)slot;
	}
	return -ENOSPC;
}

/* Makes room at `at`: from the end on, so that each rule is there twice for a moment and never absent. */
static int insert(struct pb_xsk_prog *p, uint32_t at, uint32_t slot)
{
	uint32_t n = p->conf.nacts;
	int err = put_order(p, n, n > at ? p->act_order[n - 1] : slot);
	if (err)
		return err;
	p->conf.nacts++;
	err = pb_xsk_prog_store_conf(p);
	for (uint32_t i = n; !err && i > at + 1; i--)
		err = put_order(p, i - 1, p->act_order[i - 2]);
	return !err && n > at ? put_order(p, at, slot) : err;
}

static int add(struct pb_xsk_prog *p, const struct pb_act *act, uint32_t priority)
{
	int found = find_slot(p);
	if (found < 0)
		return found;
	uint32_t slot = (uint32_t)found, at = 0;
	while (at < p->conf.nacts && p->act_priority[p->act_order[at]] <= priority)
		at++;
	int err = bpf_map_update_elem(p->acts_fd, &slot, act, BPF_ANY) ? -errno : 0;
	if (!err)
		err = clear_counts(p, slot);
	p->act_priority[slot] = priority;
	if (!err)
		err = insert(p, at, slot);
	return err ? err : found;
}

int pb_xsk_act_add(struct pb_xsk_prog *p, const struct pb_act *act, uint32_t priority)
{
	pthread_mutex_lock(&p->lock);
	int slot = add(p, act, priority);
	pthread_mutex_unlock(&p->lock);
	return slot;
}

int pb_xsk_act_del(struct pb_xsk_prog *p, uint32_t slot)
{
	pthread_mutex_lock(&p->lock);
	int at = find_place(p, slot), err = at < 0 ? at : 0;
	for (uint32_t i = (uint32_t)at; !err && i + 1 < p->conf.nacts; i++)
		err = put_order(p, i, p->act_order[i + 1]);
	if (!err) {
		p->conf.nacts--;
		err = pb_xsk_prog_store_conf(p);
	}
	pthread_mutex_unlock(&p->lock);
	return err;
}

int pb_xsk_act_count(struct pb_xsk_prog *p, uint32_t slot, struct pb_act_counters *out)
{
	memset(out, 0, sizeof(*out));
	int cpus = libbpf_num_possible_cpus();
	if (cpus < 1)
		return cpus ? cpus : -EIO;
	struct pb_act_counters *each = calloc((size_t)cpus, sizeof(*each));
	if (!each)
		return -ENOMEM;
	pthread_mutex_lock(&p->lock);
	int at = find_place(p, slot), err = at < 0 ? at : 0;
	if (!err && bpf_map_lookup_elem(p->act_counts_fd, &slot, each))
		err = -errno;
	pthread_mutex_unlock(&p->lock);
	for (int i = 0; !err && i < cpus; i++) {
		out->pkts += each[i].pkts;
		out->bytes += each[i].bytes;
	}
	free(each);
	return err;
}
