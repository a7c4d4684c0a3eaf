/* Frames that are sent again while the driver has them, on a port that brings back what it sends (net_ring): the test
 * stands for the engine, and what is not read is what the driver has. Loaded by test_dpdk_again.py; the device is its
 * until it closes it. */
#include "base/rng.h"
#include "dev/dev.h"

#define PAYLOADS 24
#define HEADER 32
#define LEN 1100

struct again {
	uint32_t sent, chained, most, received, wrong, extra, held_at_close, violations;
};

struct engine {
	struct pb_dev *dev;
	struct pb_rng rng;
	uint64_t payload[PAYLOADS];
	uint32_t refs[PAYLOADS];
	struct again *r;
};

static uint8_t byte_at(uint32_t id, uint32_t i)
{
	return (uint8_t)(id * 37 + i * 11 + (i >> 8));
}

static uint32_t payload_of(const struct engine *e, uint64_t addr)
{
	uint32_t k = 0;
	while (k < PAYLOADS && e->payload[k] != addr)
		k++;
	return k;
}

static int make(struct engine *e, struct pb_desc *d)
{
	uint32_t k = pb_rng_below(&e->rng, PAYLOADS);
	if (e->refs[k] == PB_DESC_REFS_MAX)
		return 0;
	struct pb_desc whole = {.addr = e->payload[k], .off = 256, .len = HEADER + LEN};
	*d = whole;
	bool same =
		e->refs[k] && !pb_rng_below(&e->rng, 4); /* as behind a link that reorders: without another header */
	if (same) {
		d->flags = PB_DESC_AGAIN;
	} else if (e->refs[k]) {
		*d = (struct pb_desc){.off = 128, .len = HEADER, .flags = PB_DESC_MORE};
		if (!pb_pool_get(e->dev->cache, &d->addr, 1, 0, PB_OWN_ENGINE))
			return 0;
		d[1] = (struct pb_desc){.addr = whole.addr, .off = 256 + HEADER, .len = LEN, .flags = PB_DESC_AGAIN};
	}
	uint32_t both[2] = {k, ~k};
	uint8_t *p = pb_pool_data(e->dev->pool, d);
	if (!same) {
		memset(p, 0, HEADER);
		memcpy(p + 14, both, sizeof(both));
	}
	e->refs[k]++;
	e->r->most = e->refs[k] > e->r->most ? e->refs[k] : e->r->most;
	return e->refs[k] > 1 && !same ? 2 : 1;
}

static void send_burst(struct engine *e, uint32_t most)
{
	struct pb_desc d[2 * PB_BURST_MAX];
	int n = 0;
	for (uint32_t i = 1 + pb_rng_below(&e->rng, most); i && n < 2 * PB_BURST_MAX - 1; i--)
		n += make(e, &d[n]);
	int took = pb_dev_tx(e->dev, d, n, PB_OWN_ENGINE, 0);
	took = took < 0 ? 0 : took;
	e->r->wrong += took && (d[took - 1].flags & PB_DESC_MORE) ? 1 : 0; /* never half of a packet */
	for (int i = 0; i < took; i++) {
		e->r->sent += !(d[i].flags & PB_DESC_MORE);
		e->r->chained += d[i].flags & PB_DESC_MORE ? 1 : 0;
	}
	while (n-- > took) {
		uint32_t k = payload_of(e, d[n].addr);
		if (k < PAYLOADS)
			e->refs[k]--;
		else
			pb_pool_put(e->dev->cache, d[n].addr, PB_OWN_ENGINE);
	}
}

static void reap(struct engine *e)
{
	uint64_t addrs[7];
	for (int n; (n = pb_dev_reap(e->dev, addrs, 7, 0)) > 0;)
		for (int i = 0; i < n; i++) {
			uint32_t k = payload_of(e, addrs[i]);
			if (k == PAYLOADS)
				pb_pool_put(e->dev->cache, addrs[i], PB_OWN_TX);
			else if (!e->refs[k])
				e->r->extra++;
			else if (!--e->refs[k])
				pb_pool_move(e->dev->cache, addrs[i], PB_OWN_TX, PB_OWN_ENGINE);
		}
}

