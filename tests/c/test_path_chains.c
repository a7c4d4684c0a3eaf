/* Paths over devices that give frames back late and in any order: what is sent again goes as a chain, through a backlog
 * that a small ring cuts, past neighbours that are forgotten, into the capture; and every byte arrives. */
#include "rig.h"

#include "base/rng.h"

#define BYTES 400000u

static uint8_t byte_at(uint32_t i)
{
	return (uint8_t)(i * 7 + (i >> 8) * 13 + (i >> 16) + 1);
}

static struct rig_config slow_rig(uint64_t seed)
{
	struct rig_config c = rig_defaults();
	c.link.loss_ppm = 30000;
	c.late = true; /* the device holds what is lost */
	c.link.seed = seed;
	c.mem = (struct pb_dev_mem_config){.completion_delay_ns = 30000000, .completion_reorder = true, .seed = seed};
	for (int i = 0; i < 2; i++)
		c.tcp[i].rto_min_ns = 10000000;
	return c;
}

static uint64_t counter(struct rig *r, int side, enum pb_tcp_counter which)
{
	return pb_tcp_get_stats(rig_tcp(r, side))->n[which];
}

struct stream {
	pb_tcp_handle from, to;
	uint32_t sent, read, bad;
};

static void push(struct rig *r, struct stream *t)
{
	uint8_t buf[4096];
	for (int64_t n = 1; n > 0 && t->sent<BYTES; t->sent += n> 0 ? (uint32_t)n : 0) {
		uint32_t k = BYTES - t->sent < sizeof(buf) ? BYTES - t->sent : (uint32_t)sizeof(buf);
		for (uint32_t i = 0; i < k; i++)
			buf[i] = byte_at(t->sent + i);
		n = pb_tcp_send(rig_tcp(r, 0), t->from, buf, k, 0);
	}
}

static void pull(struct rig *r, struct stream *t)
{
	uint8_t buf[4096];
	for (int64_t n; (n = pb_tcp_recv(rig_tcp(r, 1), t->to, buf, sizeof(buf), r->now_ns)) > 0;
	     t->read += (uint32_t)n)
		for (uint32_t i = 0; i < n; i++)
			t->bad += buf[i] != byte_at(t->read + i);
}

static void transfer(struct rig *r, struct stream *t, void (*during)(struct rig *r, uint32_t step))
{
	for (uint32_t step = 0; step < 200000 && t->read < BYTES && !harness.bad; step++) {
		push(r, t);
		rig_settle(r);
		pull(r, t);
		if (during)
			during(r, step);
		if (t->read < BYTES && !rig_advance(r))
			break;
	}
	CHECK_EQ(t->read, BYTES);
	CHECK_EQ(t->bad, 0);
}

static bool stream_open(struct rig *r, struct stream *t)
{
	pb_tcp_handle listener = 0;
	*t = (struct stream){0};
	return rig_connect(r, 4000, &t->from, &listener, &t->to);
}

TEST(bytes_arrive_by_chains)
{
	uint64_t chained = 0;
	for (unsigned k = 0; k < 6; k++) {
		struct rig_config c = slow_rig(harness.seed + k);
		struct rig r;
		struct stream t;
		c.v6 = k & 1;
		c.mem.ring_size = k & 2 ? 64 : 1024;
		REQUIRE(rig_open(&r, &c));
		if (k == 4)
			r.path[0]->net.vlan = r.path[1]->net.vlan = 77;
		REQUIRE(stream_open(&r, &t));
		transfer(&r, &t, NULL);
		chained += counter(&r, 0, PB_C_RetransChained);
		CHECK_EQ(counter(&r, 0, PB_C_RetransCopied), 0);
		/* Whole packets, counted as such: nothing came as a piece. */
		CHECK_EQ(r.path[1]->stats.drops.n[PB_DROP_TOO_LONG], 0);
		for (int i = 0; i < 100 && r.path[0]->nbacklog && rig_advance(&r); i++)
			rig_settle(&r); /* the last may wait for room in the ring */
		CHECK_EQ(r.path[0]->stats.tx_pkts,
			 counter(&r, 0, PB_C_TcpOutSegs) + counter(&r, 0, PB_C_TcpRetransSegs));
		rig_close(&r);
	}
	CHECK(chained > 3); /* of some 50 that are lost */
}

