/* Feeds whole packets, right and wrong, to the host that packet scripts run on: through its own parsing (IP, TCP in
 * super-segments that are cut, ICMP errors) into an engine with a listener and a connection. What it sends is read back
 * by the same parsers. The input is a list of packets: two bytes of length and flags, then the bytes of the packet.
 * Most bytes die at a checksum, so it is made right where the flag says so.
 *
 * A libFuzzer target, like fuzz_tcp.c; tools/make_script_corpus.py writes its seeds. */
#include "script/host.h"

#include "wire/icmp.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define HOLDS(cond) ((cond) ? (void)0 : (fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #cond), __builtin_trap()))

/* The flags of a packet: high bits of its first byte. */
enum { FIX_SUMS = 0x80, OUR_NUMBERS = 0x40, TIME_PASSES = 0x20, APP_ACTS = 0x10 };

struct world {
	struct pb_host *h;
	int listener, client, child;
	uint32_t seq, ack; /* of the last segment that came out */
	struct pb_ip peer, us;
	uint16_t sport, dport;
	bool known;
};

static void fix_sums(uint8_t *p, uint32_t len)
{
	struct pb_ip_view v;
	uint32_t hdr = len ? (p[0] & 15u) * 4 : 0;
	if (len >= PB_IP4_HLEN && p[0] >> 4 == 4 && hdr >= PB_IP4_HLEN && hdr <= len) {
		struct pb_ip4_hdr *h = (void *)p;
		h->csum = (be16){{0, 0}};
		h->csum = pb_csum_finish(pb_csum_partial(p, hdr, 0));
	}
	if (pb_ip_parse(p, len, &v))
		return;
	uint8_t *body = p + v.hdr_len;
	uint32_t n = v.total_len - v.hdr_len;
	if (v.proto == PB_IPPROTO_TCP && n >= PB_TCP_HLEN) {
		pb_tcp_set_csum(body, n, &v.src, &v.dst);
	} else if ((v.proto == PB_IPPROTO_ICMP || v.proto == PB_IPPROTO_ICMP6) && n >= PB_ICMP_HLEN) {
		memset(body + 2, 0, 2);
		uint32_t sum = v.version == 6 ? pb_csum_pseudo(&v.src, &v.dst, PB_IPPROTO_ICMP6, n) : 0;
		be16 c = pb_csum_finish(pb_csum_partial(body, n, sum));
		memcpy(body + 2, c.b, 2);
	}
}

/* Ports and sequence numbers of the connection that spoke last, so that more than the first check is reached. Those of
 * the packet are offsets then. */
static void our_numbers(const struct world *w, uint8_t *p, uint32_t len)
{
	struct pb_ip_view v;
	if (!w->known || pb_ip_parse(p, len, &v) || v.proto != PB_IPPROTO_TCP || v.total_len - v.hdr_len < PB_TCP_HLEN)
		return;
	struct pb_tcp_hdr *t = (void *)(p + v.hdr_len);
	t->sport = pb_be16_of(w->dport);
	t->dport = pb_be16_of(w->sport);
	t->seq = pb_be32_of(w->ack + pb_be32_get(t->seq) % 4096);
	t->ack = pb_be32_of(w->seq + pb_be32_get(t->ack) % 4096);
}

/* Everything that went out is a packet of ours, and whole. */
static void read_out(struct world *w)
{
	static uint8_t p[PB_HOST_PACKET_MAX];
	uint64_t time_ns, last_ns = 0;
	for (int n; (n = pb_host_output(w->h, p, sizeof(p), &time_ns)) != 0;) {
		struct pb_ip_view v;
		struct pb_tcp_view t;
		struct pb_tcp_opts o;
		HOLDS(n > 0 && time_ns <= pb_host_now(w->h) && time_ns >= last_ns);
		last_ns = time_ns;
		enum pb_drop why = pb_ip_parse(p, (uint32_t)n, &v);
		/* What answers a packet with a strange source has a strange destination; no more. */
		HOLDS((!why || why == PB_DROP_IP_LAND) && v.total_len == (uint32_t)n && v.proto == PB_IPPROTO_TCP);
		uint32_t tcp_len = v.total_len - v.hdr_len;
		HOLDS(!pb_tcp_parse(p + v.hdr_len, tcp_len, &t) && !pb_tcp_opts_parse(t.opts, t.opts_len, &o));
		HOLDS(pb_tcp_csum_ok(p + v.hdr_len, tcp_len, &v.src, &v.dst));
		w->seq = t.seq + tcp_len - t.hdr_len + !!(t.flags & (PB_TCP_SYN | PB_TCP_FIN));
		w->ack = t.ack;
		w->sport = t.sport;
		w->dport = t.dport;
		w->known = true;
	}
}

