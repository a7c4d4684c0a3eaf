/* The rings that belong to a queue. Why a duty and not an owner: an owner that stalls (a thread that is stopped, a
 * process that holds its engine) would starve the other sockets of frames and keep their completions. */
#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include "base/flag.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

struct pb_xsk_group *pb_xsk_group_create(struct pb_pool *pool, uint32_t nsockets, int *err)
{
	*err = -ENOMEM;
	struct pb_xsk_group *g = aligned_alloc(PB_CACHE_LINE, sizeof(*g));
	if (!g)
		return NULL;
	memset(g, 0, sizeof(*g));
	g->lent = calloc(pool->nframes, sizeof(*g->lent));
	if (!g->lent) {
		free(g);
		return NULL;
	}
	g->pool = pool;
	g->nsockets = nsockets;
	g->probe_fd = -1;
	atomic_init(&g->fill_low, UINT32_MAX);
	*err = 0;
	return g;
}

void pb_xsk_group_free(struct pb_xsk_group *g)
{
	for (size_t i = 0; i < PB_ARRAY_LEN(g->maps); i++)
		if (g->maps[i].at)
			munmap(g->maps[i].at, g->maps[i].bytes);
	free(g->lent);
	free(g);
}

static bool try_duty(struct pb_xsk_group *g)
{
	return g->nsockets == 1 || !atomic_exchange_explicit(&g->duty, 1, memory_order_acquire);
}

static void drop_duty(struct pb_xsk_group *g)
{
	if (g->nsockets > 1)
		atomic_store_explicit(&g->duty, 0, memory_order_release);
}

/* Set-up only: nobody has it for long. */
static void take_duty(struct pb_xsk_group *g)
{
	while (!try_duty(g))
		pb_cpu_relax();
}

int pb_xsk_group_enter(struct pb_xsk_group *g, struct pb_xsk *x)
{
	if (g->joined == g->nsockets)
		return -ENOSPC;
	if (g->nsockets > 1) {
		x->tx_limit = 2 * x->cfg.tx_ring;
		int err = pb_ring_init(&x->done, x->tx_limit, sizeof(uint64_t));
		if (err)
			return err;
	} else {
		x->tx_limit = UINT32_MAX;
	}
	take_duty(g);
	x->member = g->joined++;
	g->members[x->member] = x;
	drop_duty(g);
	return 0;
}

/* With the duty: frames that are lent for receiving. */
static uint32_t count_posted(struct pb_xsk_group *g)
{
	uint32_t taken = g->taken_before;
	for (uint32_t i = 0; i < g->nsockets; i++)
		if (g->members[i])
			taken += atomic_load_explicit(&g->members[i]->rx_taken, memory_order_relaxed);
	return g->filled - taken;
}

/* With the duty. */
static void refill(struct pb_xsk_group *g, struct pb_pool_cache *cache)
{
	uint64_t addrs[PB_BURST_MAX];
	uint32_t posted = count_posted(g);
	while (posted < g->fill_target) {
		uint32_t want = g->fill_target - posted;
		want = want < PB_BURST_MAX ? want : PB_BURST_MAX;
		/* The kernel shows a packet before it shows that it took the frame: there may be less room than was
		 * received. The next call makes up for it. */
		uint32_t room = xsk_prod_nb_free(&g->fill, want);
		if (!room)
			break;
		want = want < room ? want : room;
		uint32_t got = pb_pool_get(cache, addrs, want, 0, PB_OWN_FILL);
		for (uint32_t i = 0; i < got; i++) {
			struct pb_xsk_loan *lent = &g->lent[pb_pool_index(g->pool, addrs[i])];
			lent->what = PB_LENT_FILL;
			PB_XSK_LENDS(lent);
			*xsk_ring_prod__fill_addr(&g->fill, g->fill.cached_prod + i) = addrs[i];
		}
		g->fill.cached_prod += got;
		xsk_ring_prod__submit(&g->fill, got);
		g->filled += got;
		posted += got;
		if (got < want) {
			atomic_fetch_add_explicit(&g->pool_empty, 1, memory_order_relaxed);
			break;
		}
	}
	atomic_store_explicit(&g->posted, posted, memory_order_relaxed);
	if (posted < atomic_load_explicit(&g->fill_low, memory_order_relaxed))
		atomic_store_explicit(&g->fill_low, posted, memory_order_relaxed);
}

void pb_xsk_group_refill(struct pb_xsk *x)
{
	struct pb_xsk_group *g = x->group;
	if (!try_duty(g))
		return;
	refill(g, x->dev.cache);
	drop_duty(g);
}

/* Whose a completed address is; -1 for what was not ours to send. */
static int sender_of(struct pb_xsk_group *g, uint64_t addr)
{
	if (!pb_pool_has(g->pool, addr))
		return -1;
	const struct pb_xsk_loan *lent = &g->lent[pb_pool_index(g->pool, addr)];
	PB_XSK_GETS_BACK(lent);
	return lent->what - PB_LENT_TX;
}

