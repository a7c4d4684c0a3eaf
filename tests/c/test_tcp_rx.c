/* Receiving: order, overlaps, bounds, the window, when to acknowledge. */
#include "tcp_script.h"

static struct script script, *const s = &script;

static void eat_quickacks(uint32_t *at)
{
	for (unsigned i = 0; i < 16; i++, (*at)++)
		IN_OK(.f = A, .seq = *at, .ack = 1, .len = 1), FORGET();
	FORGET();
}

TEST(in_order_and_duplicates)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	READ_RC(-EAGAIN);
	IN_OK(.f = A | P, .seq = 1, .ack = 1, .len = 1000);
	OUT(.f = A, .seq = 1, .ack = 1001);
	IN_DROP(TCP_DUP, .f = A, .seq = 1, .ack = 1, .len = 1000);
	OUT(.f = A, .seq = 1, .ack = 1001);
	IN_DROP(TCP_DUP, .f = A, .seq = 500, .ack = 1, .len = 501);
	OUT(.f = A, .seq = 1, .ack = 1001);
	IN_OK(.f = A, .seq = 501, .ack = 1, .len = 1000); /* half of it is new */
	OUT(.f = A, .seq = 1, .ack = 1501);
	READ(1, 1500);
	READ_RC(-EAGAIN);
	IN_OK(.f = F | A, .seq = 1501, .ack = 1, .len = 10);
	READ(1501, 10);
	READ_RC(0);
	FORGET();
	CLOSE(s);
}

/* All pairs and triples of ranges in a small stream, in every order that the generator finds. */
TEST(overlaps)
{
	struct pb_rng rng = test_rng();
	for (unsigned run = 0; run < 300 && !harness.bad; run++) {
		struct pb_tcp_config c = script_config();
		c.sack = run & 1;
		c.ooo_segs = run & 2 ? 4 : 64;
		REQUIRE(script_open_v(s, &c, false, 512));
		ACTIVE();
		bool have[201] = {0};
		uint32_t next = 1, read = 1, scale = run & 4 ? 60 : 1;
		for (unsigned k = 0; k < 400 && next <= 200; k++) {
			uint32_t from = next + pb_rng_below(&rng, 30), len = 1 + pb_rng_below(&rng, 20);
			from = from > 8 ? from - pb_rng_below(&rng, 8) : from;
			if (from > 200 || k > 300)
				from = next;
			len = from + len > 201 ? 201 - from : len;
			IN(.f = A, .seq = 1 + (from - 1) * scale, .ack = 1, .len = len * scale);
			for (uint32_t i = from; i < from + len; i++)
				have[i] = true;
			struct pb_tcp_info i = script_info(s);
			uint32_t end = 1 + (uint32_t)i.bytes_received;
			CHECK_EQ((end - 1) % scale, 0);
			next = 1 + (end - 1) / scale;
			for (uint32_t j = 1; j < next && j <= 200; j++)
				CHECK(have[j]); /* nothing is acknowledged that was not sent */
			if (i.unread_bytes && pb_rng_below(&rng, 2)) {
				READ(read, i.unread_bytes);
				read += i.unread_bytes;
			}
			FORGET();
		}
		CHECK_EQ(next, 201);
		uint32_t rest = script_info(s).unread_bytes;
		if (rest)
			READ(read, rest);
		CLOSE(s);
	}
}

