#include "dev/mem.h"
#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>

/* Pools that both ends share must be larger than what one cache may hoard (PB_POOL_CACHE_MAX). */
static struct pb_pool *pool_of(uint32_t frames, uint32_t bytes)
{
	int err;
	struct pb_pool *p = pb_pool_create(frames, bytes, PB_WANT_4K, &err);
	CHECK(p != NULL);
	return p;
}

static struct pb_dev *open_end(const char *name, struct pb_pool *p, const struct pb_dev_mem_config *cfg)
{
	int err = 1;
	struct pb_dev *d = pb_dev_mem_open(name, p, cfg, &err);
	CHECK(d != NULL);
	CHECK_EQ((uint64_t)err, 0);
	return d;
}

/* A frame of the application's with len bytes that id determines, data at offset 100. */
static struct pb_desc frame(struct pb_dev *dev, uint32_t id, uint16_t len)
{
	struct pb_desc d = {.len = len, .off = 100, .hash = 77, .flags = PB_DESC_CSUM_GOOD | PB_DESC_MARK, .vlan = 5};
	CHECK_EQ(pb_pool_get(dev->cache, &d.addr, 1, 0, PB_OWN_APP), 1);
	for (uint32_t i = 0; i < len; i++)
		pb_pool_data(dev->pool, &d)[i] = (uint8_t)(id + i * 7);
	return d;
}

static void check_data(struct pb_dev *dev, const struct pb_desc *d, uint32_t id)
{
	uint32_t bad = 0;
	for (uint32_t i = 0; i < d->len; i++)
		bad += pb_pool_data(dev->pool, d)[i] != (uint8_t)(id + i * 7);
	CHECK_EQ(bad, 0);
}

static int reap_all(struct pb_dev *dev, uint64_t now)
{
	uint64_t addrs[16];
	int n, sum = 0;
	while ((n = pb_dev_reap(dev, addrs, 16, now)) > 0) {
		sum += n;
		for (int i = 0; i < n; i++)
			pb_pool_put(dev->cache, addrs[i], PB_OWN_TX);
	}
	return sum;
}

static int receive_all(struct pb_dev *dev, uint64_t now)
{
	struct pb_desc d[16];
	int n, sum = 0;
	while ((n = pb_dev_rx(dev, d, 16, now)) > 0) {
		sum += n;
		for (int i = 0; i < n; i++)
			pb_pool_put(dev->cache, d[i].addr, PB_OWN_RX);
	}
	return sum;
}

static int send(struct pb_dev *dev, const struct pb_desc *d, int n)
{
	int sent = pb_dev_tx(dev, d, n, PB_OWN_APP, 0);
	for (int i = sent; i < n; i++)
		pb_pool_put(dev->cache, d[i].addr, PB_OWN_APP);
	return sent;
}

static void close_dev(struct pb_dev *d)
{
	d->ops->close(d);
}

TEST(opening)
{
	struct pb_pool *p = pool_of(1024, 2048);
	struct pb_dev *a = open_end("x", p, NULL), *b = open_end("x", p, NULL), *c = open_end("y", p, NULL);
	int err = 0;
	CHECK(!pb_dev_mem_open("x", p, NULL, &err));
	CHECK_EQ((uint64_t)err, (uint64_t)-EBUSY);
	CHECK_EQ(pb_dev_mem_end(a), 0);
	CHECK_EQ(pb_dev_mem_end(b), 1);
	CHECK_EQ(pb_dev_mem_end(c), 0);
	CHECK_MEM(a->mac, ((const uint8_t[]){2, 0x70, 0x62}), 3);
	CHECK_MEM(a->mac, b->mac, 5);
	CHECK(a->mac[5] == 0 && b->mac[5] == 1 && memcmp(a->mac + 3, c->mac + 3, 2));
	CHECK_EQ(a->mtu, 1500);
	CHECK(b->link_up && !c->link_up);
	close_dev(a);
	a = open_end("x", p, NULL); /* takes the free place */
	CHECK_EQ(pb_dev_mem_end(a), 0);
	close_dev(b);
	close_dev(a);
	close_dev(c);
	CHECK_POOL(p);
}