/* A device that does not take it gets copies, as before. */
TEST(copies_where_it_is_not_granted)
{
	struct rig_config c = slow_rig(harness.seed);
	struct rig r;
	struct stream t;
	REQUIRE(rig_open(&r, &c));
	for (int i = 0; i < 2; i++) { /* what a path sees at its creation */
		struct pb_dev *dev = r.path[i]->dev;
		CHECK(pb_dev_chains_again(dev));
		dev->tx_flags = PB_DESC_MORE;
		CHECK(!pb_dev_chains_again(dev));
	}
	rig_close(&r);
	c.mem.ring_size = 1024;
	c.link.loss_ppm = 60000;
	REQUIRE(rig_open(&r, &c));
	for (int i = 0; i < 2; i++) {
		int err;
		struct pb_dev *dev = r.path[i]->dev;
		struct pb_tcp_config tcp = c.tcp[i];
		struct pb_tcp *old = r.path[i]->tcp;
		tcp.mtu = dev->mtu;
		r.path[i]->tcp = pb_tcp_create(&tcp, dev->cache, &err);
		pb_tcp_destroy(old);
		REQUIRE(r.path[i]->tcp != NULL);
	}
	REQUIRE(stream_open(&r, &t));
	transfer(&r, &t, NULL);
	CHECK_EQ(counter(&r, 0, PB_C_RetransChained), 0);
	CHECK(counter(&r, 0, PB_C_RetransCopied) > 0);
	rig_close(&r);
}

static uint32_t parked_chains;

static void forget_now_and_then(struct rig *r, uint32_t step)
{
	struct pb_path *p = r->path[0];
	for (uint32_t i = 0; i < p->nparked; i++)
		parked_chains += p->parked[i].n == 2;
	if (step % 7 == 0)
		pb_net_neigh_set(&p->net, &r->ip[1], NULL);
	if (step % 7 != 2)
		return;
	pb_net_neigh_set(&p->net, &r->ip[1], r->path[1]->dev->mac);
	pb_path_unpark(p, r->now_ns);
}

/* Chains wait for a MAC address whole, and those that wait too long, or are too many, go whole. */
TEST(chains_are_parked)
{
	parked_chains = 0;
	for (unsigned k = 0; k < 4; k++) {
		struct rig_config c = slow_rig(harness.seed + k);
		struct rig r;
		struct stream t;
		c.link.loss_ppm = 50000;
		REQUIRE(rig_open(&r, &c));
		REQUIRE(stream_open(&r, &t));
		transfer(&r, &t, forget_now_and_then);
		rig_close(&r);
	}
	CHECK(parked_chains > 0);
}

/* Abort, and destroy, with chains everywhere: on the backlog, parked, on the link, in the device. */
TEST(end_in_the_middle)
{
	for (unsigned k = 0; k < 40; k++) {
		struct rig_config c = slow_rig(harness.seed + k);
		struct rig r;
		struct stream t;
		c.mem.ring_size = k & 1 ? 8 : 64;
		c.late = k & 8; /* else some are in the sender's link too */
		REQUIRE(rig_open(&r, &c));
		REQUIRE(stream_open(&r, &t));
		for (uint32_t i = 0; i < 10 + 12 * k; i++) {
			push(&r, &t);
			rig_settle(&r);
			if (i % 4)
				pull(&r, &t);
			if (k & 2)
				forget_now_and_then(&r, i);
			rig_advance(&r);
		}
		if (k & 4)
			CHECK_EQ(pb_tcp_abort(rig_tcp(&r, 0), t.from, r.now_ns), 0);
		rig_close(&r);
	}
}

/* A chain is one packet in the capture, and a capture without room for it counts one. */
TEST(captured_whole)
{
	struct rig_config c = slow_rig(harness.seed);
	struct rig r;
	struct stream t;
	struct pb_tap tap = {.size = 2u << 20};
	c.link.loss_ppm = 60000;
	tap.buf = malloc(tap.size);
	REQUIRE(tap.buf && rig_open(&r, &c));
	REQUIRE(stream_open(&r, &t));
	uint64_t before = r.path[0]->stats.tx_pkts;
	r.path[0]->tap = &tap;
	transfer(&r, &t, NULL);
	uint64_t out = 0;
	for (size_t at = 0; at < tap.used;) {
		struct pb_tap_rec rec;
		memcpy(&rec, tap.buf + at, sizeof(rec));
		at += sizeof(rec);
		const uint8_t *ip = tap.buf + at + 14;
		CHECK_EQ(rec.len, 14u + (uint32_t)(ip[2] << 8 | ip[3]));
		out += rec.out;
		at += rec.len;
	}
	CHECK_EQ(tap.dropped, 0);
	CHECK_EQ(out, r.path[0]->stats.tx_pkts - before);
	CHECK(counter(&r, 0, PB_C_RetransChained) > 0);
	r.path[0]->tap = NULL;
	rig_close(&r);
	free(tap.buf);
}

MAIN(T(bytes_arrive_by_chains), T(copies_where_it_is_not_granted), T(chains_are_parked), T(end_in_the_middle),
     T(captured_whole))
