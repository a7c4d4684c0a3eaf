/* Loss: fast retransmit with and without SACK, the timeout, and exact windows of NewReno. MSS 1000, so that numbers can
 * be read: segment k is the bytes from 1000 k + 1. */
#include "cc/cc.h"
#include "tcp_script.h"

#define MSS 1000u
#define AT(k) (1 + MSS * (k))

static struct script script, *const s = &script;

/* Established, n segments in flight (the initial window is 10). */
static bool flight(bool sack, uint32_t n, uint32_t more)
{
	struct pb_tcp_config c = script_config();
	c.sack = sack;
	c.cc = &pb_cc_newreno;
	if (!script_open(s, &c))
		return false;
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	WAIT(10 * MS);
	IN_OK(.f = S | A, .ack = 1, .o = syn_opts(MSS, true, -1));
	OUT(.f = A, .seq = 1, .ack = 1);
	SEND(1, (n + more) * MSS);
	for (uint32_t k = 0; k < n; k++)
		OUT(.f = A, .seq = AT(k), .ack = 1, .len = MSS);
	NONE_OUT();
	WAIT(10 * MS);
	return true;
}

static void dup(uint32_t ack)
{
	IN_OK(.f = A, .seq = 1, .ack = ack);
}

static void sack(uint32_t ack, uint32_t left, uint32_t right)
{
	struct pb_tcp_opts o = {.n_sack = 1};
	o.sack[0].left = s->iss + left;
	o.sack[0].right = s->iss + right;
	IN_OK(.f = A, .seq = 1, .ack = ack, .o = o);
}

static void windows(int line, uint32_t cwnd, uint32_t ssthresh)
{
	struct pb_tcp_info i = script_info(s);
	check_eq(__FILE__, line, "cwnd", i.cwnd_bytes, cwnd);
	check_eq(__FILE__, line, "ssthresh", i.ssthresh_bytes, ssthresh);
}
#define WINDOWS(cwnd, ssthresh) windows(__LINE__, cwnd, ssthresh)

TEST(slow_start)
{
	REQUIRE(flight(false, 10, 90));
	WINDOWS(10 * MSS, UINT32_MAX);
	IN_OK(.f = A, .seq = 1, .ack = AT(1));
	WINDOWS(11 * MSS, UINT32_MAX);
	IN_OK(.f = A, .seq = 1, .ack = AT(5)); /* stretch ACKs count in full, as in Linux */
	WINDOWS(15 * MSS, UINT32_MAX);
	FORGET();
	CLOSE(s);
}

/* RFC 5681 3.2, 3042, 6582. */
TEST(newreno)
{
	REQUIRE(flight(false, 10, 20));
	dup(1);
	OUT(.f = A, .seq = AT(10), .ack = 1, .len = MSS); /* limited transmit */
	dup(1);
	OUT(.f = A, .seq = AT(11), .ack = 1, .len = MSS);
	dup(1);
	OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS); /* at once, although 9 are still in flight */
	NONE_OUT();
	WINDOWS(9 * MSS, 5 * MSS); /* 8 in the network and the retransmission; it comes down as ACKs come (RFC 6937) */
	/* 12 sent; each duplicate says that one has left. */
	for (unsigned i = 0; i < 4; i++)
		dup(1);
	NONE_OUT();
	dup(1);
	OUT(.f = A, .seq = AT(12), .ack = 1, .len = MSS);
	/* Partial ACK: the next hole at once, and one for the one that left. */
	IN_OK(.f = A, .seq = 1, .ack = AT(3));
	OUT(.f = A, .seq = AT(3), .ack = 1, .len = MSS);
	OUT(.f = A, .seq = AT(13), .ack = 1, .len = MSS);
	NONE_OUT();
	WINDOWS(5 * MSS, 5 * MSS);
	/* All that was out when it began: over. */
	IN_OK(.f = A, .seq = 1, .ack = AT(12));
	WINDOWS(5 * MSS, 5 * MSS);
	for (uint32_t k = 14; k < 17; k++)
		OUT(.f = A, .seq = AT(k), .ack = 1, .len = MSS);
	NONE_OUT();
	CHECK_EQ(script_info(s).fast_retransmits, 1);
	CHECK_EQ(script_info(s).retransmits, 2);
	/* Congestion avoidance: one MSS for a window of ACKs. */
	for (uint32_t k = 13; k < 18; k++)
		IN_OK(.f = A, .seq = 1, .ack = AT(k)), FORGET();
	WINDOWS(6 * MSS, 5 * MSS);
	CLOSE(s);
}