TEST(refuses_bad_config)
{
	struct pb_pool *p = pool_of(64, 2048);
	static const struct pb_dev_mem_config bad[] = {{.ring_size = 7},      {.ring_size = 4}, {.ring_size = 100},
						       {.ring_size = 131072}, {.mtu = 67},      {.mtu = 65518}};
	for (size_t i = 0; i < PB_ARRAY_LEN(bad); i++) {
		int err = 0;
		CHECK(!pb_dev_mem_open("x", p, &bad[i], &err));
		CHECK_EQ((uint64_t)err, (uint64_t)-EINVAL);
	}
	int err = 0;
	CHECK(!pb_dev_mem_open("", p, NULL, &err));
	CHECK_EQ((uint64_t)err, (uint64_t)-EINVAL);
	CHECK(!pb_dev_mem_open("a-name-of-32-bytes-is-too-long-x", p, NULL, &err));
	CHECK_EQ((uint64_t)err, (uint64_t)-EINVAL);
	CHECK_POOL(p);
}

TEST(carries_packets_both_ways)
{
	struct pb_pool *pa = pool_of(64, 2048), *pb = pool_of(64, 4096);
	struct pb_dev *end[2] = {open_end("x", pa, NULL), open_end("x", pb, NULL)};
	for (int e = 0; e < 2; e++) {
		struct pb_dev *from = end[e], *to = end[!e];
		struct pb_desc tx[10], rx[10];
		uint64_t addrs[10];
		for (uint32_t i = 0; i < 10; i++)
			tx[i] = frame(from, i, (uint16_t)(60 + i * 160));
		CHECK_EQ(send(from, tx, 10), 10);
		CHECK_EQ(pb_dev_reap(from, addrs, 10, 0), 0); /* nobody has read them */
		CHECK_EQ(pb_dev_rx(to, rx, 4, 1234), 4);
		CHECK_EQ(pb_dev_rx(to, rx + 4, 6, 1234), 6);
		CHECK_EQ(pb_dev_rx(to, rx, 6, 1234), 0);
		for (uint32_t i = 0; i < 10; i++) {
			CHECK_EQ(rx[i].len, tx[i].len);
			CHECK_EQ(rx[i].off, 256);
			CHECK_EQ(rx[i].addr % to->pool->frame_bytes, 0);
			CHECK_EQ(rx[i].ts_ns, 1234);
			CHECK_EQ(rx[i].ts_source, PB_TS_USER);
			CHECK(!rx[i].flags && !rx[i].hash && !rx[i].hash_type && !rx[i].vlan);
			check_data(to, &rx[i], i);
			pb_pool_put(to->cache, rx[i].addr, PB_OWN_RX);
		}
		CHECK_EQ(pb_dev_reap(from, addrs, 3, 0), 3);
		CHECK_EQ(pb_dev_reap(from, addrs + 3, 10, 0), 7);
		for (int i = 0; i < 10; i++) {
			CHECK_EQ(addrs[i], tx[i].addr);
			pb_pool_put(from->cache, addrs[i], PB_OWN_TX);
		}
		CHECK_EQ(from->stats.tx_pkts, 10);
		CHECK_EQ(to->stats.rx_pkts, 10);
		CHECK_EQ(from->stats.tx_bytes, to->stats.rx_bytes);
	}
	close_dev(end[0]);
	close_dev(end[1]);
	CHECK_POOL(pa);
	CHECK_POOL(pb);
}

TEST(without_a_peer)
{
	struct pb_pool *p = pool_of(1024, 2048);
	struct pb_dev *a = open_end("x", p, NULL);
	struct pb_desc d[3] = {frame(a, 0, 60), frame(a, 1, 60), frame(a, 2, 60)}, rx[3];
	CHECK_EQ(send(a, d, 3), 3);
	CHECK_EQ(a->stats.drops.n[PB_DROP_NO_PEER], 3);
	CHECK_EQ(a->stats.tx_pkts, 0);
	CHECK_EQ(reap_all(a, 0), 3);
	CHECK_EQ(pb_dev_rx(a, rx, 3, 0), 0);
	CHECK(!a->link_up);
	struct pb_dev *b = open_end("x", p, NULL);
	CHECK_EQ(receive_all(b, 0), 0); /* nothing from before */
	close_dev(b);
	close_dev(a);
	CHECK_POOL(p);
}

