/* A segment that is sent again while the device holds it: a new header before the bytes where they lie. The device may
 * hold a frame several times and gives it back in any order; script_complete_one() looks whether a byte of what it had
 * was written to, and script_catch() whether the packet is whole. */
#include "tcp_script.h"

#include "base/rng.h"

static struct script script, *const s = &script;

static uint64_t chained(void)
{
	return pb_tcp_get_stats(s->e)->n[PB_C_RetransChained];
}

static uint64_t copied(void)
{
	return pb_tcp_get_stats(s->e)->n[PB_C_RetransCopied];
}

static uint32_t owned(enum pb_owner who)
{
	struct pb_pool_info info;
	pb_pool_info(s->pool, &info);
	CHECK_EQ(info.violations, 0);
	return (uint32_t)info.own[who];
}

/* How often the device holds the frame. */
static uint32_t refs(uint64_t addr)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < s->nheld; i++)
		n += s->held[i] == addr;
	return n;
}

static struct pb_tcp_config config(void)
{
	struct pb_tcp_config c = script_config();
	c.tx_chains = true;
	c.data_retries = 60;
	return c;
}

/* Established, one segment of 1000 bytes with the device; *frame: where. */
static bool one_held(const struct pb_tcp_config *c, bool v6, uint64_t *frame)
{
	if (!script_open_v(s, c, v6, 1024))
		return false;
	ACTIVE();
	s->hold = true;
	SEND(1, 1000);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	*frame = s->held[0];
	return s->nheld == 1;
}

/* Timeouts: each sends the segment once more, in the same bytes, and the first header stays as it was. */
TEST(timeouts_take_more_references)
{
	uint64_t frame;
	for (int how = 0; how < 4; how++) {
		struct pb_tcp_config c = config();
		c.timestamps = how & 2;
		REQUIRE(one_held(&c, how & 1, &frame));
		for (uint32_t k = 1; k <= 5; k++) {
			for (uint32_t before = s->nheld; s->nheld == before;)
				WAIT(100 * MS);
			OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
			CHECK_EQ(s->nheld, 1 + 2 * k); /* a header of its own each time */
			CHECK_EQ(refs(frame), 1 + k);
			CHECK_EQ(chained(), k);
		}
		CHECK_EQ(copied(), 0);
		CHECK_EQ(owned(PB_OWN_TX), 1 + 5); /* a frame counts once */
		CHECK_EQ(owned(PB_OWN_ENGINE), 0);
		script_complete(s, how & 1);
		CHECK_EQ(owned(PB_OWN_ENGINE), 1);
		CHECK_EQ(owned(PB_OWN_TX), 0);
		IN_OK(.f = A, .seq = 1, .ack = 1001);
		CHECK_EQ(owned(PB_OWN_ENGINE), 0);
		FORGET();
		CLOSE(s);
	}
}

/* The frame is the engine's again with the last reference: before, a new header would go over what is sent. */
TEST(own_header_again_after_the_last)
{
	struct pb_tcp_config c = config();
	uint64_t frame;
	REQUIRE(one_held(&c, false, &frame));
	while (refs(frame) < 3)
		WAIT(100 * MS);
	FORGET();
	while (refs(frame) > 1) {
		for (uint32_t i = 0; i < s->nheld; i++)
			if (s->held[i] == frame) {
				script_complete_one(s, i);
				break;
			}
		uint64_t before = chained();
		while (chained() == before)
			WAIT(100 * MS);
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
		for (uint32_t i = 0, k = 0; i < s->nheld && k < 1; i++)
			if (s->held[i] == frame) {
				script_complete_one(s, i);
				k++;
			}
	}
	script_complete(s, false);
	uint64_t before = chained();
	for (uint32_t n = s->nheld; s->nheld == n;)
		WAIT(100 * MS);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	CHECK_EQ(s->nheld, 1);
	CHECK_EQ(s->held[0], frame);
	CHECK_EQ(chained(), before);
	CLOSE(s);
}

