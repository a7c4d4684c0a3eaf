/* Counters and trace records, where the packet scripts cannot see them: what a closed window drops, ACKs that a rate
 * limit holds back, the record of entering Loss. */
#include "tcp_script.h"

static struct script script, *const s = &script;

#define N(name) (pb_tcp_get_stats(s->e)->n[PB_C_##name])

/* A window that is full; Linux counts what ends beyond it, and at a closed window what would be next in order only when
 * the reader has taken everything. */
TEST(closed_window)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 4 * 2048;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint32_t seq = 1;
	struct pb_desc d[8];
	while (script_info(s).rcv_wnd && seq < 100000) {
		uint32_t wnd = script_info(s).rcv_wnd, len = wnd < 1400 ? wnd : 1400;
		IN_OK(.f = A, .seq = seq, .ack = 1, .len = len);
		FORGET();
		seq += len;
	}
	CHECK_EQ(script_info(s).rcv_wnd, 0);
	CHECK_EQ(N(TcpExtTCPToZeroWindowAdv), 1);
	IN_DROP(TCP_WINDOW, .f = A, .seq = seq, .ack = 1, .len = 1), FORGET();
	IN_DROP(TCP_WINDOW, .f = A, .seq = seq + 500, .ack = 1), FORGET();
	CHECK_EQ(N(TcpExtBeyondWindow), 2);
	CHECK_EQ(N(TcpExtTCPZeroWindowDrop), 0);
	/* An old segment is none of those. */
	IN_DROP(TCP_DUP, .f = A, .seq = 1, .ack = 1, .len = 1), FORGET();
	CHECK_EQ(N(TcpExtBeyondWindow), 2);
	/* Frames that the application holds keep the window closed, with nothing left to read. */
	int n = pb_tcp_recv_frames(s->e, s->h, d, 8);
	REQUIRE(n > 0 && !script_info(s).unread_bytes);
	CHECK_EQ(script_info(s).rcv_wnd, 0);
	IN_DROP(TCP_WINDOW, .f = A, .seq = seq, .ack = 1, .len = 1), FORGET();
	CHECK_EQ(N(TcpExtTCPZeroWindowDrop), 1);
	CHECK_EQ(N(TcpExtBeyondWindow), 2);
	for (int i = 0; i < n; i++)
		pb_pool_put(s->cache, pb_pool_frame(s->pool, d[i].addr), PB_OWN_APP);
	CHECK_EQ(pb_tcp_consumed(s->e, s->h, (uint32_t)n), 0);
	CLOSE(s);
}

TEST(skipped_acks)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	for (unsigned i = 0; i < 3; i++)
		IN_DROP(TCP_WINDOW, .f = A, .seq = 1000000, .ack = 1), FORGET();
	CHECK_EQ(N(TcpExtTCPACKSkippedSeq), 2);
	for (unsigned i = 0; i < 3; i++)
		IN_DROP(TCP_ACK, .f = A, .seq = 1, .ack = 100000), FORGET();
	CHECK_EQ(N(TcpExtTCPACKSkippedChallenge), 2);
	CHECK_EQ(N(TcpExtTCPChallengeACK), 1);
	CHECK_EQ(N(TcpExtTCPACKSkippedPAWS) + N(TcpExtTCPACKSkippedTimeWait) + N(TcpExtTCPACKSkippedSynRecv), 0);
	CLOSE_H();
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN_OK(.f = F | A, .seq = 1, .ack = 2), FORGET();
	WAIT(SEC);
	for (unsigned i = 0; i < 3; i++)
		IN_DROP(TCP_WINDOW, .f = A, .seq = 1000000, .ack = 2), FORGET();
	CHECK_EQ(N(TcpExtTCPACKSkippedTimeWait), 2);
	CHECK_EQ(N(TcpExtTCPACKSkippedSeq), 2);
	CLOSE(s);
}

/* Of old timestamps, and of segments from outside while a handshake lasts. */
TEST(skipped_acks_of_paws_and_of_a_handshake)
{
	struct pb_tcp_config c = script_config();
	c.timestamps = true;
	REQUIRE(script_open(s, &c));
	s->ts = true;
	s->ts_val = 1000;
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 10), FORGET();
	s->ts_val = 500;
	for (unsigned i = 0; i < 3; i++)
		IN_DROP(TCP_PAWS, .f = A, .seq = 11, .ack = 1), FORGET();
	CHECK_EQ(N(TcpExtTCPACKSkippedPAWS), 2);
	CHECK_EQ(N(TcpExtPAWSEstab), 3);
	CHECK_EQ(N(TcpExtTCPACKSkippedSynRecv), 0);
	CLOSE(s);

	c = script_config();
	REQUIRE(script_open(s, &c));
	script_to(s, PB_TCP_SYN_RCVD);
	for (unsigned i = 0; i < 3; i++)
		IN_DROP(TCP_WINDOW, .f = A, .seq = 1000000, .ack = 1), FORGET();
	CHECK_EQ(N(TcpExtTCPACKSkippedSynRecv), 2);
	CHECK_EQ(N(TcpExtTCPACKSkippedSeq), 0);
	CLOSE(s);
}

/* Data for an application that has closed, before our FIN is acknowledged. */
TEST(abort_on_data)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	CLOSE_H();
	OUT(.f = F | A, .seq = 1, .ack = 1);
	IN(.f = A, .seq = 1, .ack = 1, .len = 10), FORGET();
	CHECK_EQ(N(TcpExtTCPAbortOnData), 1);
	CHECK_EQ(N(TcpEstabResets), 0); /* it was in FIN-WAIT-1 */
	CLOSE(s);
}

/* A timeout enters Loss once, however often the timer fires until an ACK comes. */
TEST(enter_loss_is_traced)
{
	struct pb_tcp_config c = script_config();
	c.trace_records = 64;
	c.tlp = false;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	SEND(1, 100);
	FORGET();
	for (unsigned i = 0; i < 3; i++)
		WAIT(4 * SEC), FORGET();
	struct pb_tcp_trace t[64];
	uint64_t lost;
	unsigned rtos = 0, entered = 0;
	int n = pb_tcp_trace_read(s->e, t, 64, &lost);
	for (int i = 0; i < n; i++) {
		rtos += t[i].event == PB_TCP_T_RTO;
		if (t[i].event != PB_TCP_T_ENTER_LOSS)
			continue;
		entered++;
		CHECK(i > 0 && t[i - 1].event == PB_TCP_T_RTO && t[i - 1].time_ns == t[i].time_ns);
		CHECK_EQ(t[i].ca_state, PB_TCP_CA_LOSS);
	}
	CHECK_EQ(lost, 0);
	CHECK(rtos >= 2);
	CHECK_EQ(entered, 1);
	CHECK_EQ(N(TcpExtTCPTimeouts), rtos);
	CLOSE(s);
}

MAIN(T(closed_window), T(skipped_acks), T(skipped_acks_of_paws_and_of_a_handshake), T(abort_on_data),
     T(enter_loss_is_traced))