static void receive(struct engine *e, int n)
{
	struct pb_desc d[PB_BURST_MAX];
	n = pb_dev_rx(e->dev, d, n, 0);
	for (int i = 0; i < n; i++) {
		const uint8_t *p = pb_pool_data(e->dev->pool, &d[i]);
		uint32_t both[2];
		memcpy(both, p + 14, sizeof(both));
		bool ok = d[i].len == HEADER + LEN && !(d[i].flags & PB_DESC_MORE) && both[0] == ~both[1] &&
			  both[0] < PAYLOADS;
		for (uint32_t at = 0; ok && at < LEN; at++)
			ok = p[HEADER + at] == byte_at(both[0], at);
		e->r->wrong += !ok;
		e->r->received++;
		pb_pool_put(e->dev->cache, d[i].addr, PB_OWN_RX);
	}
}

static bool begin(struct engine *e)
{
	for (uint32_t k = 0; k < PAYLOADS; k++) {
		if (!pb_pool_get(e->dev->cache, &e->payload[k], 1, 0, PB_OWN_ENGINE))
			return false;
		for (uint32_t i = 0; i < LEN; i++)
			e->dev->pool->base[e->payload[k] + 256 + HEADER + i] = byte_at(k, i);
	}
	return pb_dev_chains_again(e->dev);
}

/* An engine that lost count: it sends a frame as its own that the driver has, once as it was sent first and once more
 * by reference. Returns how often it came back, and how many packets were refused and came; the device is closed. */
int again_lost_count(struct pb_dev *dev, uint32_t *refused, uint32_t *came, uint32_t *violations)
{
	struct pb_desc d = {.off = 256, .len = HEADER + LEN}, ref, in[4];
	struct pb_pool_cache *c = dev->cache;
	struct pb_pool_info info;
	uint64_t addr;
	int back = 0;
	*came = 0;
	if (!pb_pool_get(c, &d.addr, 1, 0, PB_OWN_ENGINE))
		return -1;
	ref = d;
	ref.flags = PB_DESC_AGAIN;
	if (pb_dev_tx(dev, &d, 1, PB_OWN_ENGINE, 0) != 1 || pb_dev_tx(dev, &ref, 1, PB_OWN_ENGINE, 0) != 1)
		return -2;
	pb_pool_move(c, d.addr, PB_OWN_TX, PB_OWN_ENGINE); /* the fault */
	if (pb_dev_tx(dev, &d, 1, PB_OWN_ENGINE, 0) != 1)
		return -3;
	*refused = (uint32_t)dev->stats.drops.n[PB_DROP_TX_BAD];
	if (pb_dev_reap(dev, &addr, 1, 0))
		return -4; /* nothing was read: the driver has both */
	for (int n; (n = pb_dev_rx(dev, in, 4, 0)) > 0;)
		for (int i = 0; i < n; i++, (*came)++)
			pb_pool_put(c, in[i].addr, PB_OWN_RX);
	while (pb_dev_reap(dev, &addr, 1, 0) == 1)
		back += addr == d.addr;
	pb_pool_put(c, d.addr, PB_OWN_TX);
	pb_pool_info(dev->pool, &info);
	*violations = (uint32_t)info.violations;
	dev->ops->close(dev);
	return back;
}

/* settle: all is read and reaped before the end; else the device closes with what it has. */
int again_run(struct pb_dev *dev, uint64_t seed, uint32_t rounds, uint32_t burst, int settle, struct again *r)
{
	struct engine e = {.dev = dev, .rng = {.state = seed}, .r = r};
	struct pb_pool_info info;
	*r = (struct again){0};
	if (!begin(&e))
		return -1;
	for (uint32_t i = 0; i < rounds; i++) {
		send_burst(&e, burst);
		if (!pb_rng_below(&e.rng, 3))
			receive(&e, (int)(1 + pb_rng_below(&e.rng, PB_BURST_MAX)));
		if (pb_rng_below(&e.rng, 2))
			reap(&e);
	}
	for (uint32_t i = 0; settle && i < 1000; i++) {
		receive(&e, PB_BURST_MAX);
		reap(&e);
	}
	for (uint32_t k = 0; k < PAYLOADS; k++) {
		r->held_at_close += e.refs[k];
		if (!e.refs[k])
			pb_pool_put(dev->cache, e.payload[k], PB_OWN_ENGINE);
	}
	pb_pool_info(dev->pool, &info);
	r->violations = (uint32_t)info.violations;
	dev->ops->close(dev);
	return 0;
}