/* Beyond PB_DESC_REFS_MAX a copy goes, and a chain again when one came back. */
TEST(bound_on_references)
{
	struct pb_tcp_config c = config();
	c.rto_max_ns = SEC;
	uint64_t frame;
	REQUIRE(one_held(&c, false, &frame));
	while (refs(frame) < PB_DESC_REFS_MAX)
		WAIT(100 * MS);
	FORGET();
	CHECK_EQ(copied(), 0);
	CHECK_EQ(chained(), PB_DESC_REFS_MAX - 1);
	while (copied() < 3)
		WAIT(100 * MS);
	for (int k = 0; k < 3; k++)
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	CHECK_EQ(refs(frame), PB_DESC_REFS_MAX);
	script_complete_one(s, 0);
	while (chained() < PB_DESC_REFS_MAX)
		WAIT(100 * MS);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	CHECK_EQ(copied(), 3);
	IN_OK(.f = A, .seq = 1, .ack = 1001);
	CHECK_EQ(owned(PB_OWN_ENGINE), 0);
	CLOSE(s);
}

/* Acknowledged while the device has it three times: FREE with the last of them, in every order. */
TEST(ack_before_completion_in_every_order)
{
	static const uint8_t order[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
	uint64_t frame;
	for (unsigned k = 0; k < 12; k++) {
		struct pb_tcp_config c = config();
		REQUIRE(one_held(&c, false, &frame));
		while (refs(frame) < 3)
			WAIT(100 * MS);
		FORGET();
		uint32_t left[3] = {0}, n = 0;
		for (uint32_t i = 0; i < s->nheld; i++)
			if (s->held[i] == frame)
				left[n++] = i;
		REQUIRE(n == 3);
		bool early = k < 6; /* the ACK comes before all of them, or between the second and the last */
		if (early)
			IN_OK(.f = A, .seq = 1, .ack = 1001);
		for (unsigned i = 0; i < 3; i++) {
			uint32_t at = left[order[k % 6][i]];
			if (i == 2 && !early)
				IN_OK(.f = A, .seq = 1, .ack = 1001);
			CHECK_EQ(owned(PB_OWN_TX), 3);
			script_complete_one(s, at);
			for (unsigned j = 0; j < 3; j++)
				left[j] -= left[j] > at;
			if (i == 2)
				CHECK_EQ(owned(PB_OWN_TX), 2); /* the headers of two retransmissions */
		}
		CHECK_EQ(owned(PB_OWN_ENGINE), 0);
		script_complete(s, false);
		CHECK_EQ(owned(PB_OWN_FREE), 1024);
		CLOSE(s);
	}
}

/* RACK and duplicate ACKs: several segments of a flight go again, each from where it lies. */
TEST(fast_recovery)
{
	for (int sack = 0; sack < 2; sack++) {
		struct pb_tcp_config c = config();
		c.sack = sack;
		c.tlp = false;
		REQUIRE(script_open(s, &c));
		ACTIVE();
		s->hold = true;
		SEND(1, 8000);
		FORGET();
		uint32_t first = s->nheld, mss = 1460;
		CHECK_EQ(first, 6);
		WAIT(10 * MS);
		for (uint32_t i = 2; i < 6; i++) {
			struct sg g = {.f = A, .seq = 1, .ack = 1};
			if (sack) {
				g.o.n_sack = 1;
				g.o.sack[0].left = s->iss + 1 + mss * 1;
				g.o.sack[0].right = s->iss + 1 + (i == 5 ? 8000 : mss * i);
			}
			CHECK_EQ(script_in(s, __FILE__, __LINE__, g), PB_DROP_NONE);
		}
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
		FORGET();
		CHECK_EQ(chained(), 1);
		CHECK_EQ(refs(s->held[0]), 2);
		IN_OK(.f = A, .seq = 1, .ack = 8001);
		CHECK_EQ(owned(PB_OWN_ENGINE), 0);
		script_complete(s, sack);
		CHECK_EQ(owned(PB_OWN_FREE), 1024);
		CLOSE(s);
	}
}

/* RFC 8985 7: the probe of a tail is a chain too, also when it must wait for room. */
TEST(tail_loss_probe)
{
	for (int room = 0; room < 3; room++) {
		struct pb_tcp_config c = config();
		c.sack = true;
		uint64_t frame;
		REQUIRE(one_held(&c, false, &frame));
		s->room = room;
		for (int i = 0; i < 100 && s->nheld == 1; i++)
			WAIT(20 * MS);
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
		CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpExtTCPLossProbes], 1);
		CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpExtTCPTimeouts], 0);
		CHECK_EQ(refs(frame), room == 1 ? 1 : 2); /* with room for one only, a copy */
		CHECK_EQ(chained(), room != 1);
		CHECK_EQ(copied(), room == 1);
		CLOSE(s);
	}
}

