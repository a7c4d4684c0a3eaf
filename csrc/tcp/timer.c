/* One heap entry per connection, keyed by the earliest of its deadlines. A deadline that moves later does not touch the
 * heap: the entry fires early and is put back. So restarting the retransmission timer on each ACK costs a store. */
#include "tcp/tcb.h"

#define ARITY 4u

static uint64_t key(const struct pb_tcp *e, uint32_t pos)
{
	return e->heap[pos].key;
}

static void place(struct pb_tcp *e, uint32_t pos, struct due d)
{
	e->heap[pos] = d;
	e->heap_at[d.idx] = pos;
}

static void sift_up(struct pb_tcp *e, uint32_t pos)
{
	struct due d = e->heap[pos];
	while (pos) {
		uint32_t parent = (pos - 1) / ARITY;
		if (key(e, parent) <= d.key)
			break;
		place(e, pos, e->heap[parent]);
		pos = parent;
	}
	place(e, pos, d);
}

static void sift_down(struct pb_tcp *e, uint32_t pos)
{
	struct due d = e->heap[pos];
	for (;;) {
		uint32_t first = pos * ARITY + 1, best = first;
		if (first >= e->heap_n)
			break;
		for (uint32_t i = first + 1; i < first + ARITY && i < e->heap_n; i++)
			if (key(e, i) < key(e, best))
				best = i;
		if (key(e, best) >= d.key)
			break;
		place(e, pos, e->heap[best]);
		pos = best;
	}
	place(e, pos, d);
}

static uint64_t earliest(const struct tcb *c)
{
	uint64_t t = c->t_rtx < c->t_delack ? c->t_rtx : c->t_delack;
	uint64_t u = c->t_misc < c->t_pace ? c->t_misc : c->t_pace;
	return t < u ? t : u;
}

void timer_update(struct pb_tcp *e, struct tcb *c)
{
	uint64_t t = earliest(c);
	uint32_t pos = e->heap_at[c->idx];
	if (pos == NONE) {
		if (t == NEVER)
			return;
		place(e, e->heap_n, (struct due){t, c->idx});
		e->heap_n++;
		sift_up(e, e->heap_n - 1);
	} else if (t < key(e, pos)) {
		e->heap[pos].key = t;
		sift_up(e, pos);
	}
}

void timer_remove(struct pb_tcp *e, uint32_t idx)
{
	uint32_t pos = e->heap_at[idx];
	if (pos == NONE)
		return;
	e->heap_at[idx] = NONE;
	struct due last = e->heap[--e->heap_n];
	if (pos == e->heap_n)
		return;
	place(e, pos, last);
	sift_up(e, pos);
	sift_down(e, e->heap_at[last.idx]);
}

uint64_t pb_tcp_next_deadline(const struct pb_tcp *e)
{
	return e->heap_n ? key(e, 0) : NEVER;
}
