/* What went out, in order, until it is fetched; and where Linux would have set PSH. */
#include "script/impl.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <errno.h>
#include <stdlib.h>

#define TSO_MAX_BYTES 65536u /* gso_max_size of the kernel's interfaces */

bool outbox_init(struct outbox *o)
{
	*o = (struct outbox){.room = 64};
	o->pkts = malloc(o->room * sizeof(*o->pkts));
	return o->pkts != NULL;
}

void outbox_free(struct outbox *o)
{
	free(o->pkts);
	*o = (struct outbox){0};
}

bool outbox_add(struct outbox *o, const uint8_t *ip, uint32_t len, uint64_t now_ns)
{
	if (o->head && o->n == o->room) {
		memmove(o->pkts, o->pkts + o->head, (o->n - o->head) * sizeof(*o->pkts));
		o->n -= o->head;
		o->step -= o->head < o->step ? o->head : o->step;
		o->head = 0;
	}
	if (o->n == o->room) {
		struct out_pkt *more = realloc(o->pkts, 2 * o->room * sizeof(*more));
		if (!more)
			return false;
		o->pkts = more;
		o->room *= 2;
	}
	if (len > sizeof(o->pkts->b))
		return false;
	struct out_pkt *p = &o->pkts[o->n++];
	p->time_ns = now_ns;
	p->len = len;
	memcpy(p->b, ip, len);
	return true;
}

/* A TCP packet of the outbox, taken apart. */
struct segment {
	struct pb_ip_view ip;
	struct pb_tcp_view tcp;
	uint32_t bytes; /* of data */
};

static bool segment_of(const struct out_pkt *p, struct segment *s)
{
	if (pb_ip_parse(p->b, p->len, &s->ip) || s->ip.proto != PB_IPPROTO_TCP)
		return false;
	uint32_t n = s->ip.total_len - s->ip.hdr_len;
	if (pb_tcp_parse(p->b + s->ip.hdr_len, n, &s->tcp))
		return false;
	s->bytes = n - s->tcp.hdr_len;
	return s->bytes > 0;
}

static void set_psh(struct out_pkt *p, const struct segment *s, bool on)
{
	struct pb_tcp_hdr *h = (void *)(p->b + s->ip.hdr_len);
	uint8_t flags = on ? h->flags | PB_TCP_PSH : h->flags & (uint8_t)~PB_TCP_PSH;
	if (flags == h->flags)
		return;
	h->flags = flags;
	packet_finish(p->b, p->len);
}

static struct sock *sock_of(struct pb_host *h, const struct segment *s)
{
	for (int n = 0; n < PB_HOST_SOCKETS; n++) {
		struct sock *k = &h->socks[n];
		if (k->used && k->phase != SOCK_LISTENING && k->conn && k->local.port == s->tcp.sport &&
		    k->remote.port == s->tcp.dport)
			return k;
	}
	return NULL;
}

static bool psh_has(const struct pushes *p, uint32_t pos)
{
	for (uint32_t i = 0; i < PSH_KEPT && i < p->n; i++)
		if (p->at[i] == pos)
			return true;
	return false;
}

/* How many segments Linux would put into one super-segment (tcp_tso_autosize): what the pacing rate carries in about a
 * millisecond, more when the path is short; at least tcp_min_tso_segs, and at most half of the window. */
static uint32_t super_segments(struct pb_host *h, const struct pb_tcp_info *i)
{
	uint32_t cwnd = i->cwnd_bytes / i->mss, most = TSO_MAX_BYTES / i->mss;
	bool start = i->cwnd_bytes < i->ssthresh_bytes / 2;
	uint64_t ratio = (uint64_t)h->knob[start ? KNOB_tcp_pacing_ss_ratio : KNOB_tcp_pacing_ca_ratio][0];
	uint64_t bytes =
		i->srtt_us ? (uint64_t)i->cwnd_bytes * 1000000 / i->srtt_us * ratio / 100 / 1024 : TSO_MAX_BYTES;
	uint32_t shift = clamp_u32(h->knob[KNOB_tcp_tso_rtt_log][0], 0, 31);
	uint32_t r = shift ? i->min_rtt_us >> shift : 32;
	bytes = min_u64(bytes + (r < 32 ? TSO_MAX_BYTES >> r : 0), TSO_MAX_BYTES);
	uint32_t segs = (uint32_t)(bytes / i->mss), least = clamp_u32(h->knob[KNOB_tcp_min_tso_segs][0], 1, 64);
	segs = segs > least ? segs : least;
	segs = segs < most ? segs : most;
	uint32_t half = cwnd / 2 ? cwnd / 2 : 1;
	return segs < half ? segs : half;
}

