/* Creation, slots, lists, frames and the end of a connection. */
#include "tcp/tcb.h"

#include "base/handles.h"
#include "mem/region.h"

#include <errno.h>
#include <stdlib.h>

void pb_tcp_config_default(struct pb_tcp_config *cfg)
{
	*cfg = (struct pb_tcp_config){
		.max_conns = 1024,
		.max_listeners = 64,
		.rcvbuf_bytes = 1u << 20,
		.sndbuf_bytes = 1u << 20,
		.ooo_segs = 512,
		.reserve_frames = 256,
		.mtu = 1500,
		.ttl = 64,
		.timestamps = true,
		.sack = true,
		.wscale = true,
		.dsack = true,
		.rack = true,
		.tlp = true,
		.frto = true,
		.slow_start_after_idle = true,
		.pmtu_discovery = true,
		.ecn = PB_TCP_ECN_PASSIVE,
		.reordering_segs = 3,
		.rto_initial_ns = 1000ull * NS_PER_MS,
		.rto_min_ns = 200ull * NS_PER_MS,
		.rto_max_ns = 120000ull * NS_PER_MS,
		.timer_slack_ns = 1ull * NS_PER_MS,
		.delack_ns = 40ull * NS_PER_MS,
		.cork_ns = 200ull * NS_PER_MS,
		.time_wait_ns = 60000ull * NS_PER_MS,
		.fin_wait2_ns = 60000ull * NS_PER_MS,
		.syn_retries = 7, /* 247 s: R2 of a SYN is at least 3 minutes (RFC 9293 3.8.3) */
		.synack_retries = 5,
		.data_retries = 15,
		.keepalive_interval_ns = 75000ull * NS_PER_MS,
		.keepalive_probes = 9,
		.challenge_ns = 500ull * NS_PER_MS,
		.challenge_per_sec = 1000,
		.probing_base_mss = 1024,
		.probing_floor_mss = 48,
		.cc = &pb_cc_cubic,
	};
}

/* More slots than max_conns: the slot of a connection that was replaced is free only when its end was told, and until
 * then a burst of packets and one of commands may open so many. */
#define SLACK (2u * PB_BURST_MAX)

/* Microseconds of it fit into 32 bits. */
#define RTO_LIMIT_NS (3600000ull * NS_PER_MS)

static bool config_ok(const struct pb_tcp_config *c)
{
	return c->max_conns && c->max_conns <= 1u << 22 && c->max_listeners && c->max_listeners <= 1u << 16 &&
	       c->mtu >= 576 && c->rcvbuf_bytes >= 4096 && c->rcvbuf_bytes <= 1u << 30 && c->sndbuf_bytes >= 4096 &&
	       c->sndbuf_bytes <= 1u << 30 && c->rto_min_ns >= NS_PER_US && c->rto_min_ns <= c->rto_max_ns &&
	       c->rto_max_ns <= RTO_LIMIT_NS && c->rto_initial_ns >= NS_PER_US && c->rto_initial_ns <= RTO_LIMIT_NS &&
	       c->keepalive_interval_ns >= NS_PER_MS && c->keepalive_probes && c->ttl && c->cc &&
	       c->cc->abi == PB_CC_ABI && c->acks <= PB_TCP_ACKS_BSD && c->ecn <= PB_TCP_ECN_PASSIVE &&
	       c->probing <= PB_TCP_PROBING_ALWAYS && c->reordering_segs && c->reordering_segs <= 300 &&
	       c->initial_cwnd_segs <= 1000 && c->rcv_wscale <= PB_TCP_WSCALE_MAX &&
	       (!c->mss_clamp || c->mss_clamp >= 64) && c->delack_ns <= 500ull * NS_PER_MS && !(c->tos & PB_ECN_MASK) &&
	       !(c->trace_records & (c->trace_records - 1)) &&
	       (!c->probing || (c->probing_base_mss >= 48 && c->probing_floor_mss >= 48));
}

