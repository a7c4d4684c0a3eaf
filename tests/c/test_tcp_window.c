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
 * not read. Nothing that was offered is refused, the window shrinks until it has no room for one of them, from then on
 * only ACKs that were delayed move it, by less than a unit each; and it opens again. */
static void fill(uint32_t rcvbuf, uint32_t seg, uint8_t scale)
{
	struct pb_tcp_config c = script_config();
	c.wscale = true;
	c.rcvbuf_bytes = rcvbuf;
	c.rcv_wscale = scale;
	REQUIRE(script_open_v(s, &c, false, 4096));
	script_active(s, syn_opts(1460, true, 0));
	uint32_t at = 1, edge = 60000;
	unsigned most = 20480u >> script_info(s).rcv_wscale;
	for (unsigned closed = 0; closed < most && !harness.bad;) {
		if (edge - at < seg) {
			uint32_t before = edge;
			WAIT(250 * MS); /* the window's own news, or a delayed ACK */
			edge = right_edge(edge);
			/* A part of a unit, or room that there really is. */
			uint32_t unit = 1u << script_info(s).rcv_wscale, grown = edge - before;
			CHECK(grown < unit || grown >= 1460 - unit || at < 65536);
			closed += at > 65536;
		}
		uint32_t n = edge - at < seg ? edge - at : seg;
		if (!n)
			break;
		IN_OK(.f = A, .seq = at, .ack = 1, .len = n);
		at += n;
		s->now_ns += 300000;
		pb_tcp_expire(s->e, s->now_ns);
		edge = right_edge(edge);
	}
	CHECK(at > rcvbuf / 2);
	CHECK((uint64_t)script_info(s).unread_bytes == at - 1);
	CHECK(pb_pool_free_hint(s->cache) > 4096 - 7ull * rcvbuf / 4 / 2048); /* far from what would be refused */
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
#define RCVBUF 65536u

/* A stream of pieces of a unit, and what its sender knows. */
struct stream {
	uint32_t at; /* what was sent */
	uint32_t ack, edge;
	uint32_t ts;    /* of the first segment since the last ACK, 0: none */
	uint32_t parts; /* ACKs of whole units that left something out */
	uint32_t dups;  /* ACKs that said nothing new */
};

static void look(struct stream *t)
{
	for (script_pull(s); s->n; s->n--) {
		const struct seen *o = &s->outs[s->head++ % OUTS];
		uint32_t ack = o->v.ack - s->irs, edge = ack + ((uint32_t)o->v.wnd << 11);
		CHECK(ack >= t->ack && ack <= t->at + !!(o->v.flags & F));
		CHECK(edge >= t->edge);
		CHECK(t->at - ack < UNIT);
		if (ack < t->at) {
			CHECK_EQ(edge, t->edge); /* or there was no need to leave it out */
			t->parts++;
		}
		t->dups += ack == t->ack && edge == t->edge && !o->len && !o->o.n_sack;
		if (t->ts)
			CHECK_EQ(o->o.ts_ecr, t->ts);
		t->ts = 0;
		t->ack = ack;
		t->edge = edge;
	}
}

static void piece(struct stream *t)
{
	s->ts_val += s->ts;
	IN_OK(.f = A, .seq = t->at, .ack = 1, .len = PIECE);
	t->at += PIECE;
	t->ts = t->ts || !s->ts ? t->ts : s->ts_val;
	look(t);
	WAIT(MS);
	look(t);
}

static struct pb_tcp_config stream_config(void)
{
	struct pb_tcp_config c = script_config();
	c.wscale = true;
	c.rcvbuf_bytes = RCVBUF;
	c.rcv_wscale = 11;
	return c;
}

/* Pieces come, unread, until an ACK leaves something out: not before half of the buffer is full. */
static struct stream stream_until_parts(const struct pb_tcp_config *c)
{
	struct stream t = {.at = 1, .ack = 1};
	if (!script_open_v(s, c, false, 4096))
		return t;
	s->ts = c->timestamps;
	script_active(s, syn_opts(1460, c->sack, 0));
	CHECK_EQ(script_info(s).rcv_wscale, 11);
	while (!t.parts && t.at < 1000000 && !harness.bad)
		piece(&t);
	CHECK_EQ(script_info(s).unread_bytes, t.at - 1);
	CHECK(4096 - pb_pool_free_hint(s->cache) >= RCVBUF / 2 / 2048);
	/* What is there and what may come: half as much again as the buffer, in full segments. */
	uint32_t there = (4096 - pb_pool_free_hint(s->cache)) * 1460;
	CHECK(2 * (there + t.edge - t.at) >= 3u * (RCVBUF / 2048) * 1460);
	return t;
}

/* What was left out is acknowledged by the timer, at a cost of less than a unit. */
TEST(the_rest_waits_for_the_timer)
{
	for (int bsd = 0; bsd < 2; bsd++) {
		struct pb_tcp_config c = stream_config();
		c.acks = bsd ? PB_TCP_ACKS_BSD : PB_TCP_ACKS_LINUX;
		struct stream t = stream_until_parts(&c);
		while (t.ack == t.at && !harness.bad) /* the timer may have come just now */
			piece(&t);
		uint32_t edge = t.edge;
		WAIT(200 * MS);
		look(&t);
		CHECK_EQ(t.ack, t.at);
		CHECK(t.edge > edge && t.edge - edge < UNIT);
		WAIT(5000 * MS);
		NONE_OUT();
		CLOSE(s);
	}
}

/* In a stream the ACKs are of whole units, each says something new, and the window closes to what no
 * piece fits into.
 */
TEST(a_stream_is_acknowledged_in_units)
{
	struct pb_tcp_config c = stream_config();
	struct stream t = stream_until_parts(&c);
	uint32_t edge = t.edge, parts = t.parts, pieces = 0;
	for (; t.edge - t.at >= PIECE && !harness.bad; pieces++)
		piece(&t);
	CHECK(t.parts - parts > pieces / 5);
	CHECK_EQ(t.dups, 0);
	CHECK(t.edge - edge < (pieces / 40 + 2) * UNIT); /* the timer's */
	CHECK(pieces > 40);
	CLOSE(s);
}

/* A peer that measures by timestamps gets back that of the first segment since the last ACK (RFC
 * 7323 4.3), though none begins at an ACK. */
TEST(timestamps_go_on)
{
	struct pb_tcp_config c = stream_config();
	c.timestamps = true;
	struct stream t = stream_until_parts(&c);
	for (unsigned i = 0; i < 40 && !harness.bad; i++)
		piece(&t);
	CHECK(t.parts > 5);
	CLOSE(s);
}

static struct stream left_out(bool sack)
{
	struct pb_tcp_config c = stream_config();
	c.sack = sack;
	struct stream t = stream_until_parts(&c);
	while (t.ack == t.at && !harness.bad)
		piece(&t);
	NONE_OUT();
	return t;
}

static void acknowledges_all(struct stream *t)
{
	look(t);
	CHECK_EQ(t->ack, t->at);
	CLOSE(s);
}

TEST(whatever_else_is_sent_leaves_nothing_out)
{
	struct stream t = left_out(true); /* sent twice: the ACK covers what it reports */
	IN_DROP(TCP_DUP, .f = A, .seq = t.at - PIECE, .ack = 1, .len = PIECE);
	script_pull(s);
	REQUIRE(s->n == 1);
	const struct pb_tcp_opts *o = &s->outs[s->head % OUTS].o;
	CHECK_EQ(o->n_sack, 1);
	CHECK_EQ(o->sack[0].left - s->irs, t.at - PIECE);
	CHECK_EQ(o->sack[0].right - s->irs, t.at);
	acknowledges_all(&t);

	t = left_out(true); /* a gap */
	IN_OK(.f = A, .seq = t.at + 100, .ack = 1, .len = 100);
	acknowledges_all(&t);

	t = left_out(false); /* our data */
	SEND(1, 100);
	acknowledges_all(&t);

	for (int i = 0; i < 2; i++) { /* the same while an ACK of units is due: a gap behind it, data of ours */
		t = left_out(true);
		IN_OK(.f = A, .seq = t.at, .ack = 1, .len = 1400);
		IN_OK(.f = A, .seq = t.at + 1400, .ack = 1, .len = 1300);
		t.at += 2700;
		if (i)
			IN_OK(.f = A, .seq = t.at + 100, .ack = 1, .len = 100);
		else
			SEND(1, 100);
		acknowledges_all(&t);
	}

	t = left_out(false);
	IN_OK(.f = F | A, .seq = t.at, .ack = 1);
	STATE(CLOSE_WAIT);
	t.at++;
	acknowledges_all(&t);
}

/* The peer goes away: what it answers to our data is its RST at the number that we said, and that is
 * where we are. */
TEST(a_rst_is_in_order)
{
	struct stream t = left_out(false);
	SEND(1, 100);
	look(&t);
	IN(.f = R, .seq = t.ack);
	CHECK_EQ(script_info(s).error, ECONNRESET);
	CLOSE(s);
}

/* Buffers that are not half full, or whose windows fit, are acknowledged whole. */
TEST(no_parts_without_need)
{
	struct pb_tcp_config c = stream_config();
	REQUIRE(script_open_v(s, &c, false, 4096));
	struct stream t = {.at = 1, .ack = 1};
	script_active(s, syn_opts(1460, true, 0));
	for (uint32_t read = 1; t.at < 1000000 && !harness.bad;) {
		piece(&t);
		if (t.at - read > 12 * PIECE) {
			READ(read, t.at - read);
			read = t.at;
			look(&t);
		}
	}
	CHECK_EQ(t.parts, 0);
	CLOSE(s);
	/* Full segments, which take of the window what they cost. */
	c.rcv_wscale = 5;
	REQUIRE(script_open_v(s, &c, false, 4096));
	script_active(s, syn_opts(1460, true, 0));
	CHECK_EQ(script_info(s).rcv_wscale, 5);
	for (uint32_t at = 1; at < 1460 * 30; at += 1460) {
		IN_OK(.f = A, .seq = at, .ack = 1, .len = 1460);
		script_pull(s);
		REQUIRE(s->n <= 1);
		if (s->n)
			OUT(.f = A, .seq = 1, .ack = at + 1460);
		WAIT(MS);
	}
	CLOSE(s);
	c.rcv_wscale = 11;
	/* A buffer that became small, with a window from before: what is read leaves nothing out. */
	c.rcvbuf_bytes = 1 << 20;
	REQUIRE(script_open_v(s, &c, false, 4096));
	t = (struct stream){.at = 1, .ack = 1};
	script_active(s, syn_opts(1460, true, 0));
	for (int i = 0; i < 40; i++) {
		piece(&t);
		READ(t.at - PIECE, PIECE);
	}
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_RCVBUF, RCVBUF, s->now_ns), 0);
	CHECK(t.edge - t.at > 2 * RCVBUF);
	for (int i = 0; i < 100; i++) {
		piece(&t);
		READ(t.at - PIECE, PIECE);
	}
	CHECK_EQ(t.parts, 0);
	CLOSE(s);
}

