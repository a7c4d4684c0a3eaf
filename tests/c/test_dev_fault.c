#include "dev/fault.h"
#include "dev/mem.h"
#include "harness.h"

#include <errno.h>

/* a is behind the impaired link, b is plain; each has its own pool. */
struct pair {
	struct pb_pool *pa, *pb;
	struct pb_dev *a, *b;
};

static struct pb_dev *open_mem(struct pb_pool *p, const struct pb_dev_mem_config *cfg)
{
	int err;
	struct pb_dev *d = pb_dev_mem_open("f", p, cfg, &err);
	CHECK(d != NULL);
	return d;
}

static struct pair make(const struct pb_link_config *rx, const struct pb_link_config *tx,
			const struct pb_dev_mem_config *cfg)
{
	int err;
	struct pair p;
	p.pa = pb_pool_create(512, 2048, PB_WANT_4K, &err);
	p.pb = pb_pool_create(512, 2048, PB_WANT_4K, &err);
	struct pb_dev *inner = open_mem(p.pa, cfg);
	p.b = open_mem(p.pb, NULL);
	p.a = pb_dev_fault_open(inner, rx, tx, &err);
	CHECK(p.a != NULL);
	CHECK_EQ((uint64_t)err, 0);
	return p;
}

static void finish(struct pair *p)
{
	p->a->ops->close(p->a);
	p->b->ops->close(p->b);
	CHECK_POOL(p->pa);
	CHECK_POOL(p->pb);
}

static uint8_t byte_at(uint32_t id, uint32_t i)
{
	return (uint8_t)(id * 31 + i * 7);
}

static struct pb_desc frame(struct pb_dev *dev, uint32_t id, uint16_t len)
{
	struct pb_desc d = {.len = len, .off = 300};
	CHECK_EQ(pb_pool_get(dev->cache, &d.addr, 1, 0, PB_OWN_ENGINE), 1);
	uint8_t *p = pb_pool_data(dev->pool, &d);
	memcpy(p, &id, 4);
	for (uint32_t i = 4; i < len; i++)
		p[i] = byte_at(id, i);
	return d;
}

static uint32_t id_of(struct pb_dev *dev, const struct pb_desc *d)
{
	uint32_t id;
	memcpy(&id, pb_pool_data(dev->pool, d), 4);
	return id;
}

/* Bits that differ from what frame(id) wrote, leaving out the id. */
static uint32_t wrong_bits(struct pb_dev *dev, const struct pb_desc *d, uint32_t id)
{
	const uint8_t *p = pb_pool_data(dev->pool, d);
	uint32_t n = 0;
	for (uint32_t i = 4; i < d->len; i++)
		n += (uint32_t)__builtin_popcount(p[i] ^ byte_at(id, i));
	return n;
}

static uint32_t send(struct pb_dev *dev, uint32_t id, uint16_t len, uint64_t now)
{
	struct pb_desc d = frame(dev, id, len);
	int n = pb_dev_tx(dev, &d, 1, PB_OWN_ENGINE, now);
	if (n != 1)
		pb_pool_put(dev->cache, d.addr, PB_OWN_ENGINE);
	return n == 1;
}

static uint32_t reap(struct pb_dev *dev, uint64_t now)
{
	uint64_t addrs[8];
	uint32_t sum = 0;
	for (int n; (n = pb_dev_reap(dev, addrs, 8, now)) > 0; sum += (uint32_t)n)
		for (int i = 0; i < n; i++)
			pb_pool_put(dev->cache, addrs[i], PB_OWN_TX);
	return sum;
}

/* Receives all there is at `now`; ids[] says how often each came. Returns how many. */
static uint32_t receive(struct pb_dev *dev, uint64_t now, uint32_t *ids)
{
	struct pb_desc d[8];
	uint32_t sum = 0;
	for (int n; (n = pb_dev_rx(dev, d, 8, now)) > 0; sum += (uint32_t)n)
		for (int i = 0; i < n; i++) {
			if (ids)
				ids[id_of(dev, &d[i])]++;
			pb_pool_put(dev->cache, d[i].addr, PB_OWN_RX);
		}
	return sum;
}

