/* Runs with both ends of a veth pair in one process: integrity and rate, flood, closing and opening again. */
#define _GNU_SOURCE
#include "xsk_check.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define WINDOW 128 /* frames on their way; veth's own ring has 256 */
#define FRAME_BYTES 64
#define STALL_NS 3000000000u

struct ends {
	struct xsk_args args[2];
	struct pb_pool *pool;
	struct pb_dev *a, *b;
};

struct payload {
	uint8_t dst[6], src[6];
	be16 type;
	uint32_t seq;
	uint32_t pattern[10];
} __attribute__((packed));

static int ends_open(struct ends *e, int argc, char **argv)
{
	struct pb_xsk_report rep;
	int err = 0;
	memset(e, 0, sizeof(*e));
	if (xsk_args_read(&e->args[0], argc, argv, "a") || xsk_args_read(&e->args[1], argc, argv, "b"))
		return -EINVAL;
	/* One pool under two devices. */
	e->pool = pb_pool_create(e->args[0].frames, e->args[0].frame_bytes, PB_WANT_4K, &err);
	if (!e->pool)
		return err;
	e->a = xsk_open_at(&e->args[0], e->pool, &rep, &err);
	if (!e->a)
		return err;
	e->b = xsk_open_at(&e->args[1], e->pool, &rep, &err);
	if (!e->b)
		return err;
	xsk_steer_all(e->a);
	xsk_steer_all(e->b);
	return 0;
}

static void ends_close(struct ends *e)
{
	if (e->a)
		e->a->ops->close(e->a);
	if (e->b)
		e->b->ops->close(e->b);
}

static void make(struct pb_dev *dev, struct pb_desc *d, uint64_t addr, uint32_t seq, const uint8_t *dst)
{
	*d = (struct pb_desc){.addr = addr, .off = 32, .len = FRAME_BYTES};
	struct payload *p = (struct payload *)(void *)pb_pool_data(dev->pool, d);
	memcpy(p->dst, dst, 6);
	memcpy(p->src, dev->mac, 6);
	p->type = pb_be16_of(0x88b5);
	p->seq = seq;
	for (unsigned i = 0; i < PB_ARRAY_LEN(p->pattern); i++)
		p->pattern[i] = (seq + 1) * 0x9e3779b9u + i;
}

static bool good(const struct pb_desc *d, const struct payload *p, const uint8_t *dst)
{
	if (d->len != FRAME_BYTES || p->type.b[0] != 0x88 || p->type.b[1] != 0xb5 || memcmp(p->dst, dst, 6))
		return false;
	for (unsigned i = 0; i < PB_ARRAY_LEN(p->pattern); i++)
		if (p->pattern[i] != (p->seq + 1) * 0x9e3779b9u + i)
			return false;
	return true;
}

static int send_some(struct pb_dev *dev, uint32_t *next, uint32_t count, uint32_t room, const uint8_t *dst)
{
	struct pb_desc d[PB_BURST_MAX];
	uint64_t addrs[PB_BURST_MAX];
	uint32_t n = count - *next < room ? count - *next : room;
	n = pb_pool_get(dev->cache, addrs, n < PB_BURST_MAX ? n : PB_BURST_MAX, 0, PB_OWN_APP);
	for (uint32_t i = 0; i < n; i++)
		make(dev, &d[i], addrs[i], *next + i, dst);
	int sent = n ? pb_dev_tx(dev, d, (int)n, PB_OWN_APP, 0) : 0;
	for (uint32_t i = sent > 0 ? (uint32_t)sent : 0; i < n; i++)
		pb_pool_put(dev->cache, addrs[i], PB_OWN_APP);
	if (sent > 0)
		*next += (uint32_t)sent;
	return sent;
}

