#include "app/rr.h"

#include <errno.h>

#define PATIENCE_NS 5000000000ull

int pb_rr_init(struct pb_rr *r, const struct pb_rr_config *cfg)
{
	memset(r, 0, offsetof(struct pb_rr, latency));
	r->cfg = *cfg;
	if (!cfg->bytes || cfg->bytes > PB_RR_BYTES_MAX || !cfg->slices || cfg->slices > PB_BENCH_SLICES ||
	    cfg->duration_ns < cfg->slices || !cfg->requests)
		return -EINVAL;
	pb_hist_reset(&r->lag);
	for (uint32_t i = 0; i < cfg->slices; i++)
		pb_hist_reset(&r->latency[i]);
	return 0;
}

static uint64_t due_ns(const struct pb_rr *r, uint64_t i)
{
	unsigned __int128 t = (unsigned __int128)i * r->cfg.interval;
	return r->start_ns + (uint64_t)(t >> PB_INTERVAL_FRAC);
}

static struct pb_bench_slice *slice_of(struct pb_rr *r, uint64_t now, struct pb_hist **latency)
{
	uint64_t i = (now - r->start_ns) / (r->cfg.duration_ns / r->cfg.slices);
	i = i < r->cfg.slices ? i : r->cfg.slices - 1;
	*latency = &r->latency[i];
	return &r->slice[i];
}

/* Whether another request may leave, and since when it could. */
static bool is_due(struct pb_rr *r, uint64_t now)
{
	if (r->sent_part)
		return true;
	if (r->sent >= r->cfg.requests || now - r->start_ns >= r->cfg.duration_ns)
		return false;
	if (r->cfg.interval)
		return due_ns(r, r->sent) <= now;
	return r->sent == r->answered;
}

/* 1: a request left; 0: not now; -errno. */
static int send_one(struct pb_rr *r, struct pb_stream *s, uint64_t now)
{
	if (!is_due(r, now))
		return 0;
	int64_t k = s->send(s, r->out + r->sent_part, r->cfg.bytes - r->sent_part);
	if (k < 0)
		return k == -EAGAIN ? 0 : (int)k;
	if (!r->sent_part) { /* its first bytes: one that was refused before is late once */
		uint64_t due = r->cfg.interval ? due_ns(r, r->sent) : now;
		uint64_t from = due > r->unblocked_ns ? due : r->unblocked_ns;
		pb_hist_record(&r->lag, now > from ? now - from : 0);
		r->due_last = due;
	}
	r->sent_part += (uint64_t)k;
	if (r->sent_part < r->cfg.bytes)
		return 0;
	struct pb_hist *latency;
	slice_of(r, now, &latency)->sent++;
	r->sent_part = 0;
	r->sent++;
	return 1;
}

static int take_answers(struct pb_rr *r, struct pb_stream *s)
{
	int64_t k = s->recv(s, r->in, sizeof(r->in));
	if (k <= 0)
		return k == -EAGAIN ? 0 : k ? (int)k : -ECONNRESET;
	uint64_t now = pb_now_ns();
	struct pb_hist *latency;
	struct pb_bench_slice *slice = slice_of(r, now, &latency);
	bool late = now - r->start_ns >=
		    r->cfg.duration_ns; /* answers after the end: no slice's, but their latency counts */
	slice->bytes += late ? 0 : (uint64_t)k;
	r->answered_part += (uint64_t)k;
	for (; r->answered_part >= r->cfg.bytes; r->answered_part -= r->cfg.bytes) {
		uint64_t due = r->cfg.interval ? due_ns(r, r->answered) : r->due_last;
		pb_hist_record(latency, now > due ? now - due : 0);
		slice->received += !late;
		r->answered++;
	}
	return (int)k;
}

static bool is_over(const struct pb_rr *r, uint64_t now)
{
	bool no_more = r->sent >= r->cfg.requests || now - r->start_ns >= r->cfg.duration_ns;
	return no_more && !r->sent_part && r->answered == r->sent;
}

static uint64_t wait_until(const struct pb_rr *r, uint64_t patience)
{
	if (!r->cfg.interval || r->sent_part)
		return patience;
	uint64_t end = r->start_ns + r->cfg.duration_ns, due = due_ns(r, r->sent);
	uint64_t next = due < end ? due : end;
	return r->sent < r->cfg.requests && next < patience ? next : patience;
}

static void finish(struct pb_rr *r, uint64_t now)
{
	uint64_t each = r->cfg.duration_ns / r->cfg.slices, ran = now - r->start_ns;
	r->end_ns = now;
	for (uint32_t i = 0; i < r->cfg.slices; i++)
		r->slice[i].ns = ran > (i + 1) * each ? each : ran > i * each ? ran - i * each : 0;
}

