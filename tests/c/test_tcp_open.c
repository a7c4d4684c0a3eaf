/* Opening: active, passive, simultaneous; what is negotiated; retries; ISNs; the backlog. */
#include "tcp_script.h"

static struct script script, *const s = &script;

TEST(active)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_send(s, 1, 1), (uint64_t)-EBADF);
	CHECK_EQ(script_connect(s), 0);
	CHECK_EQ(script_connect(s), (uint64_t)-EADDRINUSE);
	CHECK_EQ(script_send(s, 1, 1), (uint64_t)-EAGAIN);
	struct seen *o = NEXT();
	REQUIRE(o);
	CHECK_EQ(o->v.flags, S);
	CHECK_EQ(o->o.mss, 1460);
	CHECK(!o->o.has_ts && !o->o.sack_ok && !o->o.has_wscale);
	s->iss = o->v.seq;
	NONE_OUT();
	IN_OK(.f = S | A, .ack = 1);
	OUT(.f = A, .seq = 1, .ack = 1);
	STATE(ESTABLISHED);
	CHECK(s->events & PB_TCP_EV_CONNECTED);
	CHECK_EQ(script_info(s).mss, 536); /* RFC 9293 3.7.1 */
	CHECK_EQ(script_info(s).snd_wnd, WND);
	CLOSE(s);
}

TEST(passive)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 4), 0);
	CHECK_EQ(script_listen(s, 4), (uint64_t)-EADDRINUSE);
	IN_OK(.f = S, .o = syn_opts(1000, false, -1));
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), (uint64_t)-EAGAIN);
	OUT(.f = S | A, .ack = 1);
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 5); /* data with the ACK of the SYN */
	OUT(.f = A, .seq = 1, .ack = 6);
	CHECK(s->events == PB_TCP_EV_ACCEPT);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	script_pull(s);
	CHECK(s->events & PB_TCP_EV_CONNECTED && s->events & PB_TCP_EV_READABLE);
	CHECK_EQ(script_info(s).mss, 1000);
	READ(1, 5);
	CLOSE(s);
}

TEST(simultaneous)
{
	struct pb_tcp_config c = script_config();
	c.wscale = true;
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	IN_OK(.f = S, .o = syn_opts(1460, false, 7));
	OUT(.f = S | A, .ack = 1); /* the same ISS */
	STATE(SYN_RCVD);
	IN_OK(.f = S | A, .ack = 1, .wnd = 1000, .o = syn_opts(1460, false, 7));
	STATE(ESTABLISHED);
	CHECK_EQ(script_info(s).snd_wnd, 1000); /* never scaled in a SYN */
	NONE_OUT();
	/* The peer did not get ours and repeats: it must be told. */
	IN(.f = S | A, .ack = 1);
	OUT(.f = A, .seq = 1, .ack = 1);
	CLOSE(s);
}

/* Every combination of what both sides offer, both ways of opening. */
TEST(options)
{
	for (unsigned k = 0; k < 256; k++) {
		struct pb_tcp_config c = script_config();
		bool peer_ts = k & 8, peer_sack = k & 16, peer_ws = k & 32, active = k & 64, mss = k & 128;
		c.timestamps = k & 1;
		c.sack = k & 2;
		c.wscale = k & 4;
		REQUIRE(script_open(s, &c));
		struct pb_tcp_opts o = syn_opts(mss ? 900 : 0, peer_sack, peer_ws ? 3 : -1);
		o.has_ts = peer_ts;
		o.ts_val = 100;
		if (active) {
			CHECK_EQ(script_connect(s), 0);
		} else {
			CHECK_EQ(script_listen(s, 1), 0);
			IN_OK(.f = S, .o = o);
		}
		struct seen *n = NEXT();
		REQUIRE(n);
		s->iss = n->v.seq;
		CHECK_EQ(n->o.mss, 1460);
		CHECK_EQ(n->o.has_ts, c.timestamps && (active || peer_ts));
		CHECK_EQ(n->o.sack_ok, c.sack && (active || peer_sack));
		CHECK_EQ(n->o.has_wscale, c.wscale && (active || peer_ws));
		CHECK(!n->o.has_wscale || n->o.wscale == 5); /* 1 MB of buffer: 65535 << 4 is too little */
		CHECK_EQ(n->o.ts_ecr, active || !n->o.has_ts ? 0 : 100);
		s->ts = c.timestamps && peer_ts;
		if (active)
			IN_OK(.f = S | A, .ack = 1, .o = o);
		else
			IN_OK(.f = A, .seq = 1, .ack = 1);
		FORGET();
		if (!active)
			CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
		struct pb_tcp_info i = script_info(s);
		CHECK_EQ(i.flags & 7, (s->ts ? 1 : 0) | (c.sack && peer_sack ? 2 : 0) | (c.wscale && peer_ws ? 4 : 0));
		CHECK_EQ(i.mss, (mss ? 900u : 536u) - (s->ts ? 12u : 0));
		CHECK_EQ(i.snd_wscale, c.wscale && peer_ws ? 3 : 0);
		CHECK_EQ(i.rcv_wscale, c.wscale && peer_ws ? 5 : 0);
		/* The window of a SYN-ACK is not scaled, that of the ACK after ours is. */
		CHECK_EQ(i.snd_wnd, WND << (!active && c.wscale && peer_ws ? 3 : 0));
		CLOSE(s);
	}
}