TEST(refused_packets_are_completed)
{
	struct pb_pool *p = pool_of(1024, 2048);
	struct pb_dev *a = open_end("x", p, &(struct pb_dev_mem_config){.mtu = 1000}), *b = open_end("x", p, NULL);
	struct pb_desc d[5] = {frame(a, 0, 1018), frame(a, 1, 1019), frame(a, 2, 60), frame(a, 3, 60), frame(a, 4, 60)};
	d[2].off = 2000; /* runs out of its frame */
	uint64_t lost = d[4].addr;
	d[4].addr = 1024 * 2048; /* not of the pool */
	CHECK_EQ(pb_dev_tx(a, d, 5, PB_OWN_APP, 0), 5);
	CHECK_EQ(a->stats.drops.n[PB_DROP_TOO_LONG], 1);
	CHECK_EQ(a->stats.drops.n[PB_DROP_TX_BAD], 2);
	CHECK_EQ(receive_all(b, 0), 2);
	CHECK_EQ(reap_all(a, 0), 4);
	pb_pool_put(a->cache, lost, PB_OWN_APP);
	/* The receiver's own limits: its MTU, and its frames. */
	d[0] = frame(b, 0, 1019);
	CHECK_EQ(send(b, d, 1), 1);
	CHECK_EQ(receive_all(a, 0), 0);
	CHECK_EQ(a->stats.drops.n[PB_DROP_TOO_LONG], 2);
	CHECK_EQ(reap_all(b, 0), 1);
	close_dev(b);
	close_dev(a);
	CHECK_POOL(p);
}

TEST(frames_too_large_for_the_receiver)
{
	struct pb_pool *big = pool_of(64, 4096), *small = pool_of(64, 2048);
	const struct pb_dev_mem_config cfg = {.mtu = 9000};
	struct pb_dev *a = open_end("x", big, &cfg), *b = open_end("x", small, &cfg);
	struct pb_desc d[2] = {frame(a, 0, 2048 - 256), frame(a, 0, 2048 - 255)};
	CHECK_EQ(send(a, d, 2), 2);
	CHECK_EQ(receive_all(b, 0), 1);
	CHECK_EQ(b->stats.drops.n[PB_DROP_TOO_LONG], 1);
	CHECK_EQ(reap_all(a, 0), 2);
	close_dev(a);
	close_dev(b);
	CHECK_POOL(big);
	CHECK_POOL(small);
}

TEST(chains_whole_or_not_at_all)
{
	struct pb_pool *p = pool_of(1024, 4096);
	const struct pb_dev_mem_config cfg = {.mtu = 9000, .ring_size = 8};
	struct pb_dev *a = open_end("x", p, &cfg), *b = open_end("x", p, &cfg);
	struct pb_desc d[9], rx[9];
	for (uint32_t i = 0; i < 9; i++) {
		d[i] = frame(a, i, 3000);
		d[i].flags = i % 3 < 2 ? PB_DESC_MORE : 0;
	}
	CHECK_EQ(pb_dev_tx(a, d, 2, PB_OWN_APP, 0), 0); /* its end is missing */
	CHECK_EQ(pb_dev_tx(a, d, 9, PB_OWN_APP, 0), 6); /* the third has no room */
	CHECK_EQ(a->stats.tx_pkts, 2);
	CHECK_EQ(pb_dev_rx(b, rx, 2, 0), 0);
	CHECK_EQ(pb_dev_rx(b, rx, 5, 0), 3);
	CHECK_EQ(pb_dev_rx(b, rx + 3, 6, 0), 3);
	for (uint32_t i = 0; i < 6; i++) {
		CHECK_EQ(rx[i].flags, i % 3 < 2 ? PB_DESC_MORE : 0);
		check_data(b, &rx[i], i);
		pb_pool_put(b->cache, rx[i].addr, PB_OWN_RX);
	}
	CHECK_EQ(reap_all(a, 0), 6);
	d[6].len = d[7].len = d[8].len = 3007; /* 9021 bytes: over 9018 in all */
	CHECK_EQ(pb_dev_tx(a, d + 6, 3, PB_OWN_APP, 0), 3);
	CHECK_EQ(a->stats.drops.n[PB_DROP_TOO_LONG], 1);
	CHECK_EQ(reap_all(a, 0), 3);
	close_dev(a);
	close_dev(b);
	CHECK_POOL(p);
}

