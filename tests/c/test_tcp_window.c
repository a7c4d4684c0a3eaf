/* The window that is offered, byte by byte: its right edge never moves left, whatever small segments cost. */
#include "tcp_script.h"

static struct script script, *const s = &script;

/* How far the peer may send, by what came out. */
static uint32_t right_edge(uint32_t edge)
{
	unsigned scale = script_info(s).rcv_wscale;
	for (script_pull(s); s->n; s->n--) {
		const struct seen *o = &s->outs[s->head++ % OUTS];
		uint32_t seen = o->v.ack - s->irs + ((uint32_t)o->v.wnd << scale);
		CHECK(seen >= edge);
		edge = seen;
	}
	return edge;
}

/* A peer with segments of `seg` bytes, shorter than the unit of the scale, fills the buffer of an application that does
 * not read. Nothing that was offered is refused, the window closes, and it opens again. */
static void fill(uint32_t rcvbuf, uint32_t seg, uint8_t scale)
{
	struct pb_tcp_config c = script_config();
	c.wscale = true;
	c.rcvbuf_bytes = rcvbuf;
	c.rcv_wscale = scale;
	REQUIRE(script_open_v(s, &c, false, 4096));
	script_active(s, syn_opts(1460, true, 0));
	uint32_t at = 1, edge = 60000;
	for (;;) {
		if (edge - at < seg) {
			WAIT(250 * MS); /* the window's own news, or a delayed ACK */
			edge = right_edge(edge);
		}
		uint32_t n = edge - at < seg ? edge - at : seg;
		if (!n || edge - at > 1u << 30)
			break;
		IN_OK(.f = A, .seq = at, .ack = 1, .len = n);
		at += n;
		s->now_ns += 300000;
		pb_tcp_expire(s->e, s->now_ns);
		edge = right_edge(edge);
	}
	CHECK(at > rcvbuf / 2);
	CHECK((uint64_t)script_info(s).unread_bytes == at - 1);
	CHECK(pb_pool_free_hint(s->cache) >
	      4096 - 3ull * rcvbuf / 2 / 2048 - 64); /* half as much again as the buffer */
	for (uint32_t i = 1, n; i < at; i += n) {
		n = at - i < 100000 ? at - i : 100000;
		READ(i, n);
	}
	edge = right_edge(edge);
	CHECK(edge > at + rcvbuf / 4);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = seg);
	READ(at, seg);
	FORGET();
	CLOSE(s);
}

TEST(segments_below_the_unit)
{
	fill(262144, 1460, 11);
	fill(262144, 200, 8);
	fill(1 << 20, 28, 0);
}

#define UNIT 2048u
#define PIECE 600u

struct held {
	uint32_t at;        /* what the peer sent */
	uint32_t ack, edge; /* what it knows */
};

static void look(struct held *t, const struct seen *o)
{
	uint32_t edge = o->v.ack - s->irs + ((uint32_t)o->v.wnd << 11);
	CHECK(o->v.ack - s->irs >= t->ack);
	CHECK(edge >= t->edge);
	t->ack = o->v.ack - s->irs;
	t->edge = edge;
}

/* Pieces of a unit come, unread, until the ACK says less than came. */
static struct held hold_back(bool sack, bool ts)
{
	struct pb_tcp_config c = script_config();
	c.timestamps = ts;
	c.wscale = true;
	c.sack = sack;
	c.rcvbuf_bytes = 65536;
	c.rcv_wscale = 11;
	struct held t = {.at = 1, .ack = 1};
	if (!script_open_v(s, &c, false, 4096))
		return t;
	s->ts = ts;
	script_active(s, syn_opts(1460, sack, 0));
	CHECK_EQ(script_info(s).rcv_wscale, 11);
	do {
		IN_OK(.f = A, .seq = t.at, .ack = 1, .len = PIECE);
		t.at += PIECE;
		WAIT(250 * MS);
		for (script_pull(s); s->n; s->n--)
			look(&t, &s->outs[s->head++ % OUTS]);
	} while (t.ack == t.at && t.at < 1000000 && !harness.bad);
	CHECK(script_info(s).unread_bytes == t.at - 1 && t.at > 10000);
	CHECK(t.ack < t.at && t.at - t.ack < UNIT);
	CHECK(t.edge - t.ack >= UNIT);
	return t;
}

static void again(struct held *t)
{
	IN_DROP(TCP_DUP, .f = A, .seq = t->at - PIECE, .ack = 1, .len = PIECE);
	struct seen *o = NEXT();
	if (o)
		look(t, o);
	CHECK(o && o->len == 0);
	NONE_OUT();
}