TEST(a_perfect_link_changes_nothing)
{
	const struct pb_link_config perfect = {.capacity = 64};
	for (int how = 0; how < 2; how++) {
		struct pair p = make(how ? &perfect : NULL, how ? &perfect : NULL, NULL);
		uint32_t ids[20] = {0};
		CHECK_EQ(p.a->mtu, 1500);
		CHECK(p.a->pool == p.pa && p.a->mac[5] == 0);
		for (uint32_t i = 0; i < 10; i++) {
			CHECK_EQ(send(p.a, i, 100, 5), 1);
			CHECK_EQ(send(p.b, 10 + i, 100, 5), 1);
		}
		CHECK_EQ(receive(p.b, 5, ids), 10);
		CHECK_EQ(receive(p.a, 5, ids), 10);
		for (int i = 0; i < 20; i++)
			CHECK_EQ(ids[i], 1);
		CHECK_EQ(reap(p.a, 5), 10);
		CHECK_EQ(reap(p.b, 5), 10);
		finish(&p);
	}
}

TEST(refuses_bad_config)
{
	int err = 0;
	struct pb_pool *pool = pb_pool_create(64, 2048, PB_WANT_4K, &err);
	struct pb_dev *inner = open_mem(pool, NULL);
	const struct pb_link_config bad = {.capacity = 3}, good = {.capacity = 4};
	CHECK(!pb_dev_fault_open(inner, &bad, &good, &err));
	CHECK_EQ((uint64_t)err, (uint64_t)-EINVAL);
	CHECK(!pb_dev_fault_open(inner, &good, &bad, &err));
	CHECK_EQ((uint64_t)err, (uint64_t)-EINVAL);
	inner->ops->close(inner); /* still ours */
	CHECK_POOL(pool);
}

TEST(delay_each_way)
{
	struct pair p = make(&(struct pb_link_config){.capacity = 64, .delay_ns = 300},
			     &(struct pb_link_config){.capacity = 64, .delay_ns = 1000}, NULL);
	struct pb_desc d;
	CHECK_EQ(pb_dev_next_ns(p.a), UINT64_MAX);
	send(p.a, 1, 100, 10);
	CHECK_EQ(pb_dev_next_ns(p.a), 1010);
	CHECK_EQ(receive(p.b, 5000, NULL), 0); /* the link acts when its owner does */
	CHECK_EQ(reap(p.a, 1009), 0);
	CHECK_EQ(receive(p.b, 1009, NULL), 0);
	CHECK_EQ(reap(p.a, 1010), 0);
	CHECK_EQ(receive(p.b, 1010, NULL), 1);
	CHECK_EQ(reap(p.a, 1010), 1);
	send(p.b, 2, 100, 2000);
	CHECK_EQ(receive(p.a, 2000, NULL), 0);
	CHECK_EQ(pb_dev_next_ns(p.a), 2300);
	CHECK_EQ(pb_dev_rx(p.a, &d, 1, 2299), 0);
	CHECK_EQ(pb_dev_rx(p.a, &d, 1, 2310), 1);
	CHECK_EQ(d.ts_ns, 2310);
	CHECK_EQ(id_of(p.a, &d), 2);
	pb_pool_put(p.a->cache, d.addr, PB_OWN_RX);
	finish(&p);
}

TEST(loss)
{
	const struct pb_link_config lossy = {.capacity = 64, .loss_ppm = 500000, .seed = harness.seed};
	struct pair p = make(&lossy, &lossy, NULL);
	uint32_t ids[4000] = {0}, there = 0, back = 0, done = 0;
	for (uint32_t i = 0; i < 2000; i++) {
		CHECK_EQ(send(p.a, i, 80, i), 1);
		CHECK_EQ(send(p.b, 2000 + i, 80, i), 1);
		there += receive(p.b, i, ids);
		back += receive(p.a, i, ids);
		done += reap(p.a, i); /* lost ones are completed too */
		reap(p.b, i);
	}
	CHECK(there > 860 && there < 1140 && back > 860 && back < 1140);
	for (int i = 0; i < 4000; i++)
		CHECK(ids[i] <= 1);
	CHECK_EQ(done, 2000);
	p.a->ops->stats(p.a);
	CHECK_EQ(p.a->stats.drops.n[PB_DROP_LINK_LOSS], 4000 - there - back);
	CHECK_EQ(p.a->stats.tx_pkts, there);
	CHECK_EQ(p.a->stats.rx_pkts, 2000);
	finish(&p);
}

