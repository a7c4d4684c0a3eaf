/* What must hold at any quiet moment. Tests and the fuzzer call it after every step. */
#include "tcp/tcb.h"

#define MUST(cond)                                                                                                     \
	do {                                                                                                           \
		if (!(cond))                                                                                           \
			return __LINE__;                                                                               \
	} while (0)

static int check_send(struct pb_tcp *e, const struct tcb *c)
{
	uint32_t sacked = 0, lost = 0, retrans = 0, todo = 0, segs = 0, seq = 0, tail = NONE;
	bool first = true, unsent = false, hint = c->rtx_hint == NONE;
	for (uint32_t f = c->sq_head; f != NONE; f = e->segs[f].next) {
		const struct seg *s = &e->segs[f];
		MUST(s->len);
		MUST(!s->again || ((s->flags & SEG_INDEV) && e->cfg.tx_chains && s->again < PB_DESC_REFS_MAX));
		MUST(first || s->seq == seq);
		MUST(!first || seq_leq(s->seq, c->snd_una));
		unsent |= f == c->sq_next;
		hint |= f == c->rtx_hint;
		MUST(unsent == !(s->flags & SEG_SENT));
		MUST((s->flags & (SEG_SACKED | SEG_LOST)) != (SEG_SACKED | SEG_LOST));
		sacked += s->flags & SEG_SACKED ? s->len : 0;
		lost += s->flags & SEG_LOST ? s->len : 0;
		retrans += s->flags & SEG_RETRANS ? s->len : 0;
		todo += (s->flags & (SEG_LOST | SEG_RETRANS)) == SEG_LOST ? s->len : 0;
		segs += !!(s->flags & SEG_SACKED);
		seq = s->seq + s->len;
		tail = f;
		first = false;
	}
	MUST(tail == c->sq_tail && hint);
	MUST(first || seq == c->snd_end);
	MUST(unsent == (c->sq_next != NONE));
	MUST(lost == c->lost_bytes);
	MUST(retrans == c->retrans_bytes && todo == c->todo_bytes);
	MUST(!(c->flags & TCB_SACK) || (sacked == c->sacked_bytes && segs == c->sacked_segs));
	MUST(seq_leq(c->snd_una, c->snd_nxt));
	MUST(seq_leq(c->snd_nxt, c->snd_end + 1));
	MUST(c->sacked_bytes + lost <= in_flight(c) && retrans <= in_flight(c) && pipe_bytes(c) <= 2 * in_flight(c));
	/* A window that lets nothing out would never open again. */
	bool sends = c->state >= PB_TCP_ESTABLISHED && c->state != PB_TCP_TIME_WAIT;
	MUST(!sends || (c->mss && c->cc.mss == c->mss && c->cc.cwnd && (in_flight(c) || c->cc.cwnd >= c->mss)));
	return 0;
}

static int check_receive(struct pb_tcp *e, const struct tcb *c)
{
	uint32_t bytes = 0, frames = 0, tail = NONE, count = 0;
	for (uint32_t f = c->rq_head; f != NONE; f = e->segs[f].next, frames++) {
		bytes += e->segs[f].len;
		tail = f;
	}
	MUST(tail == c->rq_tail && bytes == c->rq_bytes);
	MUST(c->state < PB_TCP_SYN_SENT || c->rcv_full == (uint64_t)c->rcvbuf * c->advmss / e->pool->frame_bytes);
	uint32_t end = c->rcv_nxt;
	for (uint32_t f = c->oq_head; f != NONE; f = e->segs[f].next, count++) {
		/* Ahead of what is in order, sorted, disjoint, inside the window. */
		MUST(count ? seq_leq(end, e->segs[f].seq) : seq_lt(end, e->segs[f].seq));
		MUST(e->segs[f].len);
		end = e->segs[f].seq + e->segs[f].len;
		MUST(seq_leq(end, c->rcv_adv));
	}
	MUST(count == c->oq_count && count <= e->cfg.ooo_segs);
	MUST(frames + count + c->held_frames == c->rcv_frames);
	MUST(!(c->flags & TCB_RFIN) || seq_leq(end, c->rfin_seq + !!(c->flags & TCB_RFIN_DONE)));
	MUST(seq_leq(c->rcv_nxt, c->rcv_adv) || c->state < PB_TCP_SYN_RCVD);
	return 0;
}

/* A timer is armed while anything is in flight or waits behind a closed window. */
static int check_timers(const struct pb_tcp *e, const struct tcb *c)
{
	bool ready = c->flags & TCB_READY;
	if (c->state == PB_TCP_SYN_SENT || c->state == PB_TCP_SYN_RCVD)
		MUST(c->t_rtx != NEVER);
	if (c->state >= PB_TCP_ESTABLISHED && c->state != PB_TCP_TIME_WAIT && in_flight(c))
		MUST(c->t_rtx != NEVER && c->rtx_kind != RTX_NONE);
	if (c->state >= PB_TCP_ESTABLISHED && c->sq_next != NONE && !ready)
		MUST(c->t_rtx != NEVER || c->t_pace != NEVER);
	if (c->state == PB_TCP_TIME_WAIT)
		MUST(c->t_misc != NEVER);
	uint64_t t = c->t_rtx < c->t_delack ? c->t_rtx : c->t_delack;
	t = t < c->t_misc ? t : c->t_misc;
	t = t < c->t_pace ? t : c->t_pace;
	uint32_t at = e->heap_at[c->idx];
	MUST(t == NEVER || (at < e->heap_n && e->heap[at].idx == c->idx && e->heap[at].key <= t));
	return 0;
}

/* The connections in TIME-WAIT that the application has closed, all of them and no others. */
static int check_spare(const struct pb_tcp *e, uint32_t want)
{
	uint32_t n = 0, prev = NONE;
	for (uint32_t i = e->spare.head; i != NONE; i = e->tcbs[i].q_next, n++) {
		const struct tcb *c = &e->tcbs[i];
		MUST(n < want && c->q_prev == prev);
		MUST((c->flags & TCB_SPARE) && (c->flags & TCB_DETACHED) && c->state == PB_TCP_TIME_WAIT);
		prev = i;
	}
	MUST(prev == e->spare.tail && n == want);
	return 0;
}

int pb_tcp_check(struct pb_tcp *e)
{
	uint32_t spare = 0, leaving = 0;
	uint64_t live = 0, states[PB_TCP_STATE_COUNT] = {0};
	for (uint32_t i = 0; i < e->ntcbs; i++) {
		const struct tcb *c = &e->tcbs[i];
		if (!c->rcvbuf)
			continue; /* free */
		live++;
		spare += c->state == PB_TCP_TIME_WAIT && (c->flags & TCB_DETACHED);
		leaving += !!(c->events & PB_TCP_EV_GONE);
		states[c->state]++;
		int rc = check_send(e, c);
		if (!rc)
			rc = check_receive(e, c);
		if (!rc)
			rc = check_timers(e, c);
		if (rc)
			return rc;
		MUST(!!(c->flags & TCB_HASHED) == (c->state >= PB_TCP_SYN_SENT));
	}
	int rc = check_spare(e, spare);
	if (rc)
		return rc;
	MUST(leaving == e->leaving);
	MUST(live == e->stats.conns && live - leaving <= e->cfg.max_conns + e->nlisten);
	MUST(!memcmp(states, e->stats.states, sizeof(states)));
	for (uint32_t i = 1; i < e->heap_n; i++)
		MUST(e->heap[(i - 1) / 4].key <= e->heap[i].key);
	return 0;
}