#define BIG 1030u /* no frame holds two */

/* When memory is at its end one segment in 30 s is taken, so that the peer does not give up. */
TEST(one_more_now_and_then)
{
	struct pb_tcp_config c = stream_config();
	struct stream t = stream_until_parts(&c);
	unsigned why = 0;
	while (!why && t.at < 1000000) {
		why = IN(.f = A, .seq = t.at, .ack = 1, .len = BIG);
		t.at += why ? 0 : BIG;
		WAIT(200 * MS); /* each delayed ACK moves the window */
		FORGET();
	}
	CHECK_EQ(why, PB_DROP_TCP_RCVBUF);
	for (int i = 0; i < 5; i++) {
		WAIT(29000 * MS);
		IN_DROP(TCP_RCVBUF, .f = A, .seq = t.at, .ack = 1, .len = BIG);
		WAIT(1001 * MS);
		IN_OK(.f = A, .seq = t.at, .ack = 1, .len = BIG);
		t.at += BIG;
		FORGET();
	}
	CHECK_EQ(script_info(s).unread_bytes, t.at - 1);
	CLOSE(s);
}

/* A SYN-ACK that is sent again says less than an ACK in between, which is scaled; what that one offered stands. */
TEST(syn_ack_again_takes_nothing_back)
{
	struct pb_tcp_config c = script_config();
	c.wscale = true;
	c.rcvbuf_bytes = 1 << 20;
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 1), 0);
	IN_OK(.f = S, .o = syn_opts(1460, true, 7));
	OUT(.f = S | A, .ack = 1);
	IN_DROP(TCP_WINDOW, .f = A, .seq = 3000000, .ack = 1); /* is answered */
	struct seen *o = NEXT();
	REQUIRE(o && !(o->v.flags & S));
	uint32_t offered = (uint32_t)o->v.wnd << 5;
	CHECK(offered > 400000);
	WAIT(1500 * MS);
	OUT(.f = S | A, .ack = 1, .wnd = 65535);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	CHECK(script_info(s).rcv_wnd >= offered);
	CLOSE(s);
}

MAIN(T(syn_ack_again_takes_nothing_back), T(segments_below_the_unit), T(the_rest_waits_for_the_timer),
     T(a_stream_is_acknowledged_in_units), T(timestamps_go_on), T(whatever_else_is_sent_leaves_nothing_out),
     T(a_rst_is_in_order), T(no_parts_without_need), T(one_more_now_and_then))