TEST(a_full_ring_pushes_back)
{
	struct pb_pool *p = pool_of(1024, 2048);
	struct pb_dev *a = open_end("x", p, &(struct pb_dev_mem_config){.ring_size = 8}), *b = open_end("x", p, NULL);
	struct pb_desc d[12];
	for (uint32_t i = 0; i < 12; i++)
		d[i] = frame(a, i, 60);
	CHECK_EQ(pb_dev_tx(a, d, 12, PB_OWN_APP, 0), 8);
	CHECK_EQ(receive_all(b, 0), 8);
	CHECK_EQ(pb_dev_tx(a, d + 8, 4, PB_OWN_APP, 0), 0); /* not before they are reaped */
	CHECK_EQ(reap_all(a, 0), 8);
	CHECK_EQ(pb_dev_tx(a, d + 8, 4, PB_OWN_APP, 0), 4);
	close_dev(b);
	CHECK_EQ(reap_all(a, 0), 4);
	close_dev(a);
	CHECK_POOL(p);
}

TEST(a_receiver_without_frames_lets_them_wait)
{
	struct pb_pool *pa = pool_of(64, 2048), *pb = pool_of(64, 2048);
	struct pb_dev *a = open_end("x", pa, NULL), *b = open_end("x", pb, NULL);
	uint64_t all[64];
	struct pb_desc d = frame(a, 3, 60), rx;
	CHECK_EQ(pb_pool_get(b->cache, all, 64, 0, PB_OWN_APP), 64);
	CHECK_EQ(send(a, &d, 1), 1);
	CHECK_EQ(pb_dev_rx(b, &rx, 1, 0), 0);
	CHECK_EQ(b->stats.rx_fill_empty, 1);
	for (int i = 0; i < 64; i++)
		pb_pool_put(b->cache, all[i], PB_OWN_APP);
	CHECK_EQ(pb_dev_rx(b, &rx, 1, 0), 1);
	check_data(b, &rx, 3);
	pb_pool_put(b->cache, rx.addr, PB_OWN_RX);
	close_dev(a);
	close_dev(b);
	CHECK_POOL(pa);
	CHECK_POOL(pb);
}

TEST(completions_wait_for_their_time)
{
	struct pb_pool *p = pool_of(1024, 2048);
	struct pb_dev *a = open_end("x", p, &(struct pb_dev_mem_config){.completion_delay_ns = 1000});
	struct pb_dev *b = open_end("x", p, NULL);
	struct pb_desc d[2] = {frame(a, 0, 60), frame(a, 1, 60)};
	uint64_t addrs[4];
	CHECK_EQ(pb_dev_next_ns(a), UINT64_MAX);
	send(a, d, 1);
	CHECK_EQ(receive_all(b, 500), 1);
	CHECK_EQ(pb_dev_next_ns(a), 1500);
	send(a, d + 1, 1);
	CHECK_EQ(receive_all(b, 600), 1);
	CHECK_EQ(pb_dev_reap(a, addrs, 4, 1499), 0);
	CHECK_EQ(pb_dev_reap(a, addrs, 4, 1500), 1);
	CHECK_EQ(addrs[0], d[0].addr);
	CHECK_EQ(pb_dev_next_ns(a), 1600);
	pb_pool_put(a->cache, addrs[0], PB_OWN_TX);
	close_dev(a); /* with one held back */
	close_dev(b);
	CHECK_POOL(p);
}

/* The order in which 60 completions come, reaped by sevens; returns how many are out of place. */
static uint32_t shuffled(uint64_t seed, uint64_t order[60])
{
	struct pb_pool *p = pool_of(1024, 2048);
	struct pb_dev *a = open_end("x", p, &(struct pb_dev_mem_config){.completion_reorder = true, .seed = seed});
	struct pb_dev *b = open_end("x", p, NULL);
	struct pb_desc d[60];
	uint32_t moved = 0, n = 0;
	for (uint32_t i = 0; i < 60; i++)
		d[i] = frame(a, i, 60);
	CHECK_EQ(send(a, d, 60), 60);
	CHECK_EQ(receive_all(b, 0), 60);
	for (int k; (k = pb_dev_reap(a, order + n, n + 7 > 60 ? (int)(60 - n) : 7, 0)) > 0; n += (uint32_t)k)
		for (int i = 0; i < k; i++)
			pb_pool_put(a->cache, order[n + (uint32_t)i], PB_OWN_TX); /* twice would be a violation */
	CHECK_EQ(n, 60);
	for (uint32_t i = 0; i < n; i++)
		moved += order[i] != d[i].addr;
	close_dev(a);
	close_dev(b);
	CHECK_POOL(p);
	return moved;
}