static uint32_t pow2_at_least(uint32_t n)
{
	uint32_t p = 1;
	while (p < n)
		p <<= 1;
	return p;
}

/* Large arrays lie in regions, with transparent huge pages where the kernel gives them: connections are visited in any
 * order, and each visit would miss the TLB too. */
#define LARGE_BYTES ((size_t)1 << 20)

static void *take(struct pb_region **r, size_t n, size_t size)
{
	size_t bytes = n * size;
	int err;
	*r = bytes >= LARGE_BYTES ? pb_region_create(bytes, PB_WANT_THP, &err) : NULL;
	if (*r)
		return pb_region_base(*r);
	bytes = (bytes + PB_CACHE_LINE - 1) / PB_CACHE_LINE * PB_CACHE_LINE;
	void *p = aligned_alloc(PB_CACHE_LINE, bytes);
	if (p)
		memset(p, 0, bytes);
	return p;
}

static void give(struct pb_region *r, void *p)
{
	if (r)
		pb_region_unref(r);
	else
		free(p);
}

static void free_memory(struct pb_tcp *e)
{
	give(e->regions[0], e->segs);
	give(e->regions[1], e->tcbs);
	give(e->regions[2], e->table);
	give(e->regions[3], e->heap);
	give(e->regions[4], e->heap_at);
	free(e->listeners);
	free(e->trace);
	free(e);
}

struct pb_tcp *pb_tcp_create(const struct pb_tcp_config *cfg, struct pb_pool_cache *cache, int *err)
{
	*err = -EINVAL;
	if (!config_ok(cfg) || cfg->mtu + (uint32_t)PB_TCP_HEADROOM > cache->pool->frame_bytes)
		return NULL;
	*err = -ENOMEM;
	struct pb_tcp *e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->cfg = *cfg;
	e->cache = cache;
	e->pool = cache->pool;
	while (1u << e->frame_log2 < e->pool->frame_bytes)
		e->frame_log2++;
	e->ntcbs = cfg->max_conns + cfg->max_listeners + min_u32(cfg->max_conns, SLACK);
	uint32_t slots = pow2_at_least(2 * cfg->max_conns);
	e->table_mask = slots - 1;
	e->segs = take(&e->regions[0], e->pool->nframes, sizeof(*e->segs));
	e->tcbs = take(&e->regions[1], e->ntcbs, sizeof(*e->tcbs));
	e->table = take(&e->regions[2], slots, sizeof(*e->table));
	e->heap = take(&e->regions[3], e->ntcbs, sizeof(*e->heap));
	e->heap_at = take(&e->regions[4], e->ntcbs, sizeof(*e->heap_at));
	e->listeners = calloc(cfg->max_listeners, sizeof(*e->listeners));
	e->trace = cfg->trace_records ? calloc(cfg->trace_records, sizeof(*e->trace)) : NULL;
	if (!e->segs || !e->tcbs || !e->table || !e->heap || !e->heap_at || !e->listeners ||
	    (cfg->trace_records && !e->trace)) {
		free_memory(e);
		return NULL;
	}
	for (uint32_t i = 0; i < e->ntcbs; i++) {
		e->tcbs[i].idx = i;
		e->tcbs[i].gen = 1;
		e->heap_at[i] = NONE;
		e->tcbs[i].next[LIST_READY] = i + 1 < e->ntcbs ? i + 1 : NONE;
	}
	e->free_head = 0;
	e->spare = (struct queue){NONE, NONE};
	for (int i = 0; i < LIST_COUNT; i++)
		e->lists[i] = (struct queue){NONE, NONE};
	pb_handle_opened(PB_HANDLE_ENGINE);
	*err = 0;
	return e;
}