TEST(tiny_and_zero_mss)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	struct pb_tcp_opts o = {.has_mss = true, .mss = 0};
	script_active(s, o);
	CHECK_EQ(script_info(s).mss, 64);
	/* What the SYN offered is not taken back because the peer's segments are small. */
	CHECK(script_info(s).rcv_wnd >= 65535);
	CLOSE(s);
	REQUIRE(script_open_v(s, &c, true, 1024));
	script_active(s, (struct pb_tcp_opts){0});
	CHECK_EQ(script_info(s).mss, 1220);
	CLOSE(s);
}

TEST(syn_retries)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	uint64_t gap = SEC, first_ns = s->now_ns;
	for (uint32_t i = 0; i < c.syn_retries; i++, gap *= 2) {
		WAIT(gap - MS);
		NONE_OUT();
		WAIT(MS);
		OUT(.f = S);
	}
	WAIT((gap < c.rto_max_ns ? gap : c.rto_max_ns) - MS);
	NONE_OUT();
	STATE(SYN_SENT);
	CHECK(s->now_ns - first_ns >= 180 * SEC); /* RFC 9293 3.8.3: R2 of a SYN, MUST-23 */
	WAIT(MS);
	NONE_OUT();
	CHECK(s->events & PB_TCP_EV_CLOSED);
	CHECK_EQ(s->error, ETIMEDOUT);
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpAttemptFails], 1);
	CHECK_EQ(script_send(s, 1, 1), (uint64_t)-ETIMEDOUT);
	CLOSE_H();
	CLOSE(s);
}

TEST(synack_retries)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 1), 0);
	IN_OK(.f = S);
	OUT(.f = S | A, .ack = 1);
	IN_DROP(TCP_DUP, .f = S); /* the peer repeats */
	OUT(.f = S | A, .ack = 1);
	for (uint32_t i = 0; i < c.synack_retries; i++) {
		WAIT(SEC << i);
		OUT(.f = S | A, .ack = 1);
	}
	CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 2);
	WAIT(SEC << c.synack_retries);
	NONE_OUT();
	/* Nobody had a handle: nobody is told, and the slot and the place in the backlog are free at once. */
	CHECK_EQ(s->events, 0);
	CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 1);
	IN_OK(.f = S);
	OUT(.f = S | A, .ack = 1);
	CLOSE(s);
}

/* RFC 6298 5.7 and RFC 6928 2: what a lost SYN does to the start. */
TEST(after_lost_syns)
{
	for (uint32_t lost = 0; lost < 3; lost++) {
		struct pb_tcp_config c = script_config();
		REQUIRE(script_open(s, &c));
		CHECK_EQ(script_connect(s), 0);
		OUT(.f = S);
		for (uint32_t i = 0; i < lost; i++) {
			WAIT(SEC << i);
			OUT(.f = S);
		}
		WAIT(10 * MS);
		IN_OK(.f = S | A, .ack = 1, .o = syn_opts(1460, false, -1));
		CHECK_EQ(script_info(s).rto_us, lost ? 3000000 : 210000);
		CHECK_EQ(script_info(s).srtt_us, lost ? 0 : 10000);
		CHECK_EQ(script_info(s).cwnd_bytes, lost > 1 ? 1460 : 14600);
		CLOSE(s);
	}
}

/* RFC 6528: a clock of 4 us plus a secret per tuple. */
TEST(isn)
{
	struct pb_tcp_config c = script_config();
	uint32_t isn[4];
	REQUIRE(script_open(s, &c));
	for (unsigned i = 0; i < 4; i++) {
		s->rport = (uint16_t)(i == 3 ? 2000 : 2000 + i);
		if (i == 3)
			s->now_ns += SEC;
		CHECK_EQ(script_connect(s), 0);
		struct seen *o = NEXT();
		REQUIRE(o);
		isn[i] = o->v.seq;
		CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
		FORGET();
	}
	CHECK_EQ(isn[3] - isn[0], 250000);
	CHECK(isn[1] != isn[0] && isn[2] != isn[1] && isn[2] - isn[1] != isn[1] - isn[0]);
	CLOSE(s);
	c.secret[3] ^= 1;
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	struct seen *o = NEXT();
	CHECK(o && o->v.seq != isn[0]);
	CLOSE(s);
}