TEST(sack_blocks)
{
	struct pb_tcp_config c = script_config();
	c.sack = c.timestamps = true;
	REQUIRE(script_open(s, &c));
	s->ts = true;
	ACTIVE();
	static const uint32_t at[] = {1001, 3001, 5001, 7001};
	for (unsigned i = 0; i < 4; i++) {
		IN_OK(.f = A, .seq = at[i], .ack = 1, .len = 700);
		struct seen *o = NEXT();
		REQUIRE(o);
		CHECK_EQ(o->v.ack - s->irs, 1);
		CHECK_EQ(o->o.n_sack, i < 3 ? i + 1 : 3);    /* with timestamps three fit */
		CHECK_EQ(o->o.sack[0].left - s->irs, at[i]); /* RFC 2018 4: the most recent first */
		CHECK_EQ(o->o.sack[0].right - s->irs, at[i] + 700);
	}
	IN_OK(.f = A, .seq = 3701, .ack = 1, .len = 100);
	struct seen *o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->o.sack[0].left - s->irs, 3001);
	CHECK_EQ(o->o.sack[0].right - s->irs, 3801);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 1000);
	o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->v.ack - s->irs, 1701);
	READ(1, 1700);
	CLOSE(s);
}

TEST(ooo_is_bounded_and_never_renegs)
{
	struct pb_tcp_config c = script_config();
	c.sack = true;
	c.ooo_segs = 4;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	for (uint32_t i = 0; i < 4; i++)
		IN_OK(.f = A, .seq = 1001 + 1200 * i, .ack = 1, .len = 600);
	IN_DROP(TCP_OOO_LIMIT, .f = A, .seq = 1001 + 1200 * 4, .ack = 1, .len = 600);
	CHECK_EQ(script_info(s).ooo_segs, 4);
	/* One that covers another takes its place, although the store is full. */
	IN_OK(.f = A, .seq = 801, .ack = 1, .len = 1000);
	CHECK_EQ(script_info(s).ooo_segs, 4);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 800);
	FORGET();
	CHECK_EQ(script_info(s).bytes_received, 1800);
	READ(1, 1800);
	CLOSE(s);
}

/* The right edge over random traffic of an application that reads when it likes (RFC 9293 3.8.6.2.2). */
TEST(right_edge_never_moves_left)
{
	struct pb_rng rng = test_rng();
	for (unsigned run = 0; run < 40 && !harness.bad; run++) {
		struct pb_tcp_config c = script_config();
		c.rcvbuf_bytes = run & 1 ? 4096 : run & 2 ? 100000 : 1u << 20;
		c.wscale = run & 4;
		REQUIRE(script_open_v(s, &c, false, 2048));
		script_active(s, syn_opts(run & 8 ? 100 : 1460, false, run & 4 ? 2 : -1));
		struct pb_tcp_info i = script_info(s);
		uint32_t edge = 1 + i.rcv_wnd, sent = 1, read = 1;
		for (unsigned k = 0; k < 500; k++) {
			uint32_t room = edge - sent, len = 1 + pb_rng_below(&rng, 1400);
			len = len < room ? len : room;
			if (len)
				IN(.f = A, .seq = sent, .ack = 1, .len = len);
			i = script_info(s);
			sent = 1 + (uint32_t)i.bytes_received;
			if (i.unread_bytes && pb_rng_below(&rng, 3) == 0) {
				uint32_t n = 1 + pb_rng_below(&rng, i.unread_bytes);
				READ(read, n);
				read += n;
			}
			WAIT(pb_rng_below(&rng, 50) * MS);
			for (script_pull(s); s->n; s->n--) {
				const struct seen *o = &s->outs[s->head++ % OUTS];
				uint32_t e = o->v.ack - s->irs + ((uint32_t)o->v.wnd << i.rcv_wscale);
				CHECK((int32_t)(e - edge) >= 0);
				edge = e;
			}
		}
		CLOSE(s);
	}
}

TEST(sws_and_window_update)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 16384; /* 8 frames */
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint32_t at = 1;
	for (uint32_t w; (w = script_info(s).rcv_wnd) != 0;) {
		uint32_t n = w < 1460 ? w : 1460;
		IN_OK(.f = A, .seq = at, .ack = 1, .len = n);
		at += n;
		FORGET();
	}
	IN_DROP(TCP_WINDOW, .f = A, .seq = at, .ack = 1, .len = 1);
	OUT(.f = A, .seq = 1, .ack = at, .wnd = ZERO);
	/* One frame read is less than half of the buffer and less than two segments: no update. */
	READ(1, 1460);
	NONE_OUT();
	READ(1461, 1460);
	struct seen *o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->v.ack - s->irs, at);
	CHECK_EQ(o->v.wnd, 2 * 1460);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 1460);
	FORGET();
	CLOSE(s);
}

