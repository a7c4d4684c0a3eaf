/* Several sockets on one queue, each driven and closed by a thread of its own, against one sender that checks what
 * comes back: for TSan, and for the table of owners. */
#define _GNU_SOURCE
#include "xsk_check.h"

#include "dev/netns.h"
#include "wire/toeplitz.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define WINDOW 128 /* frames on their way; veth's own ring has 256 */
#define STALL_NS 5000000000u
#define SOCKETS_MAX 16

/* A UDP datagram: its source port makes the flow, and so the socket. */
struct datagram {
	uint8_t dst[6], src[6], type[2];
	uint8_t ip[20];
	uint8_t ports[4], udp[4];
	uint32_t seq;
	uint32_t pattern[5];
} __attribute__((packed));

struct reflector {
	struct pb_dev *dev;
	_Atomic int *stop;
	uint32_t turned, bad;
	pthread_t thread;
};

static void make(struct pb_dev *dev, struct pb_desc *d, uint64_t addr, uint32_t seq, const uint8_t *dst)
{
	static const uint8_t ip[20] = {
		0x45, 0, 0, sizeof(struct datagram) - 14, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2};
	*d = (struct pb_desc){.addr = addr, .off = 64, .len = sizeof(struct datagram)};
	struct datagram *p = (struct datagram *)(void *)pb_pool_data(dev->pool, d);
	*p = (struct datagram){.type = {8}, .ports = {(uint8_t)(seq >> 8), (uint8_t)seq, 0, 9}, .seq = seq};
	memcpy(p->dst, dst, 6);
	memcpy(p->src, dev->mac, 6);
	memcpy(p->ip, ip, sizeof(ip));
	for (unsigned i = 0; i < PB_ARRAY_LEN(p->pattern); i++)
		p->pattern[i] = (seq + 1) * 0x9e3779b9u + i;
}

static bool good(const struct pb_desc *d, const struct datagram *p, const uint8_t *dst)
{
	bool ok = d->len == sizeof(*p) && !memcmp(p->dst, dst, 6) && p->ports[1] == (uint8_t)p->seq;
	for (unsigned i = 0; ok && i < PB_ARRAY_LEN(p->pattern); i++)
		ok = p->pattern[i] == (p->seq + 1) * 0x9e3779b9u + i;
	return ok;
}

/* Everything that came goes back in the same frame. At the end the thread closes its device, whatever is under way. */
static void *reflect(void *arg)
{
	struct reflector *r = arg;
	struct pb_dev *dev = r->dev;
	while (!atomic_load(r->stop)) {
		struct pb_desc d[PB_BURST_MAX];
		int n = pb_dev_rx(dev, d, PB_BURST_MAX, xsk_now_ns()), done = 0;
		for (int i = 0; i < n; i++) {
			struct datagram *p = (struct datagram *)(void *)pb_pool_data(dev->pool, &d[i]);
			r->bad += !good(&d[i], p, dev->mac);
			memcpy(p->dst, p->src, 6);
			memcpy(p->src, dev->mac, 6);
		}
		while (done < n && !atomic_load(r->stop)) {
			int k = pb_dev_tx(dev, d + done, n - done, PB_OWN_RX, 0);
			if (k < 0)
				break;
			done += k;
			xsk_reap_all(dev);
		}
		for (int i = done; i < n; i++)
			pb_pool_put(dev->cache, d[i].addr, PB_OWN_RX);
		r->turned += (uint32_t)done;
		xsk_reap_all(dev);
	}
	dev->ops->close(dev);
	return NULL;
}

static uint32_t send_some(struct pb_dev *dev, uint32_t next, uint32_t n, const uint8_t *dst)
{
	struct pb_desc d[PB_BURST_MAX];
	uint64_t addrs[PB_BURST_MAX];
	n = pb_pool_get(dev->cache, addrs, n < PB_BURST_MAX ? n : PB_BURST_MAX, 0, PB_OWN_APP);
	for (uint32_t i = 0; i < n; i++)
		make(dev, &d[i], addrs[i], next + i, dst);
	int sent = n ? pb_dev_tx(dev, d, (int)n, PB_OWN_APP, 0) : 0;
	for (uint32_t i = sent > 0 ? (uint32_t)sent : 0; i < n; i++)
		pb_pool_put(dev->cache, addrs[i], PB_OWN_APP);
	xsk_reap_all(dev);
	return sent > 0 ? (uint32_t)sent : 0;
}