static void act(struct world *w, uint32_t how)
{
	static uint8_t buf[8192]; /* zeros, and what was read */
	int s = how & 1 && w->child >= 0 ? w->child : w->client;
	if (w->child < 0)
		w->child = pb_host_accept(w->h, w->listener, NULL);
	if (how & 2)
		(void)pb_host_send(w->h, s, buf, 100 + how, MSG_DONTWAIT);
	else if (how & 4)
		(void)pb_host_shutdown(w->h, s, SHUT_WR);
	else
		HOLDS(pb_host_recv(w->h, s, buf, sizeof(buf), MSG_DONTWAIT) <= (int64_t)sizeof(buf));
	int mask = pb_host_events(w->h, s);
	HOLDS(mask >= 0);
}

static bool set_up(struct world *w, uint8_t how)
{
	int err;
	struct pb_host_config c;
	static const uint8_t peer4[4] = {192, 168, 0, 2}, peer6[16] = {0xfd, 0x3d, 0xfa, 0x7b, 0xd1, 0x7d, [15] = 2};
	pb_host_config_default(&c);
	c.frames = 256;
	c.layout = how & 3 ? (how & 3) - 1 : 0;
	c.psh = how & 4;
	*w = (struct world){.h = pb_host_create(&c, &err), .child = -1};
	if (!w->h)
		return false;
	bool v6 = how & 8;
	struct pb_tcp_endpoint local = {c.addr[v6], 80}, remote = {v6 ? pb_ip_from6(peer6) : pb_ip_from4(peer4), 80};
	w->listener = pb_host_socket(w->h, v6 ? 6 : 4, SOCK_STREAM, PB_IPPROTO_TCP);
	w->client = pb_host_socket(w->h, v6 ? 6 : 4, SOCK_STREAM, PB_IPPROTO_TCP);
	HOLDS(w->listener >= 0 && w->client >= 0);
	HOLDS(!pb_host_bind(w->h, w->listener, &local) && !pb_host_listen(w->h, w->listener, 4));
	if (how & 16)
		(void)pb_host_connect(w->h, w->client, &remote);
	read_out(w);
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct world w;
	const uint8_t *end = data + size;
	if (size < 3 || size > 16384 || !set_up(&w, data[0]))
		return 0;
	for (data++; end - data > 2;) {
		uint8_t flags = data[0] & 0xf0;
		uint32_t len = (data[0] & 15u) << 8 | data[1];
		data += 2;
		len = len < (uint32_t)(end - data) ? len : (uint32_t)(end - data);
		/* A copy of its own and of exact size: a parser's next byte is out of bounds. */
		uint8_t *p = malloc(len ? len : 1);
		if (!p)
			break;
		memcpy(p, data, len);
		data += len;
		if (flags & OUR_NUMBERS)
			our_numbers(&w, p, len);
		if (flags & FIX_SUMS)
			fix_sums(p, len);
		if (flags & TIME_PASSES && pb_host_next_ns(w.h) != UINT64_MAX)
			pb_host_advance(w.h, pb_host_next_ns(w.h));
		HOLDS(pb_host_input(w.h, p, len) < PB_DROP_COUNT);
		free(p);
		read_out(&w);
		if (flags & APP_ACTS)
			act(&w, len);
		read_out(&w);
		HOLDS(!pb_tcp_check(pb_host_engine(w.h)));
	}
	pb_host_destroy(w.h);
	return 0;
}