/* One descriptor is left: the chain waits for the next call, and nothing is lost of it. */
TEST(both_fit_or_wait)
{
	struct pb_tcp_config c = config();
	struct pb_desc d[PB_BURST_MAX];
	REQUIRE(script_open(s, &c));
	ACTIVE();
	s->hold = true;
	SEND(1, 3 * 1460);
	for (uint32_t i = 0; i < 3; i++)
		OUT(.f = A, .seq = 1 + i * 1460, .ack = 1, .len = 1460);
	for (uint64_t t = pb_tcp_next_deadline(s->e); !pb_tcp_has_output(s->e); t = pb_tcp_next_deadline(s->e)) {
		s->now_ns = t;
		pb_tcp_expire(s->e, t);
	}
	/* An ACK takes the first place of two; then one place is left, and two are needed. */
	IN_OK(.f = A, .seq = 2, .ack = 1, .len = 100);
	int n = pb_tcp_output(s->e, d, 2, s->now_ns);
	CHECK_EQ((uint64_t)n, 1);
	CHECK_EQ(d[0].flags, 0);
	CHECK_EQ(chained(), 0);
	CHECK(pb_tcp_has_output(s->e));
	script_ok(s, __FILE__, __LINE__);
	pb_pool_move(s->cache, d[0].addr, PB_OWN_ENGINE, PB_OWN_TX);
	script_done(s, d[0].addr);
	s->room = 2;
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	CHECK_EQ(chained(), 1);
	CHECK_EQ(copied(), 0);
	CLOSE(s);
}

/* Part of it is acknowledged: the rest goes from where it lies, and the cut does not touch the frame. */
TEST(partial_ack)
{
	struct pb_tcp_config c = config();
	uint64_t frame;
	REQUIRE(one_held(&c, false, &frame));
	while (refs(frame) < 2)
		WAIT(100 * MS);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 502);
	uint64_t before = chained();
	while (chained() == before)
		WAIT(100 * MS);
	OUT(.f = A, .seq = 502, .ack = 1, .len = 499);
	CHECK_EQ(refs(frame), 3);
	FORGET();
	script_complete(s, true);
	for (uint32_t n = 0; s->nheld == n;)
		WAIT(100 * MS);
	OUT(.f = A, .seq = 502, .ack = 1, .len = 499); /* from the frame itself, over what is acknowledged */
	CHECK_EQ(s->held[0], frame);
	FORGET();
	CLOSE(s);
}

/* The path carries less: a segment that the device holds is cut, and its two parts go again. */
TEST(smaller_mss)
{
	struct pb_tcp_config c = config();
	uint64_t frame;
	REQUIRE(one_held(&c, false, &frame));
	struct pb_tcp_endpoint us = {s->us, s->lport}, peer = {s->peer, s->rport};
	CHECK_EQ(pb_tcp_icmp(s->e, &us, &peer, s->iss + 1, 0, 640, s->now_ns), 0);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 600);
	CHECK_EQ(refs(frame), 2);
	OUT(.f = A, .seq = 601, .ack = 1, .len = 400); /* its own frame: cut off by a copy */
	CHECK_EQ(refs(frame), 2);
	CHECK_EQ(chained(), 1);
	IN_OK(.f = A, .seq = 1, .ack = 1001);
	CHECK_EQ(owned(PB_OWN_ENGINE), 0);
	CLOSE(s);
}

/* A FIN joins the segment that is sent again. */
TEST(fin_with_it)
{
	struct pb_tcp_config c = config();
	uint64_t frame;
	REQUIRE(one_held(&c, false, &frame));
	SHUT(SHUT_WR);
	OUT(.f = F | A, .seq = 1001, .ack = 1);
	while (refs(frame) < 2)
		WAIT(100 * MS);
	OUT(.f = F | A, .seq = 1, .ack = 1, .len = 1000);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 1002);
	STATE(FIN_WAIT_2);
	CHECK_EQ(owned(PB_OWN_ENGINE), 0);
	CLOSE(s);
}