/* The other sockets of the queue, and the hash that spreads over all of them. 0 or -errno. */
static int join_all(struct pb_dev *first, int netns, struct reflector *r, uint32_t sockets, _Atomic int *stop)
{
	uint8_t table[PB_RSS_TABLE];
	int err = 0, before = pb_netns_enter(netns);
	for (uint32_t i = 0; i < PB_RSS_TABLE; i++)
		table[i] = (uint8_t)(i % sockets);
	for (uint32_t i = 0; i < sockets && !err; i++) {
		struct pb_xsk_report rep;
		r[i].dev = i ? pb_dev_xsk_join(first, &rep, &err) : first;
		r[i].stop = stop;
	}
	close(pb_netns_enter(before));
	close(before);
	struct pb_xsk_prog *p = pb_dev_xsk_prog(first);
	if (!err)
		err = pb_xsk_rss_on(p, first->queue, pb_toeplitz_key_default, table);
	pb_xsk_prog_unref(p);
	return err;
}

struct result {
	uint32_t sent, got, bad, twice;
};

static void exchange(struct pb_dev *a, const uint8_t *dst, uint32_t count, uint8_t *seen, struct result *t)
{
	uint64_t last = xsk_now_ns();
	while (t->got < count && xsk_now_ns() - last < STALL_NS) {
		if (t->sent - t->got < WINDOW && t->sent < count) {
			uint32_t room = WINDOW - (t->sent - t->got), left = count - t->sent;
			t->sent += send_some(a, t->sent, left < room ? left : room, dst);
		}
		struct pb_desc d[PB_BURST_MAX];
		int n = pb_dev_rx(a, d, PB_BURST_MAX, xsk_now_ns());
		for (int i = 0; i < n; i++) {
			const struct datagram *p = (const struct datagram *)(void *)pb_pool_data(a->pool, &d[i]);
			bool ok = good(&d[i], p, a->mac) && p->seq < count;
			t->bad += !ok;
			t->twice += ok && seen[p->seq]++;
			pb_pool_put(a->cache, d[i].addr, PB_OWN_RX);
		}
		if (n > 0) {
			t->got += (uint32_t)n;
			last = xsk_now_ns();
		}
	}
}

int xsk_threads(int argc, char **argv)
{
	struct xsk_args args[2];
	struct pb_xsk_report rep;
	struct reflector r[SOCKETS_MAX] = {{0}};
	struct result t = {0};
	_Atomic int stop = 0;
	int err = 0;
	if (xsk_args_read(&args[0], argc, argv, "a") || xsk_args_read(&args[1], argc, argv, "b"))
		return 2;
	uint32_t count = args[0].count, sockets = args[1].cfg.sockets;
	if (!sockets || sockets > SOCKETS_MAX)
		return 2;
	struct pb_pool *pool = pb_pool_create(args[0].frames, args[0].frame_bytes, PB_WANT_4K, &err);
	struct pb_dev *a = pool ? xsk_open_at(&args[0], pool, &rep, &err) : NULL;
	struct pb_dev *b = a ? xsk_open_at(&args[1], pool, &rep, &err) : NULL;
	if (!b || join_all(b, args[1].netns, r, sockets, &stop))
		return 1;
	uint8_t mac[6], *seen = calloc(count, 1);
	memcpy(mac, b->mac, 6);
	xsk_steer_all(a);
	xsk_steer_all(b);
	for (uint32_t i = 0; i < sockets; i++)
		pthread_create(&r[i].thread, NULL, reflect, &r[i]);
	exchange(a, mac, count, seen, &t);
	/* All of them close while more is coming. */
	for (uint32_t i = 0; i < 40; i++) {
		send_some(a, count + i * 16, 16, mac);
		if (i == 20)
			atomic_store(&stop, 1);
	}
	printf("{\"sent\":%u,\"got\":%u,\"bad\":%u,\"twice\":%u,\"turned\":[", t.sent, t.got, t.bad, t.twice);
	uint32_t bad = 0;
	for (uint32_t i = 0; i < sockets; i++) {
		pthread_join(r[i].thread, NULL);
		printf("%s%u", i ? "," : "", r[i].turned);
		bad += r[i].bad;
	}
	printf("],\"bad_there\":%u,\"a\":{", bad);
	xsk_print_stats(a);
	a->ops->close(a);
	printf("},");
	xsk_print_pool(pool);
	printf("}\n");
	pb_pool_unref(pool);
	free(seen);
	return 0;
}