/* B's side: everything that came goes back in the same frame. */
static uint32_t reflect(struct pb_dev *b, uint32_t *bad)
{
	struct pb_desc d[PB_BURST_MAX];
	int n = pb_dev_rx(b, d, PB_BURST_MAX, 0);
	for (int i = 0; i < n; i++) {
		struct payload *p = (struct payload *)(void *)pb_pool_data(b->pool, &d[i]);
		*bad += !good(&d[i], p, b->mac);
		memcpy(p->dst, p->src, 6);
		memcpy(p->src, b->mac, 6);
	}
	int done = 0;
	while (done < n) {
		int k = pb_dev_tx(b, d + done, n - done, PB_OWN_RX, 0);
		xsk_reap_all(b);
		if (k < 0)
			break;
		done += k;
	}
	for (int i = done; i < n; i++)
		pb_pool_put(b->cache, d[i].addr, PB_OWN_RX);
	xsk_reap_all(b);
	return n > 0 ? (uint32_t)n : 0;
}

int xsk_echo(int argc, char **argv)
{
	struct ends e;
	if (ends_open(&e, argc, argv))
		return 1;
	uint32_t count = e.args[0].count, sent = 0, got = 0, turned = 0, bad = 0, twice = 0;
	uint8_t *seen = calloc(count, 1);
	uint64_t start = xsk_now_ns(), last = start;
	while (got < count && xsk_now_ns() - last < STALL_NS) {
		if (sent - got < WINDOW && sent < count)
			send_some(e.a, &sent, count, WINDOW - (sent - got), e.b->mac);
		turned += reflect(e.b, &bad);
		struct pb_desc d[PB_BURST_MAX];
		int n = pb_dev_rx(e.a, d, PB_BURST_MAX, 0);
		for (int i = 0; i < n; i++) {
			const struct payload *p = (const struct payload *)(void *)pb_pool_data(e.pool, &d[i]);
			bool ok = good(&d[i], p, e.a->mac) && p->seq < count;
			bad += !ok;
			twice += ok && seen[p->seq]++;
			pb_pool_put(e.a->cache, d[i].addr, PB_OWN_RX);
		}
		if (n > 0) {
			got += (uint32_t)n;
			last = xsk_now_ns();
		}
		xsk_reap_all(e.a);
	}
	double s = (double)(last - start) / 1e9;
	printf("{\"sent\":%u,\"turned\":%u,\"got\":%u,\"bad\":%u,\"twice\":%u,\"seconds\":%.4f,\"pps\":%.0f,\"a\":{",
	       sent, turned, got, bad, twice, s, got / s);
	xsk_print_stats(e.a);
	printf("},\"b\":{");
	xsk_print_stats(e.b);
	ends_close(&e);
	printf("},");
	xsk_print_pool(e.pool);
	printf("}\n");
	pb_pool_unref(e.pool);
	free(seen);
	return got == count && !bad && !twice ? 0 : 1;
}

struct flood {
	struct ends *e;
	uint32_t sent;
	_Atomic int stop;
};

/* As fast as it goes, from another thread. */
static void *flood_tx(void *arg)
{
	struct flood *f = arg;
	struct pb_dev *a = f->e->a;
	uint64_t deadline = xsk_now_ns() + 20000000000u;
	while (f->sent < f->e->args[0].count && xsk_now_ns() < deadline) {
		send_some(a, &f->sent, f->e->args[0].count, PB_BURST_MAX, f->e->b->mac);
		xsk_reap_all(a);
	}
	while (a->tx_pending && xsk_now_ns() < deadline)
		xsk_reap_all(a);
	atomic_store(&f->stop, 1);
	return NULL;
}

static uint32_t drain(struct pb_dev *dev, uint32_t *bad)
{
	struct pb_desc d[PB_BURST_MAX];
	uint32_t total = 0;
	int n;
	while ((n = pb_dev_rx(dev, d, PB_BURST_MAX, 0)) > 0) {
		for (int i = 0; i < n; i++) {
			*bad += !good(&d[i], (const struct payload *)(void *)pb_pool_data(dev->pool, &d[i]), dev->mac);
			pb_pool_put(dev->cache, d[i].addr, PB_OWN_RX);
		}
		total += (uint32_t)n;
	}
	return total;
}