/* One segment alone: PSH where the stream has it. What is shorter than a full one ends something in any case. */
static void push_one(struct out_pkt *p, const struct segment *s, const struct pushes *k, uint32_t end, uint32_t mss)
{
	bool own = s->bytes < mss && (s->tcp.flags & PB_TCP_PSH);
	set_psh(p, s, own || psh_has(k, end));
}

/* Whether packet `at` follows a segment, in the same connection. */
static bool follows(const struct outbox *o, uint32_t at, const struct segment *before, struct segment *s)
{
	return at < o->n && segment_of(&o->pkts[at], s) && s->tcp.sport == before->tcp.sport &&
	       s->tcp.dport == before->tcp.dport && s->tcp.seq == before->tcp.seq + before->bytes;
}

/* All but the last of packets at to past - 1 without PSH, the last with it. */
static void push_last(struct outbox *o, uint32_t at, uint32_t past)
{
	struct segment s;
	for (uint32_t i = at; i < past; i++)
		if (segment_of(&o->pkts[i], &s))
			set_psh(&o->pkts[i], &s, i + 1 == past);
}

/* Segments that are sent again, from packet `at` on: a whole super-segment, or one. */
static uint32_t push_again(struct outbox *o, uint32_t at, const struct segment *first, const struct pushes *p,
			   uint32_t mss)
{
	uint32_t pos = first->tcp.seq - p->base, end = pos + first->bytes;
	for (uint32_t i = 0; i < PSH_KEPT && i < p->supers; i++) {
		if (p->first[i] != pos)
			continue;
		struct segment last = *first, next;
		uint32_t past = at + 1, to = end;
		for (; to != p->past[i] && follows(o, past, &last, &next); past++, last = next)
			to += next.bytes;
		if (to == p->past[i]) {
			push_last(o, at, past);
			return past;
		}
	}
	push_one(&o->pkts[at], first, p, end, mss);
	return at + 1;
}

/* The segments from packet `at` on that would have been one super-segment; returns the first after it. */
static uint32_t push_run(struct pb_host *h, uint32_t at)
{
	struct outbox *o = &h->out;
	struct segment first, last, next;
	struct pb_tcp_info info;
	if (!segment_of(&o->pkts[at], &first))
		return at + 1;
	struct sock *k = sock_of(h, &first);
	if (!k || pb_tcp_get_info(h->tcp, k->conn, &info) || !info.mss)
		return at + 1;
	struct pushes *p = &k->psh;
	if (!p->based) { /* the first data that goes out is the first there is */
		p->base = first.tcp.seq;
		p->based = true;
	}
	uint32_t pos = first.tcp.seq - p->base, end = pos + first.bytes, past = at + 1;
	if ((int32_t)(pos - p->sent) < 0)
		return push_again(o, at, &first, p, info.mss);
	last = first;
	uint32_t limit = super_segments(h, &info), n = 1;
	for (; n < limit && last.bytes == first.bytes && !psh_has(p, end) && follows(o, past, &last, &next);
	     past++, n++) {
		last = next;
		end += next.bytes;
	}
	p->sent = end;
	if (n == 1) {
		push_one(&o->pkts[at], &first, p, end, info.mss);
		return past;
	}
	push_last(o, at, past);
	p->first[p->supers % PSH_KEPT] = pos;
	p->past[p->supers++ % PSH_KEPT] = end;
	return past;
}

void outbox_end_step(struct pb_host *h)
{
	struct outbox *o = &h->out;
	if (h->cfg.psh)
		for (uint32_t i = o->step; i < o->n;)
			i = push_run(h, i);
	if (h->cfg.layout != PB_HOST_AS_IS)
		for (uint32_t i = o->step; i < o->n; i++)
			o->pkts[i].len = layout_options(o->pkts[i].b, o->pkts[i].len, h->cfg.layout);
	o->step = o->n;
}

int pb_host_output(struct pb_host *h, void *ip, uint32_t room, uint64_t *time_ns)
{
	struct outbox *o = &h->out;
	if (o->head == o->n)
		return 0;
	const struct out_pkt *p = &o->pkts[o->head];
	if (p->len > room)
		return -ENOBUFS;
	memcpy(ip, p->b, p->len);
	*time_ns = p->time_ns;
	if (++o->head == o->n)
		o->head = o->n = o->step = 0;
	return (int)p->len;
}
