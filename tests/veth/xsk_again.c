/* Frames that are sent again while the kernel has them (PB_DESC_AGAIN): the same address several times on the TX ring,
 * each time behind another header. One socket sends and stands for an engine, another receives and looks at each byte;
 * every reference comes back once, and at the end the sender closes with some of them under way. */
#define _GNU_SOURCE
#include "xsk_check.h"

#include "base/rng.h"

#include <stdlib.h>
#include <string.h>

#define PAYLOADS 16
#define LEN 1200
#define STALL_NS 5000000000u

struct head {
	uint8_t dst[6], src[6], type[2];
	uint8_t ip[20];
	uint8_t ports[4], udp[4];
	uint32_t id, not_id;
} __attribute__((packed));

struct again {
	struct pb_dev *a, *b;
	struct pb_rng rng;
	uint8_t mac[6];
	uint64_t payload[PAYLOADS];
	uint32_t refs[PAYLOADS], most;
	uint32_t sent, chained, got, bad, extra;
};

static uint8_t byte_at(uint32_t id, uint32_t i)
{
	return (uint8_t)(id * 37 + i * 11 + (i >> 8));
}

static void write_head(struct again *t, const struct pb_desc *d, uint32_t id)
{
	struct head h = {.type = {8}, .ports = {0, 9, 0, 9}, .id = id, .not_id = ~id};
	const uint16_t total = sizeof(h) - 14 + LEN;
	const uint8_t ip[20] = {0x45, 0, total >> 8, total & 0xff, 0, 0, 0x40, 0, 64, 17, 0, 0, 10,
				9,    0, 1,          10,           9, 0, 2};
	memcpy(h.dst, t->mac, 6);
	memcpy(h.src, t->a->mac, 6);
	memcpy(h.ip, ip, sizeof(ip));
	memcpy(pb_pool_data(t->a->pool, d), &h, sizeof(h));
}

/* One packet for a burst: the frame itself, or a header in front of its payload when the device has it. Returns how
 * many descriptors, 0: not now. */
static int make(struct again *t, struct pb_desc *d)
{
	uint32_t k = pb_rng_below(&t->rng, PAYLOADS);
	struct pb_desc whole = {.addr = t->payload[k], .off = 256, .len = sizeof(struct head) + LEN};
	if (t->refs[k] == PB_DESC_REFS_MAX)
		return 0;
	*d = whole;
	bool same =
		t->refs[k] && !pb_rng_below(&t->rng, 4); /* as behind a link that reorders: without another header */
	if (same) {
		d->flags = PB_DESC_AGAIN;
	} else if (t->refs[k]) {
		*d = (struct pb_desc){.off = 192, .len = sizeof(struct head), .flags = PB_DESC_MORE};
		if (!pb_pool_get(t->a->cache, &d->addr, 1, 0, PB_OWN_ENGINE))
			return 0;
		d[1] = (struct pb_desc){.addr = whole.addr,
					.off = (uint16_t)(whole.off + sizeof(struct head)),
					.len = LEN,
					.flags = PB_DESC_AGAIN};
	}
	if (!same)
		write_head(t, d, k);
	t->refs[k]++;
	t->most = t->refs[k] > t->most ? t->refs[k] : t->most;
	return t->refs[k] > 1 && !same ? 2 : 1;
}

static uint32_t payload_of(const struct again *t, uint64_t addr)
{
	uint32_t k = 0;
	while (k < PAYLOADS && t->payload[k] != addr)
		k++;
	return k;
}

/* What the device did not take was not sent: as an engine's backlog would, but here it is given up. */
static void give_up(struct again *t, const struct pb_desc *d, int n)
{
	while (n--) {
		uint32_t k = payload_of(t, d[n].addr);
		if (k < PAYLOADS)
			t->refs[k]--;
		else
			pb_pool_put(t->a->cache, d[n].addr, PB_OWN_ENGINE);
	}
}

static void send_burst(struct again *t)
{
	struct pb_desc d[PB_BURST_MAX];
	int n = 0;
	for (uint32_t i = 1 + pb_rng_below(&t->rng, 24); i; i--)
		n += make(t, &d[n]);
	int took = pb_dev_tx(t->a, d, n, PB_OWN_ENGINE, 0);
	took = took < 0 ? 0 : took;
	for (int i = 0; i < took; i++) {
		t->sent += !(d[i].flags & PB_DESC_MORE);
		t->chained += d[i].flags & PB_DESC_MORE ? 1 : 0;
	}
	give_up(t, d + took, n - took);
}