TEST(backlog)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 2), 0);
	for (unsigned i = 0; i < 2; i++) {
		s->rport = (uint16_t)(3000 + i);
		IN_OK(.f = S);
		OUT(.f = S | A, .ack = 1);
		IN_OK(.f = A, .seq = 1, .ack = 1);
	}
	s->rport = 3002;
	IN_DROP(TCP_BACKLOG, .f = S);
	NONE_OUT();
	/* The first in line is reset by its peer: its place is free, the other one is still there. */
	s->rport = 3000;
	IN_OK(.f = R, .seq = 1);
	s->rport = 3002;
	IN_OK(.f = S);
	OUT(.f = S | A, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	CHECK_EQ(script_info(s).remote.port, 3001);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	CHECK_EQ(script_info(s).remote.port, 3002);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), (uint64_t)-EAGAIN);
	CLOSE(s);
}

/* Resets from the middle, the end and the front of the accept queue. */
TEST(accept_queue_unlinks)
{
	static const uint8_t orders[4][3] = {{1, 2, 0}, {2, 1, 0}, {0, 1, 2}, {0, 2, 1}};
	for (unsigned k = 0; k < 4; k++) {
		struct pb_tcp_config c = script_config();
		uint32_t iss[3];
		REQUIRE(script_open(s, &c));
		CHECK_EQ(script_listen(s, 4), 0);
		for (unsigned i = 0; i < 3; i++) {
			s->rport = (uint16_t)(3000 + i);
			IN_OK(.f = S);
			OUT(.f = S | A, .ack = 1);
			iss[i] = s->iss;
			IN_OK(.f = A, .seq = 1, .ack = 1);
		}
		for (unsigned i = 0; i < 2; i++) {
			s->rport = (uint16_t)(3000 + orders[k][i]);
			s->iss = iss[orders[k][i]];
			IN_OK(.f = R, .seq = 1);
		}
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
		CHECK_EQ(script_info(s).remote.port, 3000 + orders[k][2]);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), (uint64_t)-EAGAIN);
		CLOSE(s);
	}
}

TEST(table_full)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 2;
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 8), 0);
	CHECK_EQ(script_connect(s), 0);
	s->rport++;
	IN_OK(.f = S);
	s->rport++;
	IN_DROP(TCP_NO_CONN, .f = S);
	CHECK_EQ(script_connect(s), (uint64_t)-ENOBUFS);
	FORGET();
	CLOSE(s);
}

TEST(refused)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	IN_DROP(TCP_RST, .f = R, .seq = 0);               /* without ACK: anybody's */
	IN_DROP(TCP_ACK, .f = R | A, .seq = 0, .ack = 9); /* of what was not sent */
	NONE_OUT();
	STATE(SYN_SENT);
	IN_OK(.f = R | A, .seq = 0, .ack = 1);
	script_pull(s);
	CHECK_EQ(s->error, ECONNREFUSED);
	STATE(CLOSED);
	CLOSE(s);
}

TEST(syn_ack_with_bad_ack)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	static const uint32_t bad[] = {0, 2, 100000, 0x80000001u};
	for (unsigned i = 0; i < PB_ARRAY_LEN(bad); i++) {
		IN_DROP(TCP_ACK, .f = S | A, .ack = bad[i]);
		OUT(.f = R, .seq = bad[i]);
		STATE(SYN_SENT);
	}
	IN_DROP(TCP_FLAGS, .f = A, .ack = 1);
	IN_OK(.f = S | A, .ack = 1);
	OUT(.f = A, .seq = 1, .ack = 1);
	CLOSE(s);
}

/* 0.0.0.0 is any address of IPv4, all zero any address at all. */
TEST(listen_any)
{
	for (unsigned k = 0; k < 4; k++) {
		struct pb_tcp_config c = script_config();
		struct pb_tcp_endpoint l = {.port = 1000};
		uint8_t zero[4] = {0};
		bool v6 = k & 1;
		REQUIRE(script_open_v(s, &c, v6, 256));
		if (k & 2)
			l.addr = pb_ip_from4(zero);
		CHECK_EQ(pb_tcp_listen(s->e, &l, 1, &s->l), 0);
		unsigned why = IN(.f = S);
		CHECK_EQ(why, k == 3 ? PB_DROP_TCP_NO_FLOW : PB_DROP_NONE);
		FORGET();
		CLOSE(s);
	}
}