void pb_tcp_destroy(struct pb_tcp *e)
{
	if (!e)
		return;
	for (uint32_t i = 0; i < e->ntcbs; i++) {
		struct tcb *c = &e->tcbs[i];
		if (c->state == PB_TCP_CLOSED && !c->rcvbuf)
			continue;
		flow_remove(e, c);
		sq_free_all(e, c);
		rcv_free_all(e, c);
	}
	free_memory(e);
	pb_handle_closed(PB_HANDLE_ENGINE);
}

uint32_t frame_alloc(struct pb_tcp *e, bool data)
{
	uint64_t addr;
	if (!pb_pool_get(e->cache, &addr, 1, data ? e->cfg.reserve_frames : 0, PB_OWN_ENGINE))
		return NONE;
	uint32_t frame = pb_pool_index(e->pool, addr);
	e->segs[frame] = (struct seg){.next = NONE, .off = PB_TCP_HEADROOM};
	return frame;
}

/* Back to the pool, now or when the device gives it back. */
void frame_free(struct pb_tcp *e, uint32_t frame)
{
	struct seg *s = &e->segs[frame];
	if (s->flags & SEG_INDEV)
		s->flags |= SEG_ORPHAN;
	else
		pb_pool_put(e->cache, frame_addr(e, frame), PB_OWN_ENGINE);
}

void pb_tcp_tx_done(struct pb_tcp *e, const uint64_t *addrs, int n)
{
	for (int i = 0; i < n; i++) {
		struct seg *s = &e->segs[pb_pool_index(e->pool, addrs[i])];
		if (s->again) {
			s->again--;
#ifdef PB_DEBUG
			pb_pool_check(e->pool, addrs[i], PB_OWN_TX, PB_OWN_TX);
#endif
			continue;
		}
		bool keep = (s->flags & (SEG_INDEV | SEG_ORPHAN)) == SEG_INDEV;
		s->flags &= (uint16_t) ~(SEG_INDEV | SEG_ORPHAN);
		if (keep)
			pb_pool_move(e->cache, addrs[i], PB_OWN_TX, PB_OWN_ENGINE);
		else
			pb_pool_put(e->cache, addrs[i], PB_OWN_TX);
	}
}

void pb_tcp_tx_drop(struct pb_tcp *e, const struct pb_desc *d, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t addr = pb_pool_frame(e->pool, d[i].addr);
		struct seg *s = &e->segs[pb_pool_index(e->pool, addr)];
		if ((d[i].flags & PB_DESC_AGAIN) && s->again) {
			s->again--; /* whoever has the others, or had: the frame is theirs, TX or not yet */
			continue;
		}
		pb_pool_send(e->cache, &d[i], PB_OWN_ENGINE);
		pb_tcp_tx_done(e, &addr, 1);
	}
}