/* Duplicates of what an earlier episode sent twice do not start another (RFC 6582 4.1). */
TEST(no_second_episode)
{
	REQUIRE(flight(false, 10, 0));
	for (unsigned i = 0; i < 3; i++)
		dup(1);
	OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS);
	IN_OK(.f = A, .seq = 1, .ack = AT(10));
	WINDOWS(5 * MSS, 5 * MSS);
	SEND(AT(10), 5 * MSS);
	FORGET();
	for (unsigned i = 0; i < 5; i++)
		dup(AT(10));
	NONE_OUT();
	CHECK_EQ(script_info(s).fast_retransmits, 1);
	CLOSE(s);
}

TEST(what_is_no_duplicate)
{
	REQUIRE(flight(false, 10, 0));
	for (int i = 0; i < 5; i++)
		IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = WND - 1 - i); /* window updates */
	for (uint32_t i = 0; i < 5; i++)
		IN_OK(.f = A, .seq = 1 + i, .ack = 1, .len = 1, .wnd = WND - 5); /* data */
	FORGET();
	CHECK_EQ(script_info(s).dup_acks_in, 0);
	CHECK_EQ(script_info(s).retransmits, 0);
	CLOSE(s);
}

TEST(sack_scoreboard)
{
	REQUIRE(flight(true, 10, 20));
	sack(1, AT(1), AT(2));
	OUT(.f = A, .seq = AT(10), .ack = 1, .len = MSS);
	sack(1, AT(1), AT(3));
	OUT(.f = A, .seq = AT(11), .ack = 1, .len = MSS);
	sack(1, AT(1), AT(4));
	OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS);
	NONE_OUT();
	WINDOWS(9 * MSS, 5 * MSS);
	/* 4 is lost as well: sent as soon as the pipe has room, 5 to 7 are not sent again. */
	struct pb_tcp_opts o = {.n_sack = 2};
	o.sack[0].left = s->iss + AT(5);
	o.sack[0].right = s->iss + AT(8);
	o.sack[1].left = s->iss + AT(1);
	o.sack[1].right = s->iss + AT(4);
	IN_OK(.f = A, .seq = 1, .ack = 1, .o = o);
	/* pipe: 0 again, 8 to 11; 4 is gone */
	NONE_OUT();
	IN_OK(.f = A, .seq = 1, .ack = AT(4), .o = o);
	OUT(.f = A, .seq = AT(4), .ack = 1, .len = MSS);
	NONE_OUT();
	sack(AT(8), AT(9), AT(10));
	OUT(.f = A, .seq = AT(8), .ack = 1, .len = MSS); /* sent before 9, which arrived (RFC 8985) */
	OUT(.f = A, .seq = AT(12), .ack = 1, .len = MSS);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = AT(12));
	WINDOWS(5 * MSS, 5 * MSS);
	CHECK_EQ(script_info(s).retransmits, 3);
	FORGET();
	CLOSE(s);
}

/* Blocks that name what was not sent, are upside down, or lie below snd_una. */
TEST(sack_nonsense)
{
	REQUIRE(flight(true, 10, 0));
	sack(1, AT(1), AT(11));
	sack(1, AT(5), AT(2));
	sack(1, AT(3), AT(3));
	sack(AT(2), 1, AT(1));
	sack(AT(2), 1 + 0x80000000u, AT(4));
	FORGET();
	CHECK_EQ(script_info(s).retransmits, 0);
	IN_OK(.f = A, .seq = 1, .ack = AT(10));
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	CLOSE(s);
}

/* Small segments: three of them SACKed are less than 2 MSS, but three duplicates are three. */
TEST(sack_with_small_segments)
{
	REQUIRE(flight(true, 1, 0));
	IN_OK(.f = A, .seq = 1, .ack = AT(1));
	for (uint32_t k = 0; k < 8; k++) {
		SEND(AT(1) + 10 * k, 10);
		OUT(.f = A, .seq = AT(1) + 10 * k, .ack = 1, .len = 10);
	}
	/* 0 and 2 are lost. */
	for (uint32_t k = 0; k < 3; k++)
		sack(AT(1), AT(1) + 30, AT(1) + 40 + 10 * k);
	OUT(.f = A, .seq = AT(1), .ack = 1, .len = 10);
	OUT(.f = A, .seq = AT(1) + 10, .ack = 1, .len = 10); /* all that was sent before what arrived, */
	OUT(.f = A, .seq = AT(1) + 20, .ack = 1, .len = 10); /* without waiting for the timer */
	sack(AT(1) + 20, AT(1) + 30, AT(1) + 60);
	NONE_OUT();
	FORGET();
	CLOSE(s);
}

