/* The order in which options stand in a segment, and how they are padded: kernels differ, and scripts that were written
 * for one of them say which. */
#include "script/impl.h"
#include "wire/ip.h"
#include "wire/tcp.h"

enum { OPT_FASTOPEN = 34, OPT_EXPERIMENT = 254 };

/* Where each option of a segment is; NULL: absent. */
struct found {
	const uint8_t *mss, *wscale, *sack_ok, *ts, *sack, *fastopen;
};

struct writer {
	uint8_t b[64];
	uint32_t n;
};

static void put(struct writer *w, const uint8_t *opt)
{
	if (opt && w->n + opt[1] <= sizeof(w->b)) {
		memcpy(w->b + w->n, opt, opt[1]);
		w->n += opt[1];
	}
}

static void pad(struct writer *w, uint32_t n, uint8_t with)
{
	for (; n && w->n < sizeof(w->b); n--)
		w->b[w->n++] = with;
}

/* False: an option that is not known here, so the segment stays as it is. */
static bool find(const uint8_t *p, uint32_t n, struct found *f)
{
	for (const uint8_t *end = p + n; p < end && *p != PB_TCPOPT_EOL;) {
		if (*p == PB_TCPOPT_NOP) {
			p++;
			continue;
		}
		if (end - p < 2 || p[1] < 2 || p[1] > end - p)
			return false;
		switch (*p) {
		case PB_TCPOPT_MSS:
			f->mss = p;
			break;
		case PB_TCPOPT_WSCALE:
			f->wscale = p;
			break;
		case PB_TCPOPT_SACK_OK:
			f->sack_ok = p;
			break;
		case PB_TCPOPT_SACK:
			f->sack = p;
			break;
		case PB_TCPOPT_TS:
			f->ts = p;
			break;
		case OPT_FASTOPEN:
		case OPT_EXPERIMENT:
			f->fastopen = p;
			break;
		default:
			return false;
		}
		p += p[1];
	}
	return true;
}

/* Linux: MSS, SACK-permitted and timestamps in one block of three words, window scale behind a NOP. */
static void syn_linux(struct writer *w, const struct found *f)
{
	put(w, f->mss);
	if (f->ts && !f->sack_ok)
		pad(w, 2, PB_TCPOPT_NOP);
	if (f->sack_ok && !f->ts)
		pad(w, 2, PB_TCPOPT_NOP);
	put(w, f->sack_ok);
	put(w, f->ts);
	if (f->wscale)
		pad(w, 1, PB_TCPOPT_NOP);
	put(w, f->wscale);
}

/* FreeBSD: MSS, NOP and window scale, SACK-permitted, timestamps; what is left of a word ends the options. */
static void syn_freebsd(struct writer *w, const struct found *f)
{
	put(w, f->mss);
	if (f->wscale)
		pad(w, 1, PB_TCPOPT_NOP);
	put(w, f->wscale);
	put(w, f->sack_ok);
	if (f->ts && !f->sack_ok)
		pad(w, 2, PB_TCPOPT_NOP);
	put(w, f->ts);
	if (f->sack_ok && !f->ts)
		pad(w, 2, PB_TCPOPT_EOL);
}

void packet_finish(uint8_t *ip, uint32_t len)
{
	bool v4 = ip[0] >> 4 == 4;
	struct pb_ip src, dst;
	uint32_t hlen = v4 ? (ip[0] & 15u) * 4 : PB_IP6_HLEN;
	if (v4) {
		struct pb_ip4_hdr *h = (void *)ip;
		src = pb_ip_from4(h->src);
		dst = pb_ip_from4(h->dst);
		h->total_len = pb_be16_of((uint16_t)len);
		h->csum = pb_be16_of(0);
		h->csum = pb_csum_finish(pb_csum_partial(ip, hlen, 0));
	} else {
		struct pb_ip6_hdr *h = (void *)ip;
		src = pb_ip_from6(h->src);
		dst = pb_ip_from6(h->dst);
		h->payload_len = pb_be16_of((uint16_t)(len - hlen));
	}
	pb_tcp_set_csum(ip + hlen, len - hlen, &src, &dst);
}

uint32_t layout_options(uint8_t *ip, uint32_t len, enum pb_host_layout layout)
{
	struct pb_ip_view v;
	struct pb_tcp_view t;
	struct found f = {0};
	struct writer w = {.n = 0};
	if (pb_ip_parse(ip, len, &v) || v.proto != PB_IPPROTO_TCP)
		return len;
	uint8_t *tcp = ip + v.hdr_len;
	if (pb_tcp_parse(tcp, len - v.hdr_len, &t) || !t.opts_len || !find(t.opts, t.opts_len, &f))
		return len;
	if (!(t.flags & PB_TCP_SYN)) {
		if (f.ts)
			pad(&w, 2, PB_TCPOPT_NOP);
		put(&w, f.ts);
		if (f.sack)
			pad(&w, 2, PB_TCPOPT_NOP);
		put(&w, f.sack);
	} else if (layout == PB_HOST_FREEBSD) {
		syn_freebsd(&w, &f);
	} else {
		syn_linux(&w, &f);
	}
	put(&w, f.fastopen);
	if (f.fastopen)
		pad(&w, -w.n & 3u, PB_TCPOPT_NOP);
	uint32_t data = len - v.hdr_len - t.hdr_len;
	if (w.n & 3u || w.n > PB_TCP_OPTS_MAX || (w.n > t.opts_len && len + w.n - t.opts_len > PKT_BYTES - 12))
		return len;
	memmove(tcp + PB_TCP_HLEN + w.n, tcp + t.hdr_len, data);
	memcpy(tcp + PB_TCP_HLEN, w.b, w.n);
	struct pb_tcp_hdr *h = (void *)tcp;
	h->doff = (uint8_t)((h->doff & 15u) | (PB_TCP_HLEN + w.n) / 4 << 4);
	len = v.hdr_len + PB_TCP_HLEN + w.n + data;
	packet_finish(ip, len);
	return len;
}