TEST(duplication)
{
	const struct pb_link_config all = {.capacity = 64, .dup_ppm = 1000000};
	struct pair p = make(&all, &all, NULL);
	uint32_t ids[40] = {0};
	for (uint32_t i = 0; i < 20; i++) {
		send(p.a, i, 200, 0);
		send(p.b, 20 + i, 200, 0);
	}
	CHECK_EQ(receive(p.b, 0, ids), 40);
	CHECK_EQ(receive(p.a, 0, ids), 40);
	for (int i = 0; i < 40; i++)
		CHECK_EQ(ids[i], 2);
	/* Each frame is completed once: the copies are not the caller's. */
	CHECK_EQ(reap(p.a, 0), 20);
	CHECK_EQ(reap(p.b, 0), 20);
	finish(&p);
}

TEST(corruption_on_tx_spares_the_sender)
{
	struct pair p = make(NULL, &(struct pb_link_config){.capacity = 64, .corrupt_ppm = 1000000}, NULL);
	for (uint32_t i = 0; i < 50; i++) {
		struct pb_desc d = frame(p.a, i, 200), rx;
		uint64_t addr;
		CHECK_EQ(pb_dev_tx(p.a, &d, 1, PB_OWN_ENGINE, 0), 1);
		CHECK_EQ(wrong_bits(p.a, &d, i), 0);
		CHECK_EQ(id_of(p.a, &d), i);
		CHECK_EQ(pb_dev_rx(p.b, &rx, 1, 0), 1);
		CHECK_EQ(wrong_bits(p.b, &rx, i) + (uint32_t)__builtin_popcount(id_of(p.b, &rx) ^ i), 1);
		pb_pool_put(p.b->cache, rx.addr, PB_OWN_RX);
		/* Completed, unacknowledged, sent again out of the same frame. */
		CHECK_EQ(pb_dev_reap(p.a, &addr, 1, 0), 1);
		CHECK_EQ(addr, d.addr);
		pb_pool_move(p.a->cache, addr, PB_OWN_TX, PB_OWN_ENGINE);
		CHECK_EQ(pb_dev_tx(p.a, &d, 1, PB_OWN_ENGINE, 0), 1);
		CHECK_EQ(receive(p.b, 0, NULL), 1);
		CHECK_EQ(reap(p.a, 0), 1);
	}
	finish(&p);
}

/* A device that gives one frame with PB_DESC_CSUM_GOOD and a hardware stamp, in as many pieces as asked for. */
struct source {
	struct pb_dev dev;
	uint32_t pieces, given;
	bool closed;
};

static int source_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct source *s = (struct source *)dev;
	(void)now_ns;
	/* One descriptor a burst: a chain is split over bursts. */
	if (s->given == s->pieces || n < 1)
		return 0;
	*d = (struct pb_desc){.len = 100, .flags = PB_DESC_CSUM_GOOD, .ts_ns = 42, .ts_source = PB_TS_HW};
	CHECK_EQ(pb_pool_get(dev->cache, &d->addr, 1, 0, PB_OWN_RX), 1);
	memset(pb_pool_data(dev->pool, d), 0, 100);
	if (++s->given < s->pieces)
		d->flags |= PB_DESC_MORE;
	return 1;
}

static int source_none(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	(void)dev, (void)addrs, (void)n, (void)now_ns;
	return 0;
}

static int source_refuses(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	(void)dev, (void)d, (void)n, (void)from, (void)now_ns;
	return 0;
}

static void source_close(struct pb_dev *dev)
{
	((struct source *)dev)->closed = true;
	pb_pool_cache_destroy(dev->cache);
}