/* Abort, close, RST and destroy while the device has frames several times. */
TEST(end_while_held)
{
	uint64_t frame;
	for (int how = 0; how < 8; how++) {
		struct pb_tcp_config c = config();
		REQUIRE(one_held(&c, false, &frame));
		SEND(1001, 9000);
		while (refs(frame) < 3)
			WAIT(100 * MS);
		FORGET();
		if (how & 1)
			script_complete_one(s, 0);
		if (how >> 1 == 1)
			CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
		else if (how >> 1 == 2)
			IN_OK(.f = R, .seq = 1);
		else if (how >> 1 == 3)
			CLOSE_H();
		FORGET();
		if (how & 1)
			script_complete(s, true);
		CLOSE(s);
	}
}

/* The pool is empty: no header, so nothing goes; with a frame for it, it does. */
TEST(no_frame_for_the_header)
{
	struct pb_tcp_config c = config();
	uint64_t frame, taken[1024];
	REQUIRE(one_held(&c, false, &frame));
	uint32_t n = 0;
	while (n < 1024 && pb_pool_get(s->cache, &taken[n], 1, 0, PB_OWN_APP))
		n++;
	s->room = 4;
	for (uint64_t t; (t = pb_tcp_next_deadline(s->e)) < s->now_ns + 3 * SEC && !pb_tcp_has_output(s->e);) {
		s->now_ns = t;
		pb_tcp_expire(s->e, t);
	}
	NONE_OUT();
	CHECK_EQ(chained(), 0);
	CHECK_EQ(refs(frame), 1);
	while (n)
		pb_pool_put(s->cache, taken[--n], PB_OWN_APP);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	CHECK_EQ(chained(), 1);
	CLOSE(s);
}

/* Everything at random: what is lost, when the device gives what back, and how much room there is. */
TEST(at_random)
{
	struct pb_rng rng = test_rng();
	uint64_t chains = 0, copies = 0;
	for (int run = 0; run < 40 && !harness.bad; run++) {
		struct pb_tcp_config c = config();
		c.sack = run & 1;
		c.timestamps = run & 2;
		c.rto_min_ns = 5 * MS;
		c.rto_max_ns = 40 * MS; /* else most of the time nothing happens */
		REQUIRE(script_open_v(s, &c, run & 4, 1024));
		ACTIVE();
		s->ts = c.timestamps;
		s->hold = true;
		uint32_t at = 1, una = 1;
		for (int k = 0; k < 300 && !harness.bad; k++) {
			s->room = 1 + (int)pb_rng_below(&rng, 6);
			if (at < 60000 && !pb_rng_below(&rng, 3)) {
				uint32_t n = 1 + pb_rng_below(&rng, 3000);
				int64_t took = script_send(s, at, n);
				at += took > 0 ? (uint32_t)took : 0;
			}
			script_pull(s);
			for (; s->n; s->n--, s->head++) {
				const struct seen *o = &s->outs[s->head % OUTS];
				uint32_t seq = o->v.seq - s->iss;
				for (uint32_t i = 0; i < o->len; i++)
					CHECK(o->data[i] == tx_byte(seq + i));
				if (!pb_rng_below(&rng, 4) && seq == una)
					una += o->len;
			}
			if (!pb_rng_below(&rng, 4))
				IN_OK(.f = A, .seq = 1, .ack = una);
			for (uint32_t i = pb_rng_below(&rng, 4); i && s->nheld; i--)
				script_complete_one(s, pb_rng_below(&rng, s->nheld));
			while (s->nheld > OUTS / 2)
				script_complete_one(s, pb_rng_below(&rng, s->nheld));
			WAIT(pb_rng_below(&rng, 40) * MS);
			CHECK_EQ(owned(PB_OWN_APP), 0);
		}
		chains += chained();
		copies += copied();
		CLOSE(s);
	}
	CHECK(chains > 200);
	CHECK(copies > 0);
}

MAIN(T(timeouts_take_more_references), T(own_header_again_after_the_last), T(bound_on_references),
     T(ack_before_completion_in_every_order), T(fast_recovery), T(tail_loss_probe), T(both_fit_or_wait), T(partial_ack),
     T(smaller_mss), T(fin_with_it), T(end_while_held), T(no_frame_for_the_header), T(at_random))