TEST(bad_configurations)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	struct pb_pool_cache *cache = s->cache;
	int err;
	for (unsigned k = 0; k < 8; k++) {
		c = script_config();
		if (k == 0)
			c.keepalive_idle_ns = SEC, c.keepalive_interval_ns = 0;
		if (k == 1)
			c.rto_min_ns = 1;
		if (k == 2)
			c.rto_max_ns = 7200ull * SEC;
		if (k == 3)
			c.rcvbuf_bytes = 100;
		if (k == 4)
			c.cc = NULL;
		if (k == 5)
			c.mtu = 2000; /* no room for the headers in a frame */
		if (k == 6)
			c.max_conns = 0;
		if (k == 7)
			c.ttl = 0;
		CHECK(!pb_tcp_create(&c, cache, &err));
		CHECK_EQ(err, (uint64_t)-EINVAL);
	}
	CLOSE(s);
}

TEST(whom_not_to_open_to)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	static const uint8_t no[][4] = {{224, 0, 0, 1}, {239, 255, 255, 255}, {255, 255, 255, 255}, {0, 0, 0, 0}};
	struct pb_tcp_endpoint l = {s->us, 1000}, r = {.port = 80};
	for (unsigned i = 0; i < 4; i++) {
		r.addr = pb_ip_from4(no[i]);
		CHECK_EQ(pb_tcp_connect(s->e, &l, &r, s->now_ns, &s->h), (uint64_t)-EINVAL);
	}
	NONE_OUT();
	CLOSE(s);
}

/* What the listener was told holds for those it accepts, the retries of their SYN-ACKs too. */
TEST(listeners_hand_on)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 4), 0);
	CHECK_EQ(pb_tcp_set_option(s->e, s->l, PB_TCP_O_SYN_RETRIES, 1, s->now_ns), 0);
	CHECK_EQ(pb_tcp_set_option(s->e, s->l, PB_TCP_O_QUICKACK, 0, s->now_ns), 0);
	IN_OK(.f = S, .o = syn_opts(1460, false, -1));
	OUT(.f = S | A, .ack = 1);
	WAIT(SEC);
	OUT(.f = S | A, .ack = 1);
	WAIT(60 * SEC);
	NONE_OUT();
	CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 1); /* the listener */
	IN_OK(.f = S, .o = syn_opts(1460, false, -1));
	OUT(.f = S | A, .ack = 1);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	int64_t v;
	CHECK_EQ(pb_tcp_get_option(s->e, s->h, PB_TCP_O_QUICKACK, &v), 0);
	CHECK_EQ(v, 0);
	CLOSE(s);
}

/* Who acknowledges a SYN, or a SYN-ACK, that did not go out yet has guessed its number: SND.NXT is not beyond it
 * (RFC 9293 3.10.7.3, 3.10.7.4). */
TEST(nothing_is_acknowledged_before_it_is_sent)
{
	for (int passive = 0; passive < 2; passive++) {
		struct pb_tcp_config c = script_config();
		uint32_t iss = 0;
		for (int known = 0; known < 2; known++) { /* the same time, so the same ISN: first it is looked at */
			REQUIRE(script_open(s, &c));
			CHECK_EQ(passive ? script_listen(s, 4) : script_connect(s), 0);
			if (passive)
				IN_OK(.f = S);
			s->iss = iss;
			if (known && passive) {
				IN_DROP(TCP_ACK, .f = A, .seq = 1);
				IN_DROP(TCP_ACK, .f = A, .seq = 1, .ack = 1);
			} else if (known) {
				IN_DROP(TCP_ACK, .f = S | A);
				IN_DROP(TCP_ACK, .f = S | A, .ack = 1);
			}
			uint64_t rsts = 0;
			struct seen *o = NULL;
			for (int i = 0; i < 1 + 2 * known; i++) {
				o = NEXT();
				REQUIRE(o);
				rsts += o->v.flags == R;
				if (o->v.flags & S)
					iss = o->v.seq;
			}
			CHECK_EQ(rsts, 2 * (uint64_t)known);
			CHECK_EQ(s->iss, known ? iss : 0);
			s->iss = iss;
			IN_OK(.f = passive ? A : S | A, .seq = (uint32_t)passive, .ack = 1);
			if (passive)
				CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
			STATE(ESTABLISHED);
			CLOSE(s);
		}
	}
}

MAIN(T(nothing_is_acknowledged_before_it_is_sent), T(whom_not_to_open_to), T(listeners_hand_on), T(active), T(passive),
     T(simultaneous), T(options), T(tiny_and_zero_mss), T(syn_retries), T(synack_retries), T(after_lost_syns), T(isn),
     T(backlog), T(accept_queue_unlinks), T(table_full), T(refused), T(syn_ack_with_bad_ack), T(listen_any),
     T(bad_configurations))
