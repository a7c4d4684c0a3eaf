#include "app/bench.h"
#include "path/loop.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/udp.h"

#define PATIENCE_NS 1000000000ull
#define HEADERS_MAX 128 /* more than Ethernet with tags, IP and UDP, without options */

static void swap_bytes(uint8_t *a, uint8_t *b, uint32_t n)
{
	uint8_t t[16];
	memcpy(t, a, n);
	memcpy(a, b, n);
	memcpy(b, t, n);
}

/* Whether it is UDP; then both ends have changed places. */
static bool turn_round(uint8_t *p, uint32_t len)
{
	struct pb_eth_view e;
	struct pb_ip_view ip;
	if (pb_eth_parse(p, len, &e) || pb_ip_parse(p + e.hdr_len, len - e.hdr_len, &ip) ||
	    ip.proto != PB_IPPROTO_UDP || ip.total_len - ip.hdr_len < PB_UDP_HLEN)
		return false;
	uint8_t *l3 = p + e.hdr_len, *l4 = l3 + ip.hdr_len;
	swap_bytes(p, p + 6, 6);
	if (ip.version == 4)
		swap_bytes(l3 + 12, l3 + 16, 4);
	else
		swap_bytes(l3 + 8, l3 + 24, 16);
	swap_bytes(l4, l4 + 2, 2);
	return true;
}

static void reap(struct pb_dev *dev, uint64_t now)
{
	uint64_t addrs[PB_BURST_MAX];
	int n = pb_dev_reap(dev, addrs, PB_BURST_MAX, now);
	for (int i = 0; i < n; i++)
		pb_pool_put(dev->cache, addrs[i], PB_OWN_TX);
}

/* Sends all n, or gives up on the rest after a second. */
static int send_back(struct pb_dev *dev, struct pb_desc *d, int n, struct pb_reflect *r)
{
	uint64_t until = pb_now_ns() + PATIENCE_NS;
	int done = 0, rc = 0;
	while (done < n) {
		uint64_t now = pb_now_ns();
		rc = pb_dev_tx(dev, d + done, n - done, PB_OWN_APP, now);
		if (rc < 0 || now > until)
			break;
		done += rc;
		reap(dev, now);
	}
	for (int i = 0; i < n; i++) {
		bool last = !(d[i].flags & PB_DESC_MORE);
		r->sent += last && i < done;
		r->refused += last && i >= done;
	}
	for (; done < n; done++)
		pb_pool_put(dev->cache, d[done].addr, PB_OWN_APP);
	return rc < 0 ? rc : 0;
}

/* Whole packets of those that came: which of them go back, at the front of d with owner APP. Returns how many
 * descriptors. */
static int choose(struct pb_dev *dev, bool swap, struct pb_desc *d, int n, struct pb_reflect *r)
{
	int keep = 0;
	for (int i = 0, count; i < n; i += count) {
		uint32_t bytes;
		count = (int)pb_desc_packet(d + i, (uint32_t)(n - i), &bytes);
		if (!count)
			count = n - i; /* its end did not come: devices give whole packets, so this is none */
		bool headers = d[i].len >= HEADERS_MAX || count == 1;
		bool good = !swap || (headers && turn_round(pb_pool_data(dev->pool, &d[i]), bytes));
		r->received++;
		r->refused += !good;
		for (int k = i; k < i + count; k++) {
			if (!good) {
				pb_pool_put(dev->cache, d[k].addr, PB_OWN_RX);
				continue;
			}
			pb_pool_move(dev->cache, d[k].addr, PB_OWN_RX, PB_OWN_APP);
			d[keep] = d[k];
			d[keep++].flags = k + 1 < i + count ? PB_DESC_MORE : 0;
		}
	}
	return keep;
}

int pb_reflect_run(struct pb_dev *dev, bool swap, _Atomic uint32_t *stop, struct pb_reflect *r)
{
	struct pb_desc d[PB_BURST_MAX];
	int rc = 0;
	while (rc >= 0 && !atomic_load_explicit(stop, memory_order_acquire)) {
		int n = pb_dev_rx(dev, d, PB_BURST_MAX, pb_now_ns());
		int keep = n > 0 ? choose(dev, swap, d, n, r) : 0;
		rc = n;
		if (keep)
			rc = send_back(dev, d, keep, r);
		else
			reap(dev, pb_now_ns());
	}
	return rc < 0 ? rc : 0;
}
