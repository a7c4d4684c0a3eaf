/* Frames that are sent again while the device has them (PB_DESC_AGAIN), on the devices in software: each reference
 * comes back once, a frame is TX from the first to the last of them and counted once, what arrives is what was sent,
 * and a device that closes gives each frame back once. By seed: completions late and shuffled, links that lose, copy,
 * damage and reorder. The test stands for the engine. */
#include "base/rng.h"
#include "dev/fault.h"
#include "dev/mem.h"
#include "harness.h"

#define PAYLOADS 24
#define HEADER 16
#define LEN 1200

struct engine {
	struct pb_pool *pool[2];
	struct pb_dev *dev, *far;
	struct pb_rng rng;
	uint64_t now_ns;
	struct pb_desc payload[PAYLOADS]; /* its header, then LEN bytes */
	uint32_t refs[PAYLOADS], most;
	uint32_t whole, chained, wrong, received;
};

static uint8_t byte_at(uint32_t id, uint32_t i)
{
	return (uint8_t)(id * 37 + i * 11 + (i >> 8));
}

static void write_header(uint8_t *p, uint32_t id)
{
	uint32_t both[2] = {id, ~id};
	memset(p, 0, HEADER);
	memcpy(p, both, sizeof(both));
}

static int32_t payload_of(const struct engine *e, uint64_t addr)
{
	for (int32_t i = 0; i < PAYLOADS; i++)
		if (e->payload[i].addr == addr)
			return i;
	return -1;
}

static bool engine_open(struct engine *e, const struct pb_dev_mem_config *cfg, const struct pb_link_config *link)
{
	int err;
	*e = (struct engine){.rng = {.state = harness.seed}, .now_ns = 1000000};
	for (int i = 0; i < 2; i++)
		e->pool[i] = pb_pool_create(512, 2048, PB_WANT_4K, &err);
	struct pb_dev *mem = pb_dev_mem_open("again", e->pool[0], cfg, &err);
	e->far = pb_dev_mem_open("again", e->pool[1], NULL, &err);
	e->dev = link && mem ? pb_dev_fault_open(mem, NULL, link, &err) : mem;
	if (!e->dev || !e->far || !pb_dev_chains_again(e->dev))
		return false;
	for (uint32_t k = 0; k < PAYLOADS; k++) {
		struct pb_desc *d = &e->payload[k];
		*d = (struct pb_desc){.off = 128, .len = HEADER + LEN};
		if (!pb_pool_get(e->dev->cache, &d->addr, 1, 0, PB_OWN_ENGINE))
			return false;
		for (uint32_t i = 0; i < LEN; i++)
			pb_pool_data(e->pool[0], d)[HEADER + i] = byte_at(k, i);
	}
	return true;
}

static void engine_close(struct engine *e)
{
	for (uint32_t k = 0; k < PAYLOADS; k++)
		if (!e->refs[k])
			pb_pool_put(e->dev->cache, e->payload[k].addr, PB_OWN_ENGINE);
	e->dev->ops->close(e->dev);
	e->far->ops->close(e->far);
	CHECK_POOL(e->pool[0]);
	CHECK_POOL(e->pool[1]);
	CHECK_EQ(e->wrong, 0);
}

/* One payload goes: as it is, or behind a new header when the device has it. */
static bool engine_send(struct engine *e, uint32_t k)
{
	struct pb_desc d[2] = {e->payload[k]};
	int n = 1;
	if (e->refs[k] == PB_DESC_REFS_MAX)
		return false;
	if (e->refs[k]) {
		n = 2;
		d[1] = d[0];
		d[0] = (struct pb_desc){.off = 100, .len = HEADER, .flags = PB_DESC_MORE};
		if (!pb_pool_get(e->dev->cache, &d[0].addr, 1, 0, PB_OWN_ENGINE))
			return false;
		d[1].off = (uint16_t)(d[1].off + HEADER);
		d[1].len = LEN;
		d[1].flags = PB_DESC_AGAIN;
	}
	write_header(pb_pool_data(e->pool[0], d), k);
	int took = pb_dev_tx(e->dev, d, n, PB_OWN_ENGINE, e->now_ns);
	CHECK(took == n || !took); /* whole or not at all */
	if (!took && n == 2)
		pb_pool_put(e->dev->cache, d[0].addr, PB_OWN_ENGINE);
	if (!took)
		return false;
	e->refs[k]++;
	e->most = e->refs[k] > e->most ? e->refs[k] : e->most;
	*(n == 2 ? &e->chained : &e->whole) += 1;
	return true;
}