/* A peer that sends ten bytes at a time, which are all read: the right edge waits for a segment's worth, or for half of
 * the buffer (RFC 9293 3.8.6.2.2). A peer at the edge would else go on with ten bytes for ever. */
static void small_steps(bool scaled, uint32_t rcvbuf)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = rcvbuf;
	c.wscale = scaled;
	c.rcv_wscale = 1;
	REQUIRE(script_open(s, &c));
	script_active(s, syn_opts(1460, true, scaled ? 7 : -1));
	unsigned scale = script_info(s).rcv_wscale;
	CHECK_EQ(scale, scaled);
	uint32_t at = 1, edge = 0, step = 1460 < rcvbuf / 4 ? 1460 : rcvbuf / 4, steps = 0;
	for (; at < 8000; at += 10) {
		IN_OK(.f = A | P, .seq = at, .ack = 1, .len = 10);
		READ(at, 10);
		WAIT(300 * MS);
		for (script_pull(s); s->n; s->n--) {
			const struct seen *o = &s->outs[s->head++ % OUTS];
			uint32_t seen = o->v.ack - s->irs + ((uint32_t)o->v.wnd << scale);
			CHECK(!edge || seen - edge <= 1 || seen - edge >= step); /* a unit of the scale: rounded up */
			steps += edge && seen - edge >= step;
			edge = seen;
		}
	}
	CHECK(steps >= 3 && steps <= 8000 / step);
	CLOSE(s);
}

TEST(small_steps_are_saved_up)
{
	small_steps(false, 16384);
	small_steps(false, 4096);
	small_steps(true, 16384);
}

/* A closed window still takes ACKs (RFC 9293 3.10.7.4). */
TEST(ack_at_a_closed_window)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 4096;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 100);
	OUT(.f = A | P, .seq = 1, .ack = 1, .len = 100);
	uint32_t at = 1;
	for (uint32_t w; (w = script_info(s).rcv_wnd) != 0; at += w)
		IN_OK(.f = A, .seq = at, .ack = 1, .len = w = w < 1460 ? w : 1460);
	FORGET();
	IN_DROP(TCP_WINDOW, .f = A, .seq = at, .ack = 101, .len = 10, .wnd = 5000);
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	CHECK_EQ(script_info(s).snd_wnd, 5000);
	/* SHUT_RD throws it all away and opens the window. */
	FORGET();
	SHUT(SHUT_RD);
	struct seen *o = NEXT();
	CHECK(o && o->v.wnd > 0);
	CLOSE(s);
}

TEST(delayed_ack)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint32_t at = 1;
	eat_quickacks(&at);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 100);
	NONE_OUT();
	WAIT(39 * MS);
	NONE_OUT();
	WAIT(MS);
	OUT(.f = A, .seq = 1, .ack = at + 100);
	at += 100;
	/* Every second full-sized segment at once. */
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 1460);
	NONE_OUT();
	IN_OK(.f = A, .seq = at + 1460, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1, .ack = at + 2920);
	at += 2920;
	/* Payload carries it. */
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 10);
	SEND(1, 5);
	OUT(.f = A | P, .seq = 1, .ack = at + 10, .len = 5);
	WAIT(100 * MS);
	NONE_OUT();
	at += 10;
	/* Out of order, and what fills the gap: at once. */
	IN_OK(.f = A, .seq = at + 10, .ack = 6, .len = 10);
	OUT(.f = A, .seq = 6, .ack = at);
	IN_OK(.f = A, .seq = at, .ack = 6, .len = 10);
	OUT(.f = A, .seq = 6, .ack = at + 20);
	/* So is a FIN. */
	IN_OK(.f = F | A, .seq = at + 20, .ack = 6);
	OUT(.f = A, .seq = 6, .ack = at + 21);
	CLOSE(s);
}