struct tcb *tcb_alloc(struct pb_tcp *e)
{
	if (e->free_head == NONE)
		return NULL;
	struct tcb *c = &e->tcbs[e->free_head];
	uint32_t idx = c->idx, gen = c->gen;
	e->free_head = c->next[LIST_READY];
	memset(c, 0, sizeof(*c));
	c->idx = idx;
	c->gen = gen;
	c->rq_head = c->rq_tail = c->oq_head = NONE;
	c->sq_head = c->sq_tail = c->sq_next = c->rtx_hint = NONE;
	c->aq = (struct queue){NONE, NONE};
	c->q_next = c->q_prev = c->listener = NONE;
	c->next[LIST_READY] = c->next[LIST_EVENT] = NONE;
	c->t_rtx = c->t_delack = c->t_misc = c->t_pace = NEVER;
	c->rcvbuf = e->cfg.rcvbuf_bytes;
	c->sndbuf = e->cfg.sndbuf_bytes;
	c->cc_ops = e->cfg.cc;
	c->rack_steps = 1;
	c->reordering = e->cfg.reordering_segs;
	c->undo_retrans = -1;
	c->user_timeout_ns = e->cfg.user_timeout_ns;
	c->delack_ns = e->cfg.delack_ns;
	c->rto_min_ns = e->cfg.rto_min_ns;
	c->rto_max_ns = e->cfg.rto_max_ns;
	c->fin_wait2_ns = e->cfg.fin_wait2_ns;
	c->linger_ns = -1;
	c->syn_retries = e->cfg.syn_retries;
	c->tos = e->cfg.tos;
	c->ttl = e->cfg.ttl;
	c->bits = (e->cfg.acks == PB_TCP_ACKS_BSD ? BIT_ACKS_BSD : 0u) |
		  (e->cfg.slow_start_after_idle ? BIT_IDLE_RESTART : 0u);
	c->ka_idle_ns = e->cfg.keepalive_idle_ns;
	c->ka_interval_ns = e->cfg.keepalive_interval_ns;
	c->ka_probes = e->cfg.keepalive_probes;
	c->rto_us = (uint32_t)(e->cfg.rto_initial_ns / NS_PER_US);
	c->min_rtt_us = UINT32_MAX;
	c->flags |= (e->cfg.nagle ? TCB_NAGLE : 0u) | (e->cfg.pmtu_discovery ? 0u : TCB_NO_PMTUD);
	e->stats.conns++;
	e->stats.states[PB_TCP_CLOSED]++;
	return c;
}

struct tcb *conn_alloc(struct pb_tcp *e)
{
	if (e->free_head == NONE)
		return NULL;
	if (e->stats.conns - e->leaving >= e->cfg.max_conns + e->nlisten) {
		if (e->spare.head == NONE)
			return NULL;
		tcb_closed(e, &e->tcbs[e->spare.head], 0);
		e->stats.n[PB_C_TimeWaitCutShort]++;
	}
	return tcb_alloc(e);
}

void tcb_recycle(struct pb_tcp *e, struct tcb *c)
{
	c->flags = 0;
	c->next[LIST_READY] = e->free_head;
	e->free_head = c->idx;
}

static void tcb_free(struct pb_tcp *e, struct tcb *c)
{
	c->gen++;
	if (!c->gen)
		c->gen = 1;
	c->state = PB_TCP_CLOSED;
	c->rcvbuf = 0;
	e->stats.conns--;
	e->stats.states[PB_TCP_CLOSED]--;
	if (c->flags & TCB_READY)
		c->flags = TCB_READY | TCB_DEAD; /* the output list links it still: output gives it back */
	else
		tcb_recycle(e, c);
}

/* Each list has a flag that says who is on it. */
static const uint32_t list_flag[LIST_COUNT] = {TCB_READY, TCB_EVENT};

static void list_push(struct pb_tcp *e, enum tcb_list which, struct tcb *c)
{
	struct queue *q = &e->lists[which];
	if (c->flags & list_flag[which])
		return;
	c->flags |= list_flag[which];
	c->next[which] = NONE;
	*(q->tail == NONE ? &q->head : &e->tcbs[q->tail].next[which]) = c->idx;
	q->tail = c->idx;
}

struct tcb *list_pop(struct pb_tcp *e, enum tcb_list which)
{
	struct queue *q = &e->lists[which];
	struct tcb *c = &e->tcbs[q->head];
	q->head = c->next[which];
	if (q->head == NONE)
		q->tail = NONE;
	c->flags &= ~list_flag[which];
	return c;
}

void tcb_ready(struct pb_tcp *e, struct tcb *c)
{
	list_push(e, LIST_READY, c);
}

void tcb_event(struct pb_tcp *e, struct tcb *c, uint32_t mask)
{
	e->leaving += (mask & PB_TCP_EV_GONE) && !(c->events & PB_TCP_EV_GONE);
	c->events |= mask;
	if (c->listener == NONE) /* else nobody has its handle yet: accept tells */
		list_push(e, LIST_EVENT, c);
}