/* The retransmission is lost too: what was sent after it has arrived. */
TEST(lost_retransmission)
{
	REQUIRE(flight(true, 10, 20));
	for (uint32_t k = 2; k < 5; k++)
		sack(1, AT(1), AT(k));
	FORGET();
	CHECK_EQ(script_info(s).retransmits, 1);
	WAIT(20 * MS);
	for (uint32_t k = 5; k < 11; k++)
		sack(1, AT(1), AT(k)), FORGET();
	CHECK_EQ(script_info(s).retransmits, 1);
	WAIT(20 * MS);
	sack(1, AT(1), AT(12)); /* sent after the retransmission */
	OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS);
	CHECK_EQ(script_info(s).retransmits, 2);
	FORGET();
	CLOSE(s);
}

TEST(rto_doubles_and_resets)
{
	struct pb_tcp_info i;
	REQUIRE(flight(false, 2, 0));
	SEND(AT(2), MSS);
	FORGET();
	WAIT(199 * MS);
	NONE_OUT();
	WAIT(MS); /* SRTT and the floor of the variance */
	OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS);
	NONE_OUT(); /* the loss window is one segment */
	WINDOWS(MSS, 5 * MSS);
	uint64_t rto = 420 * MS;
	for (unsigned k = 0; k < 4; k++, rto *= 2) {
		WAIT(rto - MS);
		NONE_OUT();
		WAIT(MS);
		OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS);
		WINDOWS(MSS, 5 * MSS); /* held (RFC 5681 3.1) */
	}
	CHECK_EQ(script_info(s).timeouts, 5);
	/* Karn: this ACK may be of any of the six. No sample, and the RTO stays as it is. */
	IN_OK(.f = A, .seq = 1, .ack = AT(1));
	i = script_info(s);
	CHECK_EQ(i.srtt_us, 10000);
	CHECK_EQ(i.rto_us, rto / 1000);
	OUT(.f = A, .seq = AT(1), .ack = 1, .len = MSS);
	OUT(.f = A, .seq = AT(2), .ack = 1, .len = MSS);
	IN_OK(.f = A, .seq = 1, .ack = AT(3));
	SEND(AT(3), 10);
	FORGET();
	WAIT(10 * MS);
	IN_OK(.f = A, .seq = 1, .ack = AT(3) + 10); /* of a segment that was sent once */
	CHECK_EQ(script_info(s).rto_us, 210000);
	CLOSE(s);
}

/* With timestamps an ACK of a retransmission is unambiguous (RFC 7323 4). */
TEST(timestamps_end_the_backoff)
{
	struct pb_tcp_config c = script_config();
	c.timestamps = true;
	REQUIRE(script_open(s, &c));
	s->ts = true;
	ACTIVE();
	SEND(1, 100);
	FORGET();
	WAIT(2 * SEC);
	FORGET();
	CHECK(script_info(s).rto_us > 400000);
	WAIT(30 * MS);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 101);
	CHECK(script_info(s).rto_us < 2000000);
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	CLOSE(s);
}

TEST(gives_up)
{
	REQUIRE(flight(true, 2, 0));
	WAIT(3600 * SEC);
	CHECK_EQ(s->n, 16); /* the tail loss probe and data_retries */
	s->n = 0;
	STATE(CLOSED);
	CHECK_EQ(s->error, ETIMEDOUT);
	CHECK_EQ(script_send(s, 1, 1), (uint64_t)-ETIMEDOUT);
	CLOSE(s);
}

/* Three retransmissions without an answer: the next hop is in doubt (RFC 9293 3.8.3), also when it is a SYN's. */
TEST(doubt_at_r1)
{
	REQUIRE(flight(false, 1, 0));
	for (int i = 1; i <= 4; i++) {
		uint32_t sent = s->n;
		CHECK_EQ(!!(s->events & PB_TCP_EV_DOUBT), i > 3);
		while (s->n == sent)
			WAIT(10 * MS);
	}
	s->events = 0;
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = AT(1));
	SEND(1 + MSS, MSS);
	FORGET();
	WAIT(100 * SEC);
	CHECK(s->events & PB_TCP_EV_DOUBT);
	struct pb_tcp_endpoint peer;
	CHECK_EQ(pb_tcp_remote(s->e, s->h, &peer), 0);
	CHECK(pb_ip_eq(&peer.addr, &s->peer) && peer.port == s->rport);
	CLOSE_H();
	CHECK_EQ(pb_tcp_remote(s->e, s->h, &peer), 0); /* detached: its FIN goes somewhere too */
	CHECK_EQ(pb_tcp_remote(s->e, s->h + (1ull << 32), &peer), (uint64_t)-EBADF);
	CLOSE(s);
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_connect(s), 0);
	WAIT(6 * SEC); /* two retransmissions */
	CHECK(!(s->events & PB_TCP_EV_DOUBT));
	WAIT(2 * SEC);
	CHECK(s->events & PB_TCP_EV_DOUBT);
	FORGET();
	CLOSE(s);
}