static const struct pb_dev_ops source_ops = {.abi = PB_DEV_ABI,
					     .name = "source",
					     .rx = source_rx,
					     .reap = source_none,
					     .tx = source_refuses,
					     .close = source_close};

static void make_source(struct source *s, uint32_t pieces)
{
	int err;
	*s = (struct source){.pieces = pieces};
	s->dev.ops = &source_ops;
	s->dev.pool = pb_pool_create(256, 2048, PB_WANT_4K, &err);
	s->dev.cache = pb_pool_cache_create(s->dev.pool, &err);
}

TEST(corruption_on_rx_takes_the_checksum_flag)
{
	for (uint32_t pieces = 1; pieces <= 3; pieces++)
		for (uint32_t corrupt = 0; corrupt <= 1000000; corrupt += 1000000) {
			int err, n;
			struct source s;
			struct pb_desc d[4];
			uint32_t bits = 0;
			make_source(&s, pieces);
			struct pb_dev *f = pb_dev_fault_open(
				&s.dev,
				&(struct pb_link_config){.capacity = 8, .corrupt_ppm = corrupt, .seed = harness.seed},
				NULL, &err);
			n = pb_dev_rx(f, d, 4, 1000);
			CHECK_EQ((uint64_t)n, pieces); /* the chain is put together */
			for (int i = 0; i < n; i++) {
				CHECK_EQ(!!(d[i].flags & PB_DESC_CSUM_GOOD), corrupt == 0);
				CHECK_EQ(!!(d[i].flags & PB_DESC_MORE), i + 1 < n);
				CHECK(d[i].ts_ns == 42 && d[i].ts_source == PB_TS_HW);
				for (int k = 0; k < 100; k++)
					bits += (uint32_t)__builtin_popcount(pb_pool_data(f->pool, &d[i])[k]);
				pb_pool_put(f->cache, d[i].addr, PB_OWN_RX);
			}
			CHECK_EQ(bits, corrupt ? 1 : 0);
			f->ops->close(f);
			CHECK(s.closed);
			CHECK_POOL(s.dev.pool);
		}
}

TEST(what_the_inner_device_refuses_waits)
{
	struct source s;
	int err;
	make_source(&s, 0);
	struct pb_dev *f =
		pb_dev_fault_open(&s.dev, NULL, &(struct pb_link_config){.capacity = 64, .delay_ns = 10}, &err);
	uint32_t took = 0;
	for (uint32_t i = 0; i < 200; i++)
		took += send(f, i, 60, 1000 + i * 20);
	CHECK_EQ(took, 200);
	/* 64 lie before the device, 64 in the link; the rest overflowed and were completed. */
	CHECK_EQ(reap(f, 10000), 200 - 64 - 64);
	CHECK_EQ(pb_dev_next_ns(f) > 10000, false);
	f->ops->close(f);
	CHECK_POOL(s.dev.pool);
}

TEST(without_frames_for_copies)
{
	const struct pb_link_config cfg = {.capacity = 8, .dup_ppm = 1000000, .corrupt_ppm = 1000000};
	struct pair p = make(NULL, &cfg, NULL);
	uint64_t all[600];
	struct pb_desc d = frame(p.a, 1, 100);
	uint32_t n = 0, k;
	while ((k = pb_pool_get(p.a->cache, all + n, 64, 0, PB_OWN_APP)))
		n += k;
	CHECK_EQ(pb_dev_tx(p.a, &d, 1, PB_OWN_ENGINE, 0), 1);
	CHECK_EQ(receive(p.b, 0, NULL), 0);
	CHECK_EQ(reap(p.a, 0), 1);
	p.a->ops->stats(p.a);
	CHECK_EQ(p.a->stats.drops.n[PB_DROP_NO_FRAME], 2);
	while (n)
		pb_pool_put(p.a->cache, all[--n], PB_OWN_APP);
	finish(&p);
}