/* RFC 9293 3.10.7.4 (MUST-58, MUST-59): a burst is worked through before anything is acknowledged, and that once: full
 * segments, of which every second would draw an ACK, and a FIN behind them. */
TEST(burst_draws_one_ack)
{
	struct pb_tcp_config c = script_config();
	struct pb_desc d[9];
	struct pb_tcp_verdict v[9];
	uint64_t addr[9];
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_pool_get(s->cache, addr, 9, 0, PB_OWN_RX), 9);
	for (uint32_t i = 0; i < 9; i++) {
		struct sg g = {.f = i < 8 ? A : F | A, .seq = 1 + i * 1460, .ack = 1, .len = i < 8 ? 1460 : 0};
		d[i] = (struct pb_desc){.addr = addr[i], .off = 64};
		d[i].len = (uint16_t)script_build(s, &g, pb_pool_data(s->pool, &d[i]));
	}
	pb_tcp_input(s->e, d, 9, s->now_ns, v);
	for (uint32_t i = 0; i < 9; i++) {
		CHECK_EQ(v[i].reason, PB_DROP_NONE);
		if (v[i].what != PB_VERDICT_TAKEN)
			pb_pool_put(s->cache, addr[i], PB_OWN_RX);
	}
	OUT(.f = A, .seq = 1, .ack = 8 * 1460 + 2);
	NONE_OUT();
	WAIT(SEC);
	NONE_OUT();
	READ(1, 8 * 1460);
	CLOSE(s);
}

/* 1-byte segments share frames; 600-byte ones do when memory is short. */
TEST(small_segments_do_not_drain_the_pool)
{
	static const uint32_t sizes[] = {1, 40, 512, 600, 900};
	for (unsigned k = 0; k < PB_ARRAY_LEN(sizes); k++) {
		struct pb_tcp_config c = script_config();
		struct pb_pool_info info;
		c.rcvbuf_bytes = 32768;
		REQUIRE(script_open(s, &c));
		ACTIVE();
		uint32_t at = 1;
		for (unsigned i = 0; i < 6000; i++) {
			uint32_t w = script_info(s).rcv_wnd, n = sizes[k] < w ? sizes[k] : w;
			if (!n)
				break;
			IN_OK(.f = A, .seq = at, .ack = 1, .len = n); /* nothing inside the window is refused */
			at += n;
			FORGET();
		}
		pb_pool_info(s->pool, &info);
		CHECK(info.own[PB_OWN_ENGINE] <= 32);
		CHECK(at > 5000);
		READ(1, at - 1);
		CLOSE(s);
	}
}

TEST(tiny_buffer_moves_data)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 4096;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint32_t at = 1;
	for (unsigned k = 0; k < 200; k++) {
		uint32_t w = script_info(s).rcv_wnd, n = w < 1460 ? w : 1460;
		CHECK(n > 0);
		IN_OK(.f = A, .seq = at, .ack = 1, .len = n);
		READ(at, n);
		at += n;
		FORGET();
	}
	CLOSE(s);
}

/* FIN out of order, with data, behind data that were lost; nothing comes after it. */
TEST(fin)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = F | A, .seq = 101, .ack = 1, .len = 100);
	OUT(.f = A, .seq = 1, .ack = 1);
	IN(.f = A, .seq = 151, .ack = 1, .len = 100); /* 50 bytes of it would lie behind the FIN */
	IN(.f = F | A, .seq = 301, .ack = 1);         /* and so would this one */
	FORGET();
	STATE(ESTABLISHED);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 100);
	OUT(.f = A, .seq = 1, .ack = 202);
	STATE(CLOSE_WAIT);
	READ(1, 200);
	READ_RC(0);
	CHECK(s->events & PB_TCP_EV_FIN);
	CLOSE(s);
}