int pb_rr_run(struct pb_rr *r, struct pb_stream *s)
{
	uint64_t now = pb_now_ns(), patience = now + PATIENCE_NS;
	if (!r->start_ns)
		r->start_ns = r->unblocked_ns = now;
	while (!is_over(r, now)) {
		int k = send_one(r, s, now);
		if (k < 0)
			return k;
		bool blocked = !k && is_due(r, now);
		int got = take_answers(r, s);
		if (got < 0)
			return got;
		now = pb_now_ns();
		if (k || got) {
			patience = now + PATIENCE_NS;
		} else if (now > patience) {
			return -ETIMEDOUT;
		} else {
			int rc = s->wait(s, blocked, wait_until(r, patience));
			now = pb_now_ns();
			if (rc)
				return rc;
		}
		if (blocked)
			r->unblocked_ns = now;
	}
	finish(r, now);
	return 0;
}

static void count_bulk(struct pb_bulk *b, uint64_t now, uint64_t bytes)
{
	uint64_t each = b->duration_ns / b->slices, i = (now - b->start_ns) / each;
	if (i < b->slices) /* what comes after the end is of no slice */
		b->slice[i].bytes += bytes;
	b->bytes += bytes;
	b->end_ns = now;
}

/* What came of a call is counted, or waited for. 0: go on; or -errno. */
static int bulk_step(struct pb_bulk *b, struct pb_stream *s, int64_t k, bool sends, uint64_t *now, uint64_t *patience)
{
	if (k < 0 && k != -EAGAIN)
		return (int)k;
	int rc = k > 0 ? 0 : s->wait(s, sends, *patience);
	*now = pb_now_ns();
	if (k > 0) {
		b->start_ns = b->start_ns ? b->start_ns : *now; /* a receiver's: its first bytes */
		count_bulk(b, *now, (uint64_t)k);
		*patience = *now + PATIENCE_NS;
	}
	if (rc)
		return rc;
	return *now > *patience ? -ETIMEDOUT : 0;
}

int pb_bulk_send(struct pb_bulk *b, struct pb_stream *s)
{
	/* Of .bss and never written: each of its pages is the kernel's one page of zeros. As a constant it was part of
	 * a file in the page cache, and reading it cost a kernel sender twice as much in one build as in another (2 %
	 * of its core), it seems by where the file lay in memory. */
	static PB_ALIGNED(4096) uint8_t zeros[PB_RR_BYTES_MAX];
	uint64_t now = pb_now_ns(), patience = now + PATIENCE_NS;
	int rc = 0;
	if (!b->start_ns)
		b->start_ns = now;
	while (!rc && now - b->start_ns < b->duration_ns)
		rc = bulk_step(b, s, s->send(s, zeros, sizeof(zeros)), true, &now, &patience);
	return rc;
}

int pb_bulk_recv(struct pb_bulk *b, struct pb_stream *s)
{
	uint8_t buf[PB_RR_BYTES_MAX];
	uint64_t now = pb_now_ns(), patience = now + PATIENCE_NS;
	for (;;) {
		int64_t k = s->recv(s, buf, sizeof(buf));
		if (!k)
			return 0;
		int rc = bulk_step(b, s, k, false, &now, &patience);
		if (rc)
			return rc;
	}
}

int pb_stream_echo(struct pb_stream *s, _Atomic uint32_t *stop)
{
	uint8_t buf[PB_RR_BYTES_MAX];
	while (!atomic_load_explicit(stop, memory_order_acquire)) {
		int64_t k = s->recv(s, buf, sizeof(buf));
		if (!k)
			return 0;
		if (k < 0 && k != -EAGAIN)
			return (int)k;
		for (int64_t done = 0; done < k;) {
			int64_t m = s->send(s, buf + done, (size_t)(k - done));
			if (m < 0 && m != -EAGAIN)
				return (int)m;
			done += m > 0 ? m : 0;
			/* A slow path's work waits until what was taken is sent back: -EINTR here would lose it. */
			int rc = m > 0 ? 0 : s->wait(s, true, pb_now_ns() + 1000000);
			if (rc && rc != -EINTR)
				return rc;
			if (atomic_load_explicit(stop, memory_order_acquire))
				return 0;
		}
		int rc = k > 0 ? 0 : s->wait(s, false, pb_now_ns() + 10000000);
		if (rc)
			return rc;
	}
	return 0;
}
