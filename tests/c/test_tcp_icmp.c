/* ICMP errors about our segments: what they may do (RFC 1191, 5461) and what they may not (RFC 5927). */
#include "tcp_script.h"

static struct script script, *const s = &script;

static int icmp(uint32_t seq, int err, uint32_t mtu)
{
	struct pb_tcp_endpoint l = {s->us, s->lport}, r = {s->peer, s->rport};
	int rc = pb_tcp_icmp(s->e, &l, &r, s->iss + seq, err, mtu, s->now_ns);
	script_ok(s, __FILE__, __LINE__);
	return rc;
}

TEST(unreachable_while_opening)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(icmp(0, EHOSTUNREACH, 0), (uint64_t)-ENOENT);
	script_to(s, PB_TCP_SYN_SENT);
	CHECK_EQ(icmp(1, EHOSTUNREACH, 0), (uint64_t)-EINVAL);
	CHECK_EQ(icmp(0xffffffffu, EHOSTUNREACH, 0), (uint64_t)-EINVAL);
	STATE(SYN_SENT);
	CHECK_EQ(icmp(0, EHOSTUNREACH, 0), 0);
	script_pull(s);
	STATE(CLOSED);
	CHECK_EQ(s->error, EHOSTUNREACH);
	CLOSE(s);
}

TEST(unreachable_later_is_soft)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(icmp(1, ECONNREFUSED, 0), (uint64_t)-EINVAL); /* nothing in flight */
	SEND(1, 100);
	FORGET();
	CHECK_EQ(icmp(0, ECONNREFUSED, 0), (uint64_t)-EINVAL);
	CHECK_EQ(icmp(101, ECONNREFUSED, 0), (uint64_t)-EINVAL);
	CHECK_EQ(script_info(s).soft_error, 0);
	CHECK_EQ(icmp(1, ECONNREFUSED, 0), 0);
	STATE(ESTABLISHED);
	CHECK_EQ(script_info(s).soft_error, ECONNREFUSED);
	CHECK_EQ(icmp(1, EMSGSIZE, 9000), 0); /* more than we ever send: no error of anything */
	CHECK_EQ(script_info(s).soft_error, ECONNREFUSED);
	NONE_OUT();
	CLOSE(s);
}

TEST(too_big)
{
	struct pb_tcp_config c = script_config();
	c.sack = true;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 2920 + 100);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 2921, .ack = 1, .len = 100);
	uint32_t cwnd = script_info(s).cwnd_bytes;
	CHECK_EQ(icmp(5000, 0, 1000), (uint64_t)-EINVAL); /* not in flight: somebody guesses */
	CHECK_EQ(icmp(1, 0, 1500), 0);                    /* not smaller: nothing */
	CHECK_EQ(script_info(s).mss, 1460);
	CHECK_EQ(icmp(1, 0, 1000), 0);
	CHECK_EQ(script_info(s).mss, 960);
	/* What was too big is sent again in pieces; the small one is not. */
	OUT(.f = A, .seq = 1, .ack = 1, .len = 960);
	OUT(.f = A, .seq = 961, .ack = 1, .len = 500);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 960);
	OUT(.f = A, .seq = 2421, .ack = 1, .len = 500);
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = 961);
	/* No sign of congestion (RFC 1191 6.3). */
	CHECK(script_info(s).cwnd_bytes >= cwnd);
	CHECK_EQ(script_info(s).fast_retransmits, 0);
	IN_OK(.f = A, .seq = 1, .ack = 3021);
	SEND(3021, 1920);
	OUT(.f = A, .seq = 3021, .ack = 1, .len = 960);
	OUT(.f = A, .seq = 3981, .ack = 1, .len = 960);
	CLOSE(s);
}

/* Not below what every link must carry: else somebody on the path makes us send crumbs. */
TEST(too_small)
{
	for (int v6 = 0; v6 < 2; v6++) {
		struct pb_tcp_config c = script_config();
		REQUIRE(script_open_v(s, &c, v6, 256));
		ACTIVE();
		SEND(1, 1000);
		FORGET();
		CHECK_EQ(icmp(1, 0, 68), 0);
		CHECK_EQ(script_info(s).mss, v6 ? 1280 - 60 : 576 - 40);
		FORGET();
		IN_OK(.f = A, .seq = 1, .ack = 1001);
		CHECK_EQ(script_info(s).inflight_bytes, 0);
		CLOSE(s);
	}
}

/* One more connection, from another port or to another peer; what is of the old one is kept. */
struct kept {
	pb_tcp_handle h;
	uint32_t iss;
	uint16_t lport;
	struct pb_ip peer;
};

static struct kept keep(void)
{
	return (struct kept){s->h, s->iss, s->lport, s->peer};
}

static void turn_to(const struct kept *k)
{
	s->h = k->h;
	s->iss = k->iss;
	s->lport = k->lport;
	s->peer = k->peer;
}

/* A path is a matter of the destination: all connections to it, and no others, learn of it from one message. */
TEST(too_big_for_all_to_that_destination)
{
	struct pb_tcp_config c = script_config();
	uint8_t far[4] = {10, 0, 0, 3};
	REQUIRE(script_open(s, &c));
	ACTIVE();
	struct kept quoted = keep();
	s->lport++;
	ACTIVE();
	struct kept same = keep();
	s->lport++;
	s->peer = pb_ip_from4(far);
	ACTIVE();
	struct kept other = keep();
	SEND(1, 1460);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	turn_to(&same);
	SEND(1, 1460 + 100);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	OUT(.f = A, .seq = 1461, .ack = 1, .len = 100);
	turn_to(&quoted);
	SEND(1, 1000);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	CHECK_EQ(icmp(1, 0, 1200), 0);
	CHECK_EQ(script_info(s).mss, 1160);
	turn_to(&same);
	CHECK_EQ(script_info(s).mss, 1160);
	/* What it had under way was as much too big; what was not stays. */
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1160);
	OUT(.f = A, .seq = 1161, .ack = 1, .len = 300);
	NONE_OUT();
	turn_to(&other);
	CHECK_EQ(script_info(s).mss, 1460);
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_PmtuUpdates], 1);
	CLOSE(s);
}

/* More connections than are gone through at once: the others with the next outputs, which are asked for. */
TEST(too_big_for_thousands)
{
	struct pb_tcp_config c = script_config();
	c.max_conns = 8192;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	struct kept quoted = keep();
	for (int i = 0; i < 6000; i++) {
		s->lport++;
		CHECK_EQ(script_connect(s), 0);
		FORGET();
	}
	s->lport++;
	ACTIVE();
	struct kept last = keep();
	turn_to(&quoted);
	SEND(1, 1000);
	FORGET();
	CHECK(!pb_tcp_has_output(s->e));
	CHECK_EQ(icmp(1, 0, 1200), 0);
	turn_to(&last);
	CHECK_EQ(script_info(s).mss, 1460);
	for (int i = 0; pb_tcp_has_output(s->e); i++) {
		REQUIRE(i < 10);
		script_pull(s);
	}
	CHECK_EQ(script_info(s).mss, 1160);
	/* The same again is no news. */
	turn_to(&quoted);
	CHECK_EQ(icmp(1, 0, 1200), 0);
	CHECK(!pb_tcp_has_output(s->e));
	CLOSE(s);
}

MAIN(T(unreachable_while_opening), T(unreachable_later_is_soft), T(too_big), T(too_small),
     T(too_big_for_all_to_that_destination), T(too_big_for_thousands))