/* A FIN before data that are stored already is a lie: it is not believed, and the stream goes on. */
TEST(fin_inside_the_stream)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 101, .ack = 1, .len = 100);
	IN(.f = F | A, .seq = 51, .ack = 1, .len = 20);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 100);
	FORGET();
	STATE(ESTABLISHED);
	IN_OK(.f = F | A, .seq = 201, .ack = 1);
	STATE(CLOSE_WAIT);
	READ(1, 200);
	READ_RC(0);
	FORGET();
	CLOSE(s);
}

TEST(shut_rd_throws_away)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 101, .ack = 1, .len = 100);
	SHUT(SHUT_RD);
	IN_OK(.f = A, .seq = 301, .ack = 1, .len = 100);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 300);
	FORGET();
	CHECK_EQ(script_info(s).unread_bytes, 0);
	CHECK_EQ(script_info(s).bytes_received, 400);
	READ_RC(0);
	CLOSE(s);
}

TEST(trimmed_at_the_window)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 4096;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint32_t w = script_info(s).rcv_wnd;
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = w - 1000);
	uint32_t left = script_info(s).rcv_wnd;
	IN_OK(.f = F | A, .seq = w - 999, .ack = 1, .len = left + 100); /* the FIN lies outside as well */
	CHECK_EQ(script_info(s).bytes_received, w - 1000 + left);
	STATE(ESTABLISHED);
	FORGET();
	CLOSE(s);
}

/* A window that the application limits to less than a segment opens all the same. */
TEST(clamp_below_the_mss)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_WINDOW_CLAMP, 1000, s->now_ns), 0);
	uint32_t at = 1, edge = 1 + script_info(s).rcv_wnd;
	uint8_t buf[2048];
	for (unsigned k = 0; k < 300; k++) {
		uint32_t n = edge - at < 1000 ? edge - at : 1000;
		IN(.f = A | P, .seq = n ? at : at - 1, .ack = 1, .len = n);
		at += n;
		while (pb_tcp_recv(s->e, s->h, buf, sizeof(buf), s->now_ns) > 0)
			;
		WAIT(50 * MS);
		script_pull(s);
		for (; s->n; s->n--) {
			const struct seen *o = &s->outs[s->head++ % OUTS];
			uint32_t e = o->v.ack - s->irs + o->v.wnd;
			edge = (int32_t)(e - edge) > 0 ? e : edge;
		}
	}
	CHECK(at > 150000); /* on and on */
	CHECK(edge - at <= 1000);
	CLOSE(s);
}

/* Small pieces beyond a gap fill the memory: what fills the gap gets a place. */
TEST(gap_is_filled_whatever_lies_beyond)
{
	struct pb_tcp_config c = script_config();
	c.sack = true;
	c.rcvbuf_bytes = 16384;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	for (uint32_t seq = 2; seq < 202; seq += 2)
		IN(.f = A, .seq = seq, .ack = 1, .len = 1), FORGET();
	CHECK(script_info(s).ooo_segs > 10);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 1);
	CHECK(script_info(s).unread_bytes >= 2);
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpExtOfoPruned], 1);
	/* What was thrown away comes again. */
	for (uint32_t seq = 1; seq < 202; seq++)
		IN(.f = A, .seq = seq, .ack = 1, .len = 1), FORGET();
	CHECK(script_info(s).unread_bytes >= 200);
	READ(1, 200);
	CLOSE(s);
}

MAIN(T(clamp_below_the_mss), T(gap_is_filled_whatever_lies_beyond), T(in_order_and_duplicates), T(overlaps),
     T(sack_blocks), T(ooo_is_bounded_and_never_renegs), T(right_edge_never_moves_left), T(sws_and_window_update),
     T(small_steps_are_saved_up), T(ack_at_a_closed_window), T(delayed_ack), T(burst_draws_one_ack),
     T(small_segments_do_not_drain_the_pool), T(tiny_buffer_moves_data), T(fin), T(fin_inside_the_stream),
     T(shut_rd_throws_away), T(trimmed_at_the_window))