static void engine_reap(struct engine *e)
{
	uint64_t addrs[7];
	for (int n; (n = pb_dev_reap(e->dev, addrs, 7, e->now_ns)) > 0;)
		for (int i = 0; i < n; i++) {
			int32_t k = payload_of(e, addrs[i]);
			if (k < 0) {
				pb_pool_put(e->dev->cache, addrs[i], PB_OWN_TX);
				continue;
			}
			CHECK(e->refs[k]); /* once for each descriptor */
			if (!--e->refs[k])
				pb_pool_move(e->dev->cache, addrs[i], PB_OWN_TX, PB_OWN_ENGINE);
		}
}

/* damaged: a bit of some may be another. */
static void far_receive(struct engine *e, bool damaged)
{
	struct pb_desc d[8];
	for (int n; (n = pb_dev_rx(e->far, d, 8, e->now_ns)) > 0;)
		for (int i = 0; i < n; i++) {
			const uint8_t *p = pb_pool_data(e->pool[1], &d[i]);
			uint32_t id[2], bad = 0;
			memcpy(id, p, sizeof(id));
			CHECK_EQ(d[i].flags & PB_DESC_MORE, 0); /* one frame, since it fits one */
			CHECK_EQ(d[i].len, HEADER + LEN);
			CHECK(damaged || id[0] == ~id[1]);
			for (uint32_t at = 0; at < LEN && id[0] == ~id[1]; at++)
				bad += (uint32_t)__builtin_popcount(p[HEADER + at] ^ byte_at(id[0], at));
			e->wrong += bad > damaged;
			e->received++;
			pb_pool_put(e->far->cache, d[i].addr, PB_OWN_RX);
		}
}

static void check_owners(struct engine *e)
{
	struct pb_pool_info info;
	uint32_t sent = 0;
	for (uint32_t k = 0; k < PAYLOADS; k++)
		sent += e->refs[k] > 0;
	pb_pool_info(e->pool[0], &info);
	CHECK_EQ(info.own[PB_OWN_ENGINE], PAYLOADS - sent);
	CHECK(info.own[PB_OWN_TX] >= sent);
	CHECK_EQ(info.violations, 0);
	int64_t sum = 0;
	for (int i = 0; i < PB_OWN_COUNT; i++)
		sum += info.own[i];
	CHECK_EQ(sum, 512);
}

static void run(struct engine *e, uint32_t rounds, bool damaged)
{
	for (uint32_t round = 0; round < rounds && !harness.bad; round++) {
		for (uint32_t i = pb_rng_below(&e->rng, 6); i; i--)
			engine_send(e, pb_rng_below(&e->rng, PAYLOADS));
		e->now_ns += pb_rng_below(&e->rng, 2000);
		if (pb_rng_below(&e->rng, 2))
			far_receive(e, damaged);
		if (pb_rng_below(&e->rng, 2))
			engine_reap(e);
		check_owners(e);
	}
}

/* All that is out comes back; links first need their time. */
static void settle(struct engine *e, bool damaged)
{
	uint32_t out = 1;
	for (int i = 0; i < 1000 && out; i++) {
		e->now_ns += 1000000;
		far_receive(e, damaged);
		engine_reap(e);
		out = 0;
		for (uint32_t k = 0; k < PAYLOADS; k++)
			out += e->refs[k];
	}
	CHECK_EQ(out, 0);
	check_owners(e);
}

static const struct pb_dev_mem_config slow = {
	.ring_size = 128, .completion_delay_ns = 20000, .completion_reorder = true};

TEST(references_come_back_one_by_one)
{
	struct engine e;
	REQUIRE(engine_open(&e, NULL, NULL));
	for (uint32_t n = 1; n <= PB_DESC_REFS_MAX; n++)
		CHECK(engine_send(&e, 0));
	struct pb_pool_info info;
	pb_pool_info(e.pool[0], &info);
	CHECK_EQ(info.own[PB_OWN_TX], 1 + PB_DESC_REFS_MAX - 1); /* the frame, and the headers */
	far_receive(&e, false);
	CHECK_EQ(e.received, PB_DESC_REFS_MAX);
	uint64_t addr;
	for (uint32_t left = PB_DESC_REFS_MAX; left;) {
		CHECK_EQ(pb_dev_reap(e.dev, &addr, 1, e.now_ns), 1);
		pb_pool_info(e.pool[0], &info);
		if (addr != e.payload[0].addr) {
			pb_pool_put(e.dev->cache, addr, PB_OWN_TX);
		} else if (!--left) {
			CHECK_EQ(pb_dev_reap(e.dev, &addr, 1, e.now_ns), 0);
			pb_pool_move(e.dev->cache, e.payload[0].addr, PB_OWN_TX, PB_OWN_ENGINE);
		}
	}
	e.refs[0] = 0;
	engine_close(&e);
}