/* The peer's timer sends it again. For a while that changes nothing, and nothing says SACK; then it is acknowledged,
 * and the edge moves by what that takes. */
TEST(the_peer_insists)
{
	for (int sack = 0; sack < 2; sack++) {
		struct held t = hold_back(sack, false), before = t;
		REQUIRE(t.ack < t.at);
		for (uint64_t after = 200 * MS; after < 5000 * MS; after *= 2) {
			WAIT(after);
			NONE_OUT();
			again(&t);
			CHECK_EQ(t.ack, before.ack);
			CHECK_EQ(t.edge, before.edge);
			CHECK_EQ(s->outs[(s->head - 1) % OUTS].o.n_sack, 0);
		}
		WAIT(5000 * MS);
		again(&t);
		CHECK_EQ(t.ack, t.at);
		CHECK(t.edge - before.edge < UNIT);
		const struct pb_tcp_opts *o = &s->outs[(s->head - 1) % OUTS].o;
		CHECK_EQ(o->n_sack, sack);
		if (sack) {
			CHECK_EQ(o->sack[0].left - s->irs, t.at - PIECE);
			CHECK_EQ(o->sack[0].right - s->irs, t.at);
		}
		CLOSE(s);
	}
}

/* A peer that measures the round trip by timestamps gets back what it sent last (RFC 7323 4.3), though its segments
 * begin beyond the last ACK. */
TEST(timestamps_go_on)
{
	struct held t = hold_back(true, true);
	uint32_t edge = t.edge, held = 0;
	while (edge - t.at > PIECE && !harness.bad) {
		s->ts_val += 250;
		IN_OK(.f = A, .seq = t.at, .ack = 1, .len = PIECE);
		t.at += PIECE;
		WAIT(250 * MS);
		struct seen *o = NEXT();
		REQUIRE(o);
		look(&t, o);
		held += t.ack < t.at;
		CHECK_EQ(o->o.ts_ecr, s->ts_val);
		NONE_OUT();
	}
	CHECK(held > 3);
	CLOSE(s);
}

/* The window closes, and then all is acknowledged. */
TEST(what_comes_next_acknowledges_it)
{
	struct held t = hold_back(true, false);
	uint32_t edge = t.edge, first = t.ack;
	while (t.at < edge && !harness.bad) {
		uint32_t n = edge - t.at < PIECE ? edge - t.at : PIECE;
		unsigned why = IN(.f = A, .seq = t.at, .ack = 1, .len = n);
		CHECK_EQ(why, PB_DROP_NONE);
		t.at += why ? 0 : n;
		WAIT(250 * MS);
		for (script_pull(s); s->n; s->n--)
			look(&t, &s->outs[s->head++ % OUTS]);
		CHECK(t.at - t.ack < UNIT);
		CHECK_EQ((edge - t.ack) % UNIT, 0);
	}
	CHECK(t.ack > first);
	CHECK_EQ(t.ack, edge);
	CHECK_EQ(t.edge, edge);
	CHECK_EQ(script_info(s).rcv_wnd, 0);
	CLOSE(s);
}

TEST(reading_acknowledges_it)
{
	struct held t = hold_back(true, false);
	uint32_t edge = t.edge;
	/* Not enough to say so of the window itself. */
	for (uint32_t at = 1; !s->n && at < t.at && !harness.bad; at += PIECE) {
		NONE_OUT();
		READ(at, PIECE);
		script_pull(s);
	}
	struct seen *o = NEXT();
	REQUIRE(o);
	look(&t, o);
	CHECK_EQ(t.ack, t.at);
	CHECK(t.edge - edge < UNIT);
	CHECK(script_info(s).unread_bytes > t.at / 2);
	CLOSE(s);
}

TEST(a_fin_acknowledges_it)
{
	struct held t = hold_back(false, false);
	IN_OK(.f = F | A, .seq = t.at, .ack = 1);
	struct seen *o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->v.ack - s->irs, t.at + 1);
	look(&t, o);
	STATE(CLOSE_WAIT);
	CLOSE(s);
}

/* Data of ours says the same. */
TEST(data_holds_it_back_too)
{
	struct held t = hold_back(true, false), before = t;
	WAIT(500 * MS);
	SEND(1, 100);
	struct seen *o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->len, 100);
	look(&t, o);
	CHECK_EQ(t.ack, before.ack);
	CHECK_EQ(t.edge, before.edge);
	CLOSE(s);
}

MAIN(T(segments_below_the_unit), T(the_peer_insists), T(timestamps_go_on), T(what_comes_next_acknowledges_it),
     T(reading_acknowledges_it), T(a_fin_acknowledges_it), T(data_holds_it_back_too))