void queue_push(struct pb_tcp *e, struct queue *q, struct tcb *c)
{
	c->q_next = NONE;
	c->q_prev = q->tail;
	*(q->tail == NONE ? &q->head : &e->tcbs[q->tail].q_next) = c->idx;
	q->tail = c->idx;
}

void queue_remove(struct pb_tcp *e, struct queue *q, struct tcb *c)
{
	*(c->q_prev == NONE ? &q->head : &e->tcbs[c->q_prev].q_next) = c->q_next;
	*(c->q_next == NONE ? &q->tail : &e->tcbs[c->q_next].q_prev) = c->q_prev;
}

static void spare_remove(struct pb_tcp *e, struct tcb *c)
{
	if (c->flags & TCB_SPARE)
		queue_remove(e, &e->spare, c);
	c->flags &= ~(uint32_t)TCB_SPARE;
}

void spare_push(struct pb_tcp *e, struct tcb *c)
{
	if (c->state != PB_TCP_TIME_WAIT || !(c->flags & TCB_DETACHED))
		return;
	spare_remove(e, c);
	c->flags |= TCB_SPARE;
	queue_push(e, &e->spare, c);
}

/* A child that was never accepted leaves its listener. */
static void leave_listener(struct pb_tcp *e, struct tcb *c)
{
	if (c->listener == NONE)
		return;
	struct tcb *l = &e->tcbs[c->listener];
	if (c->flags & (TCB_EMBRYO | TCB_QUEUED))
		l->waiting--;
	if (c->flags & TCB_QUEUED)
		queue_remove(e, &l->aq, c);
	c->flags &= ~(uint32_t)(TCB_EMBRYO | TCB_QUEUED);
	c->listener = NONE;
}

void tcb_closed(struct pb_tcp *e, struct tcb *c, int err)
{
	bool nameless = c->listener != NONE; /* nobody has a handle of it, so nobody is told */
	leave_listener(e, c);
	spare_remove(e, c);
	if (nameless)
		c->flags |= TCB_DETACHED;
	if (err && !c->error)
		c->error = err;
	/* RFC 4022, and Linux: whoever ended it. */
	if (c->state == PB_TCP_ESTABLISHED || c->state == PB_TCP_CLOSE_WAIT)
		COUNT(e, TcpEstabResets);
	tcb_set_state(e, c, PB_TCP_CLOSED);
	c->t_rtx = c->t_delack = c->t_misc = c->t_pace = NEVER;
	c->rtx_kind = RTX_NONE;
	c->flags &= ~(uint32_t)(TCB_ACK_NOW | TCB_SYN_OUT | TCB_FIN_OUT | TCB_PROBE | TCB_TLP_DUE);
	timer_remove(e, c->idx);
	flow_remove(e, c);
	sq_free_all(e, c);
	if (c->flags & TCB_DETACHED)
		rcv_free_all(e, c);
	else
		rcv_free_ooo(e, c);
	if (nameless)
		tcb_free(e, c);
	else
		tcb_event(e, c, PB_TCP_EV_CLOSED | (c->flags & TCB_DETACHED ? PB_TCP_EV_GONE : 0));
}

bool pb_tcp_has_output(const struct pb_tcp *e)
{
	return e->lists[LIST_READY].head != NONE || e->reply_n || e->sweep_left;
}

int pb_tcp_events(struct pb_tcp *e, struct pb_tcp_event *ev, int n)
{
	int k = 0;
	while (k < n && e->lists[LIST_EVENT].head != NONE) {
		struct tcb *c = list_pop(e, LIST_EVENT);
		ev[k++] = (struct pb_tcp_event){tcb_handle(c), c->events, c->error, c->acked_event, c->cookie};
		bool gone = c->events & PB_TCP_EV_GONE;
		c->events = 0;
		c->acked_event = 0;
		if (gone) {
			e->leaving--;
			tcb_free(e, c);
		}
	}
	return k;
}