/* So do probes of a closed window and keepalives; what a SYN-ACK doubted is settled by the handshake's last ACK. */
TEST(doubt_of_probes_and_syn_acks)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .wnd = ZERO);
	SEND(1, 100);
	while (!(s->events & PB_TCP_EV_DOUBT) && s->now_ns < 100 * SEC)
		WAIT(100 * MS);
	CHECK(s->events & PB_TCP_EV_DOUBT);
	CHECK_EQ(s->n, 3);
	FORGET();
	CLOSE(s);
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_KEEPALIVE_IDLE_NS, (int64_t)SEC, s->now_ns), 0);
	while (!(s->events & PB_TCP_EV_DOUBT) && s->now_ns < 1000 * SEC)
		WAIT(SEC);
	CHECK(s->events & PB_TCP_EV_DOUBT);
	FORGET();
	CLOSE(s);
	REQUIRE(script_open(s, &c));
	CHECK_EQ(script_listen(s, 4), 0);
	IN_OK(.f = S, .o = syn_opts(1460, true, -1));
	OUT(.f = S | A, .ack = 1);
	WAIT(20 * SEC);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), 0);
	FORGET();
	CHECK(!(s->events & PB_TCP_EV_DOUBT));
	CLOSE(s);
}

/* The receiver threw away what it had SACKed (RFC 2018 8). */
TEST(reneging)
{
	REQUIRE(flight(true, 4, 0));
	sack(1, AT(1), AT(4));
	OUT(.f = A, .seq = AT(0), .ack = 1, .len = MSS);
	IN_OK(.f = A, .seq = 1, .ack = AT(1)); /* and not AT(4) */
	NONE_OUT();
	WAIT(400 * MS);
	OUT(.f = A, .seq = AT(1), .ack = 1, .len = MSS);
	IN_OK(.f = A, .seq = 1, .ack = AT(2));
	OUT(.f = A, .seq = AT(2), .ack = 1, .len = MSS);
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = AT(4));
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	CLOSE(s);
}

TEST(fin_lost)
{
	for (unsigned data = 0; data < 2; data++) {
		REQUIRE(flight(true, 1, 0));
		IN_OK(.f = A, .seq = 1, .ack = AT(1));
		if (data)
			SEND(AT(1), 10);
		SHUT(SHUT_WR);
		OUT(.f = F | A, .seq = AT(1), .ack = 1, .len = data * 10);
		WAIT(210 * MS); /* the probe, in place of the timeout, which is later */
		OUT(.f = F | A, .seq = AT(1), .ack = 1, .len = data * 10);
		WAIT(210 * MS);
		OUT(.f = F | A, .seq = AT(1), .ack = 1, .len = data * 10);
		WAIT(420 * MS);
		OUT(.f = F | A, .seq = AT(1), .ack = 1, .len = data * 10);
		if (data) { /* the data arrived once, the FIN never */
			IN_OK(.f = A, .seq = 1, .ack = AT(1) + 10);
			WAIT(SEC);
			OUT(.f = F | A, .seq = AT(1) + 10, .ack = 1);
		}
		IN_OK(.f = A, .seq = 1, .ack = AT(1) + data * 10 + 1);
		STATE(FIN_WAIT_2);
		NONE_OUT();
		CLOSE(s);
	}
}

/* A loss probe is due, and before there is room for output an ACK starts a recovery: the head goes, and no probe. */
TEST(no_probe_that_was_due_before)
{
	struct pb_tcp_config c = script_config();
	c.sack = c.tlp = c.rack = true;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 7300), FORGET();
	while (!pb_tcp_has_output(s->e)) {
		s->now_ns = pb_tcp_next_deadline(s->e);
		pb_tcp_expire(s->e, s->now_ns);
	}
	struct sg g = {.f = A, .seq = 1, .ack = 1, .o = {.n_sack = 1}};
	g.o.sack[0].left = s->iss + 1461;
	g.o.sack[0].right = s->iss + 5841;
	uint8_t p[2048];
	script_raw(s, p, script_build(s, &g, p));
	CHECK_EQ(script_info(s).ca_state, PB_TCP_CA_RECOVERY);
	script_pull(s);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
	CHECK_EQ(pb_tcp_get_stats(s->e)->n[PB_C_TcpExtTCPLossProbes], 0);
	CLOSE(s);
}

MAIN(T(slow_start), T(newreno), T(no_second_episode), T(what_is_no_duplicate), T(sack_scoreboard), T(sack_nonsense),
     T(sack_with_small_segments), T(lost_retransmission), T(rto_doubles_and_resets), T(timestamps_end_the_backoff),
     T(gives_up), T(doubt_at_r1), T(doubt_of_probes_and_syn_acks), T(reneging), T(fin_lost),
     T(no_probe_that_was_due_before))
