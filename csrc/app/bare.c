#include "app/bare.h"

#include "path/loop.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/tcp.h"

#include <errno.h>

#define PATIENCE_NS 2000000000ull
#define OFFSET 256
#define HEADERS (PB_ETH_HLEN + PB_IP4_HLEN + PB_TCP_HLEN)
#define WINDOW 65535
#define BYTES_MAX 1400u

static void reap(struct pb_dev *dev, uint64_t now)
{
	uint64_t addrs[PB_BURST_MAX];
	int n = pb_dev_reap(dev, addrs, PB_BURST_MAX, now);
	for (int i = 0; i < n; i++)
		pb_pool_put(dev->cache, addrs[i], PB_OWN_TX);
}

static int send_segment(struct pb_bare *b, uint8_t flags, uint32_t bytes, uint64_t now)
{
	struct pb_desc d = {.off = OFFSET, .len = (uint16_t)(HEADERS + bytes)};
	reap(b->dev, now);
	if (!pb_pool_get(b->dev->cache, &d.addr, 1, 0, PB_OWN_APP))
		return -ENOBUFS;
	uint8_t *p = pb_pool_data(b->dev->pool, &d);
	p += pb_eth_write(p, b->dst_mac, b->dev->mac, PB_ETH_IP4);
	p += pb_ip4_write(p, &b->src, &b->dst, PB_IPPROTO_TCP, 64, 0, 0, true, 20 + bytes);
	memset(p + PB_TCP_HLEN, 0x5a, bytes);
	pb_tcp_write(p, b->sport, b->dport, b->seq, b->ack, flags, WINDOW, 0);
	pb_tcp_set_csum(p, PB_TCP_HLEN + bytes, &b->src, &b->dst);
	int rc = pb_dev_tx(b->dev, &d, 1, PB_OWN_APP, now);
	if (rc != 1)
		pb_pool_put(b->dev->cache, d.addr, PB_OWN_APP);
	else
		b->seq += bytes + (flags & PB_TCP_SYN ? 1 : 0);
	return rc == 1 ? 0 : rc ? rc : -ENOBUFS;
}

/* The payload of a segment of ours (0: none), its flags in *flags. -1: somebody else's. */
static int64_t take(struct pb_bare *b, const uint8_t *p, uint32_t len, uint8_t *flags)
{
	struct pb_ip_view ip;
	if (len < HEADERS || pb_ip_parse(p + PB_ETH_HLEN, len - PB_ETH_HLEN, &ip) || ip.proto != PB_IPPROTO_TCP)
		return -1;
	struct pb_tcp_view t;
	uint32_t total = ip.total_len - ip.hdr_len;
	if (pb_tcp_parse(p + PB_ETH_HLEN + ip.hdr_len, total, &t) || t.dport != b->sport)
		return -1;
	*flags = t.flags;
	if (t.flags & PB_TCP_SYN)
		b->ack = t.seq + 1;
	else if (t.seq == b->ack)
		b->ack += total - t.hdr_len;
	return total - t.hdr_len;
}

/* Until `bytes` of payload came (0: until a segment with `want` did). */
static int await(struct pb_bare *b, uint8_t want, uint32_t bytes, uint64_t until)
{
	uint32_t got = 0;
	for (;;) {
		struct pb_desc d[PB_BURST_MAX];
		uint64_t now = pb_now_ns();
		int n = pb_dev_rx(b->dev, d, PB_BURST_MAX, now);
		bool done = false, reset = false;
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			uint8_t flags = 0;
			int64_t k = take(b, pb_pool_data(b->dev->pool, &d[i]), d[i].len, &flags);
			reset |= k >= 0 && (flags & PB_TCP_RST);
			done |= k >= 0 && want && (flags & want) == want;
			got += k > 0 ? (uint32_t)k : 0;
			pb_pool_put(b->dev->cache, d[i].addr, PB_OWN_RX);
		}
		if (reset)
			return want ? -ECONNREFUSED : -ECONNRESET;
		if (done || (bytes && got >= bytes))
			return 0;
		if (now > until)
			return -ETIMEDOUT;
	}
}

int pb_bare_connect(struct pb_bare *b)
{
	uint64_t now = pb_now_ns();
	int rc = send_segment(b, PB_TCP_SYN, 0, now);
	if (!rc)
		rc = await(b, PB_TCP_SYN | PB_TCP_ACK, 0, now + PATIENCE_NS);
	return rc ? rc : send_segment(b, PB_TCP_ACK, 0, pb_now_ns());
}

int pb_bare_pingpong(struct pb_bare *b, uint32_t n, uint32_t bytes, uint32_t *samples_ns)
{
	if (!bytes || bytes > BYTES_MAX)
		return -EINVAL;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t t0 = pb_now_ns();
		int rc = send_segment(b, PB_TCP_PSH | PB_TCP_ACK, bytes, t0);
		if (!rc)
			rc = await(b, 0, bytes, t0 + PATIENCE_NS);
		if (rc)
			return rc;
		samples_ns[i] = (uint32_t)(pb_now_ns() - t0);
	}
	return (int)n;
}

void pb_bare_close(struct pb_bare *b)
{
	uint64_t now = pb_now_ns();
	send_segment(b, PB_TCP_RST | PB_TCP_ACK, 0, now);
	reap(b->dev, now);
}