static void reap(struct again *t)
{
	uint64_t addrs[PB_BURST_MAX];
	int n = pb_dev_reap(t->a, addrs, PB_BURST_MAX, 0);
	for (int i = 0; i < n; i++) {
		uint32_t k = payload_of(t, addrs[i]);
		if (k == PAYLOADS)
			pb_pool_put(t->a->cache, addrs[i], PB_OWN_TX);
		else if (!t->refs[k])
			t->extra++; /* more often than it was sent */
		else if (!--t->refs[k])
			pb_pool_move(t->a->cache, addrs[i], PB_OWN_TX, PB_OWN_ENGINE);
	}
}

static void receive(struct again *t)
{
	struct pb_desc d[PB_BURST_MAX];
	int n = pb_dev_rx(t->b, d, PB_BURST_MAX, xsk_now_ns());
	for (int i = 0; i < n; i++) {
		struct head h;
		const uint8_t *p = pb_pool_data(t->b->pool, &d[i]);
		bool ok = d[i].len == sizeof(h) + LEN && !(d[i].flags & PB_DESC_MORE);
		memcpy(&h, p, sizeof(h));
		ok = ok && h.id == ~h.not_id && h.id < PAYLOADS;
		for (uint32_t j = 0; ok && j < LEN; j++)
			ok = p[sizeof(h) + j] == byte_at(h.id, j);
		t->bad += !ok;
		t->got++;
		pb_pool_put(t->b->cache, d[i].addr, PB_OWN_RX);
	}
}

static bool begin(struct again *t, const struct xsk_args *args, struct pb_pool *pool)
{
	struct pb_xsk_report rep;
	int err;
	t->a = xsk_open_at(&args[0], pool, &rep, &err);
	t->b = t->a ? xsk_open_at(&args[1], pool, &rep, &err) : NULL;
	if (!t->b || !pb_dev_chains_again(t->a))
		return false;
	xsk_steer_all(t->a);
	xsk_steer_all(t->b);
	memcpy(t->mac, t->b->mac, 6);
	for (uint32_t k = 0; k < PAYLOADS; k++) {
		if (!pb_pool_get(t->a->cache, &t->payload[k], 1, 0, PB_OWN_ENGINE))
			return false;
		uint8_t *p = pool->base + t->payload[k] + 256 + sizeof(struct head);
		for (uint32_t i = 0; i < LEN; i++)
			p[i] = byte_at(k, i);
	}
	return true;
}

static void print_result(struct again *t, const char *after)
{
	printf("{\"sent\":%u,\"chained\":%u,\"most\":%u,\"got\":%u,\"bad\":%u,\"extra\":%u,\"a\":{", t->sent,
	       t->chained, t->most, t->got, t->bad, t->extra);
	xsk_print_stats(t->a);
	printf("},\"b\":{");
	xsk_print_stats(t->b);
	printf("}%s", after);
}

int xsk_again(int argc, char **argv)
{
	struct xsk_args args[2];
	struct again t = {.rng = {.state = 7}};
	int err = 0;
	if (xsk_args_read(&args[0], argc, argv, "a") || xsk_args_read(&args[1], argc, argv, "b"))
		return 2;
	struct pb_pool *pool = pb_pool_create(args[0].frames, args[0].frame_bytes, PB_WANT_4K, &err);
	if (!pool || !begin(&t, args, pool))
		return 1;
	uint64_t last = xsk_now_ns();
	for (uint32_t got = 0; t.got < args[0].count && xsk_now_ns() - last < STALL_NS;) {
		if (t.sent - t.got < 128) /* veth's own ring has 256 */
			send_burst(&t);
		receive(&t);
		if (pb_rng_below(&t.rng, 3))
			reap(&t);
		last = t.got != got ? xsk_now_ns() : last;
		got = t.got;
	}
	/* What is still under way. */
	for (uint32_t got = ~0u; got != t.got || t.got < t.sent;) {
		got = t.got;
		receive(&t);
		reap(&t);
		if (xsk_now_ns() - last > STALL_NS)
			break;
	}
	print_result(&t, ",");
	send_burst(&t);
	for (uint32_t k = 0; k < PAYLOADS; k++)
		if (!t.refs[k])
			pb_pool_put(t.a->cache, t.payload[k], PB_OWN_ENGINE);
	t.a->ops->close(t.a);
	t.b->ops->close(t.b);
	xsk_print_pool(pool);
	printf("}\n");
	pb_pool_unref(pool);
	return 0;
}