/* First with a receiver that keeps up as well as it can, then (stalled) with one that looks only at the end. */
int xsk_flood(int argc, char **argv)
{
	struct ends e;
	if (ends_open(&e, argc, argv))
		return 1;
	uint32_t bad = 0, got = 0;
	struct flood f = {.e = &e};
	pthread_t t;
	uint64_t start = xsk_now_ns();
	pthread_create(&t, NULL, flood_tx, &f);
	while (!atomic_load(&f.stop))
		got += drain(e.b, &bad);
	pthread_join(t, NULL);
	double s = (double)(xsk_now_ns() - start) / 1e9;
	usleep(50000);
	got += drain(e.b, &bad);
	printf("{\"sent\":%u,\"got\":%u,\"bad\":%u,\"pps\":%.0f,\"a\":{", f.sent, got, bad, got / s);
	xsk_print_stats(e.a);
	printf("},\"b\":{");
	xsk_print_stats(e.b);
	printf("},");
	f.sent = 0;
	atomic_store(&f.stop, 0);
	flood_tx(&f);
	usleep(50000);
	got = drain(e.b, &bad);
	printf("\"stalled\":{\"sent\":%u,\"got\":%u,\"bad\":%u,\"a\":{", f.sent, got, bad);
	xsk_print_stats(e.a);
	printf("},\"b\":{");
	xsk_print_stats(e.b);
	ends_close(&e);
	printf("}},");
	xsk_print_pool(e.pool);
	printf("}\n");
	pb_pool_unref(e.pool);
	return 0;
}

/* Closes B with frames in every state: on the fill ring, in the rx ring, sent and not reaped. */
int xsk_reopen(int argc, char **argv)
{
	struct ends e;
	if (ends_open(&e, argc, argv))
		return 1;
	uint32_t rounds = e.args[0].count, bad = 0, got = 0, retries = 0, lost = 0;
	uint64_t start = xsk_now_ns();
	for (uint32_t r = 0; r < rounds; r++) {
		uint32_t seq = 0, back = 0;
		send_some(e.a, &seq, 32, 32, e.b->mac);
		send_some(e.b, &back, 8, 8, e.a->mac);
		uint64_t deadline = xsk_now_ns() + 1000000000u;
		struct pb_desc d[8];
		int n = 0;
		while (!(n = pb_dev_rx(e.b, d, 8, 0)) && xsk_now_ns() < deadline)
			;
		for (int i = 0; i < n; i++)
			pb_pool_put(e.b->cache, d[i].addr, PB_OWN_RX);
		got += n > 0 ? (uint32_t)n : 0;
		xsk_reap_all(e.a);
		drain(e.a, &bad);
		e.b->ops->close(e.b);
		struct pb_pool_info i;
		pb_pool_info(e.pool, &i);
		/* What A has is all that is not free. */
		struct pb_xsk_info xa;
		pb_dev_xsk_info(e.a, &xa);
		lost += i.own[PB_OWN_FREE] + xa.fill_posted + xa.tx_outstanding != (int64_t)i.frames;
		struct pb_xsk_report rep;
		int err = 0;
		e.b = xsk_open_at(&e.args[1], e.pool, &rep, &err);
		if (!e.b)
			break;
		retries += rep.bind_retries;
		xsk_steer_all(e.b);
	}
	double s = (double)(xsk_now_ns() - start) / 1e9;
	bool ok = e.b != NULL;
	ends_close(&e);
	printf("{\"ok\":%d,\"rounds\":%u,\"got\":%u,\"bad\":%u,\"lost\":%u,\"retries\":%u,\"seconds\":%.3f,", ok,
	       rounds, got, bad, lost, retries, s);
	xsk_print_pool(e.pool);
	printf("}\n");
	pb_pool_unref(e.pool);
	return ok ? 0 : 1;
}