TEST(a_bad_descriptor_is_refused_by_the_inner_device)
{
	struct pair p = make(NULL, &(struct pb_link_config){.capacity = 8, .dup_ppm = 1000000}, NULL);
	struct pb_desc d = frame(p.a, 1, 100);
	d.off = 2000;
	CHECK_EQ(pb_dev_tx(p.a, &d, 1, PB_OWN_ENGINE, 0), 1);
	CHECK_EQ(reap(p.a, 0), 1);
	p.a->ops->stats(p.a);
	CHECK_EQ(p.a->stats.drops.n[PB_DROP_TX_BAD], 1);
	finish(&p);
}

TEST(closing_with_frames_everywhere)
{
	const struct pb_link_config cfg = {
		.capacity = 64, .rate_bps = 1000000, .delay_ns = 1000000, .dup_ppm = 300000, .corrupt_ppm = 300000};
	struct pair p = make(&cfg, &cfg, &(struct pb_dev_mem_config){.completion_delay_ns = 1000});
	for (uint32_t i = 0; i < 40; i++) {
		send(p.a, i, 100, i * 300000);
		send(p.b, i, 100, i * 300000);
		receive(p.a, i * 300000, NULL);
	}
	CHECK(pb_dev_next_ns(p.a) != UINT64_MAX);
	finish(&p);
}

/* Everything at once, for long: what arrives is what was sent but for flipped bits, and no frame is lost. */
static uint64_t storm(uint64_t seed)
{
	const struct pb_link_config cfg = {.capacity = 128,
					   .rate_bps = 3000000000,
					   .queue_bytes = 20000,
					   .delay_ns = 20000,
					   .jitter_ns = 5000,
					   .loss_ppm = 30000,
					   .dup_ppm = 30000,
					   .corrupt_ppm = 30000,
					   .reorder_ppm = 30000,
					   .reorder_ns = 30000,
					   .seed = seed};
	struct pair p = make(
		&cfg, &cfg,
		&(struct pb_dev_mem_config){.completion_reorder = true, .completion_delay_ns = 3000, .seed = seed});
	struct pb_rng r = {.state = seed};
	uint64_t h = 0, now = 0;
	uint32_t sent = 0, done = 0, got = 0, damaged = 0;
	for (uint32_t i = 0; i < 20000; i++) {
		struct pb_desc d[8];
		now += pb_rng_below(&r, 4000);
		sent += send(p.a, i, (uint16_t)(64 + pb_rng_below(&r, 900)), now);
		send(p.b, i, 100, now);
		done += reap(p.a, now);
		reap(p.b, now);
		int n = pb_dev_rx(p.b, d, 8, now);
		for (int k = 0; k < n; k++, got++) {
			uint32_t id = id_of(p.b, &d[k]), wrong = id < 20000 ? wrong_bits(p.b, &d[k], id) : 1;
			h = (h ^ id ^ now) * 0x100000001b3u;
			damaged += wrong != 0;
			pb_pool_put(p.b->cache, d[k].addr, PB_OWN_RX);
		}
		n = pb_dev_rx(p.a, d, 8, now);
		for (int k = 0; k < n; k++) {
			h = (h ^ id_of(p.a, &d[k])) * 0x100000001b3u;
			pb_pool_put(p.a->cache, d[k].addr, PB_OWN_RX);
		}
	}
	CHECK(sent == 20000 && done > 18000 && done <= sent);
	CHECK(got > 15000 && damaged > 300 && damaged < 900);
	finish(&p);
	return h;
}

TEST(a_storm_is_the_same_by_seed)
{
	uint64_t h = storm(harness.seed);
	CHECK_EQ(storm(harness.seed), h);
	CHECK(storm(harness.seed + 1) != h);
}

MAIN(T(a_perfect_link_changes_nothing), T(refuses_bad_config), T(delay_each_way), T(loss), T(duplication),
     T(corruption_on_tx_spares_the_sender), T(corruption_on_rx_takes_the_checksum_flag),
     T(what_the_inner_device_refuses_waits), T(without_frames_for_copies),
     T(a_bad_descriptor_is_refused_by_the_inner_device), T(closing_with_frames_everywhere),
     T(a_storm_is_the_same_by_seed))