/* Its first transmission is back already when the device takes the second. */
TEST(again_though_the_first_is_back)
{
	struct engine e;
	REQUIRE(engine_open(&e, NULL, NULL));
	struct pb_desc d[2] = {{.off = 100, .len = HEADER, .flags = PB_DESC_MORE}, e.payload[3]};
	CHECK(engine_send(&e, 3));
	far_receive(&e, false);
	uint64_t addr;
	CHECK_EQ(pb_dev_reap(e.dev, &addr, 1, 0), 1);
	CHECK_EQ(addr, e.payload[3].addr);
	REQUIRE(pb_pool_get(e.dev->cache, &d[0].addr, 1, 0, PB_OWN_ENGINE));
	write_header(pb_pool_data(e.pool[0], d), 3);
	d[1].off = (uint16_t)(d[1].off + HEADER);
	d[1].len = LEN;
	d[1].flags = PB_DESC_AGAIN;
	CHECK_EQ(pb_dev_tx(e.dev, d, 2, PB_OWN_ENGINE, 0), 2);
	far_receive(&e, false);
	CHECK_EQ(e.received, 2);
	engine_reap(&e);
	check_owners(&e);
	engine_close(&e);
}

TEST(mem_late_and_shuffled)
{
	struct engine e;
	struct pb_dev_mem_config cfg = slow;
	cfg.seed = harness.seed;
	REQUIRE(engine_open(&e, &cfg, NULL));
	run(&e, 4000, false);
	settle(&e, false);
	CHECK(e.chained > 500 && e.whole > 500 && e.most > 3);
	CHECK_EQ(e.received, e.whole + e.chained);
	engine_close(&e);
}

TEST(mem_closes_with_all_of_it)
{
	for (uint32_t rounds = 1; rounds < 60; rounds++) {
		struct engine e;
		struct pb_dev_mem_config cfg = slow;
		cfg.seed = harness.seed + rounds;
		REQUIRE(engine_open(&e, &cfg, NULL));
		run(&e, rounds, false);
		engine_close(&e);
	}
}

/* The other end closes first, or is not there: what was sent is completed, each reference once. */
TEST(mem_without_a_peer)
{
	struct engine e;
	int err;
	struct pb_dev_mem_config cfg = slow;
	cfg.seed = harness.seed;
	REQUIRE(engine_open(&e, &cfg, NULL));
	run(&e, 30, false);
	e.far->ops->close(e.far);
	e.now_ns += 50000; /* most of the ring is free again */
	engine_reap(&e);
	for (uint32_t k = 0; k < 40; k++)
		engine_send(&e, k % 5);
	CHECK(e.dev->stats.drops.n[PB_DROP_NO_PEER] > 0);
	e.far = pb_dev_mem_open("again", e.pool[1], NULL, &err);
	settle(&e, false);
	engine_close(&e);
}

static const struct pb_link_config wild = {.capacity = 256,
					   .delay_ns = 3000,
					   .jitter_ns = 2000,
					   .reorder_ns = 9000,
					   .reorder_ppm = 300000,
					   .loss_ppm = 100000,
					   .dup_ppm = 100000};

/* A link brings a frame's second reference to the device before its first. */
TEST(fault_reorders_and_loses)
{
	struct engine e;
	struct pb_dev_mem_config cfg = slow;
	struct pb_link_config link = wild;
	cfg.seed = link.seed = harness.seed;
	REQUIRE(engine_open(&e, &cfg, &link));
	run(&e, 4000, false);
	settle(&e, false);
	CHECK(e.chained > 500 && e.most > 3);
	engine_close(&e);
}

TEST(fault_damages)
{
	struct engine e;
	struct pb_link_config link = wild;
	link.corrupt_ppm = 200000;
	link.seed = harness.seed;
	REQUIRE(engine_open(&e, NULL, &link));
	run(&e, 3000, true);
	settle(&e, true);
	CHECK(e.chained > 200);
	/* The original is as it was: damage is done to copies. */
	uint32_t bad = 0;
	for (uint32_t k = 0; k < PAYLOADS; k++)
		for (uint32_t i = 0; i < LEN; i++)
			bad += pb_pool_data(e.pool[0], &e.payload[k])[HEADER + i] != byte_at(k, i);
	CHECK_EQ(bad, 0);
	engine_close(&e);
}

TEST(fault_closes_with_all_of_it)
{
	for (uint32_t rounds = 1; rounds < 60; rounds++) {
		struct engine e;
		struct pb_dev_mem_config cfg = slow;
		struct pb_link_config link = wild;
		cfg.seed = link.seed = harness.seed + rounds;
		cfg.ring_size = rounds & 1 ? 8 : 128;
		REQUIRE(engine_open(&e, &cfg, &link));
		run(&e, rounds, false);
		engine_close(&e);
	}
}

MAIN(T(references_come_back_one_by_one), T(again_though_the_first_is_back), T(mem_late_and_shuffled),
     T(mem_closes_with_all_of_it), T(mem_without_a_peer), T(fault_reorders_and_loses), T(fault_damages),
     T(fault_closes_with_all_of_it))