static struct pb_xsk_loan *loan_of(struct pb_xsk_group *g, uint64_t addr)
{
	return &g->lent[pb_pool_index(g->pool, addr)];
}

/* One socket: straight from the kernel's ring. */
static int completed_alone(struct pb_xsk *x, uint64_t *addrs, int n)
{
	struct pb_xsk_group *g = x->group;
	uint32_t at = 0;
	uint32_t got = xsk_ring_cons__peek(&g->comp, (uint32_t)n, &at);
	int out = 0;
	for (uint32_t i = 0; i < got; i++) {
		uint64_t addr = xsk_umem__add_offset_to_addr(*xsk_ring_cons__comp_addr(&g->comp, at + i));
		if (sender_of(g, addr) < 0)
			continue;
		pb_xsk_unlend(loan_of(g, addr));
		addrs[out++] = addr;
	}
	if (got)
		xsk_ring_cons__release(&g->comp, got);
	return out;
}

/* With the duty: each address to the socket that sent it. Its ring has room for all that it may have under way. */
static void hand_out(struct pb_xsk_group *g, struct pb_pool_cache *cache)
{
	uint32_t at = 0, got;
	while ((got = xsk_ring_cons__peek(&g->comp, PB_BURST_MAX, &at))) {
		for (uint32_t i = 0; i < got; i++) {
			uint64_t addr = xsk_umem__add_offset_to_addr(*xsk_ring_cons__comp_addr(&g->comp, at + i));
			int member = sender_of(g, addr);
			if (member < 0)
				continue;
			struct pb_xsk *to = g->members[member];
			if (to)
				pb_ring_put(&to->done, &addr, 1);
			else if (pb_xsk_unlend(loan_of(g, addr)))
				pb_pool_put(cache, addr, PB_OWN_TX); /* the sender is closed */
		}
		xsk_ring_cons__release(&g->comp, got);
	}
}

int pb_xsk_group_completed(struct pb_xsk *x, uint64_t *addrs, int n)
{
	struct pb_xsk_group *g = x->group;
	if (g->nsockets == 1)
		return completed_alone(x, addrs, n);
	if (x->tx_outstanding && try_duty(g)) {
		hand_out(g, x->dev.cache);
		drop_duty(g);
	}
	n = (int)pb_ring_get(&x->done, addrs, (uint32_t)n);
	for (int i = 0; i < n; i++)
		pb_xsk_unlend(loan_of(g, addrs[i]));
	return n;
}

/* Received and never looked at. */
static void drain_rx(struct pb_xsk_group *g, struct pb_xsk *x)
{
	uint32_t at = 0, got, taken = 0;
	while (x->rx.ring && (got = xsk_ring_cons__peek(&x->rx, PB_BURST_MAX, &at))) {
		for (uint32_t i = 0; i < got; i++) {
			uint64_t addr = xsk_umem__add_offset_to_addr(xsk_ring_cons__rx_desc(&x->rx, at + i)->addr);
			uint32_t f = pb_pool_index(g->pool, addr);
			if (!pb_pool_has(g->pool, addr))
				continue;
			PB_XSK_GETS_BACK(&g->lent[f]);
			if (g->lent[f].what != PB_LENT_FILL)
				continue;
			g->lent[f].what = PB_LENT_NO;
			pb_pool_put(x->dev.cache, addr, PB_OWN_FILL);
			taken++;
		}
		xsk_ring_cons__release(&x->rx, got);
	}
	g->taken_before += taken;
}

void pb_xsk_group_leave(struct pb_xsk_group *g, struct pb_xsk *x)
{
	take_duty(g);
	if (x->member < PB_XSK_SOCKETS && g->members[x->member] == x) {
		g->members[x->member] = NULL;
		g->taken_before += atomic_load_explicit(&x->rx_taken, memory_order_relaxed);
		drain_rx(g, x);
	}
	/* What it sent is for whoever has the duty from now on: so all that was its own is given up before. */
	uint64_t addr;
	while (x->done.slots && pb_ring_get(&x->done, &addr, 1))
		if (pb_xsk_unlend(loan_of(g, addr)))
			pb_pool_put(x->dev.cache, addr, PB_OWN_TX);
	while (x->nrefused) {
		addr = x->refused[--x->nrefused];
		if (pb_xsk_unlend(loan_of(g, addr)))
			pb_pool_put(x->dev.cache, addr, PB_OWN_TX);
	}
	drop_duty(g);
	if (x->done.slots)
		pb_ring_fini(&x->done);
}

void pb_xsk_group_take_back(struct pb_xsk_group *g, struct pb_pool_cache *cache)
{
	for (uint32_t i = 0; i < g->pool->nframes; i++)
		if (g->lent[i].what != PB_LENT_NO)
			pb_pool_put(cache, pb_pool_addr(g->pool, i),
				    g->lent[i].what == PB_LENT_FILL ? PB_OWN_FILL : PB_OWN_TX);
}