TEST(completions_in_random_order_by_seed)
{
	uint64_t x[60], y[60], z[60];
	CHECK(shuffled(harness.seed, x) > 30);
	shuffled(harness.seed, y);
	shuffled(harness.seed + 1, z);
	CHECK_MEM(x, y, sizeof(x));
	CHECK(memcmp(x, z, sizeof(x)) != 0);
}

TEST(closing_takes_frames_back)
{
	/* First a closes with frames on the wire both ways, then b; in both orders. */
	for (int first = 0; first < 2; first++) {
		struct pb_pool *p[2] = {pool_of(64, 2048), pool_of(64, 2048)};
		struct pb_dev *end[2] = {open_end("x", p[0], NULL), open_end("x", p[1], NULL)};
		for (int e = 0; e < 2; e++)
			for (uint32_t i = 0; i < 20; i++) {
				struct pb_desc d = frame(end[e], i, 60);
				CHECK_EQ(send(end[e], &d, 1), 1);
			}
		struct pb_desc rx[5];
		CHECK_EQ(pb_dev_rx(end[!first], rx, 5, 0), 5); /* five completions wait for the one that closes */
		for (int i = 0; i < 5; i++)
			pb_pool_put(end[!first]->cache, rx[i].addr, PB_OWN_RX);
		close_dev(end[first]);
		CHECK_POOL(p[first]);
		CHECK_EQ(pb_dev_rx(end[!first], rx, 5, 0), 0);
		CHECK_EQ(reap_all(end[!first], 0), 20);
		struct pb_desc d = frame(end[!first], 0, 60);
		CHECK_EQ(send(end[!first], &d, 1), 1);
		CHECK_EQ(end[!first]->stats.drops.n[PB_DROP_NO_PEER], 1);
		CHECK_EQ(reap_all(end[!first], 0), 1);
		close_dev(end[!first]);
		CHECK_POOL(p[!first]);
	}
}

struct worker {
	const char *name;
	int rounds, bursts;
	uint64_t seed, received, bad;
};

/* Opens an end, sends and receives for a while, closes it, over and over. */
static void *work(void *arg)
{
	struct worker *w = arg;
	struct pb_rng r = {.state = w->seed};
	for (int round = 0; round < w->rounds; round++) {
		struct pb_pool *p = pool_of(256, 2048);
		struct pb_dev *dev = open_end(w->name, p,
					      &(struct pb_dev_mem_config){.ring_size = 64,
									  .completion_reorder = round & 1,
									  .completion_delay_ns = round & 2 ? 5 : 0});
		for (int k = 0; k < w->bursts; k++) {
			struct pb_desc d[16];
			uint32_t n = pb_rng_below(&r, 17);
			for (uint32_t i = 0; i < n; i++)
				d[i] = frame(dev, i, (uint16_t)(64 + i));
			send(dev, d, (int)n);
			int got = pb_dev_rx(dev, d, 16, (uint64_t)k);
			for (int i = 0; i < got; i++) {
				uint8_t id = pb_pool_data(p, &d[i])[0];
				w->received++;
				w->bad += d[i].len != 64 + id || pb_pool_data(p, &d[i])[63] != (uint8_t)(id + 63 * 7);
				pb_pool_put(dev->cache, d[i].addr, PB_OWN_RX);
			}
			reap_all(dev, (uint64_t)k);
			if (!(k & 15))
				sched_yield();
		}
		close_dev(dev);
		CHECK_POOL(p);
	}
	return NULL;
}

TEST(two_threads_that_close_while_the_other_runs)
{
	struct worker w[2] = {{"t", 150, 300, harness.seed, 0, 0}, {"t", 40, 1100, harness.seed + 1, 0, 0}};
	pthread_t t[2];
	for (int i = 0; i < 2; i++)
		REQUIRE(!pthread_create(&t[i], NULL, work, &w[i]));
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	CHECK(w[0].received + w[1].received > 1000);
	CHECK_EQ(w[0].bad + w[1].bad, 0);
}

MAIN(T(opening), T(refuses_bad_config), T(carries_packets_both_ways), T(without_a_peer),
     T(refused_packets_are_completed), T(frames_too_large_for_the_receiver), T(chains_whole_or_not_at_all),
     T(a_full_ring_pushes_back), T(a_receiver_without_frames_lets_them_wait), T(completions_wait_for_their_time),
     T(completions_in_random_order_by_seed), T(closing_takes_frames_back),
     T(two_threads_that_close_while_the_other_runs))
