/* Addresses and ports: who is answered at all, and that an opening leaves everybody else of its port alone. */
#include "tcp_script.h"

static struct script script, *const s = &script;

/* RFC 9293 3.9.2.3 (MUST-57): discarded without an answer, with a listener for any address and with none. */
TEST(syn_to_many_is_discarded)
{
	static const uint8_t four[][4] = {{224, 0, 0, 1}, {239, 1, 2, 3}, {255, 255, 255, 255}, {0, 0, 0, 0}};
	static const uint8_t six[][16] = {{0xff, 0x02, [15] = 1}, {0xff, 0x0e, [15] = 9}};
	for (unsigned k = 0; k < 12; k++) {
		struct pb_tcp_config c = script_config();
		struct pb_tcp_endpoint any = {.port = 1000};
		unsigned i = k / 2;
		REQUIRE(script_open_v(s, &c, i >= 4, 256));
		struct pb_ip us = s->us;
		if (k & 1)
			CHECK_EQ(pb_tcp_listen(s->e, &any, 4, &s->l), 0);
		s->us = i < 4 ? pb_ip_from4(four[i]) : pb_ip_from6(six[i - 4]);
		IN_DROP(IP_DST, .f = S);
		IN_DROP(IP_DST, .f = A, .seq = 1, .ack = 1);
		NONE_OUT();
		CHECK_EQ(pb_tcp_get_stats(s->e)->conns, k & 1); /* the listener */
		s->us = us;
		IN(.f = S);
		OUT(.f = k & 1 ? S | A : R | A, .ack = 1);
		CLOSE(s);
	}
}

static void turn_to(uint16_t rport, uint32_t iss, pb_tcp_handle h)
{
	s->rport = rport;
	s->iss = iss;
	s->h = h;
}

/* RFC 9293 3.9.1.1 (MUST-41, MUST-42): a port has connections in every stage of their opening; to listen there once
 * more, and to connect from there, changes none of them. */
TEST(an_open_leaves_others_alone)
{
	struct pb_tcp_config c = script_config();
	struct pb_tcp_endpoint any = {.port = 1000};
	uint32_t iss[5];
	pb_tcp_handle h[5], special;
	REQUIRE(script_open(s, &c));
	CHECK_EQ(pb_tcp_listen(s->e, &any, 4, &s->l), 0);
	for (unsigned i = 0; i < 3; i++) { /* 0 and 1: ESTABLISHED; 2: SYN-RECEIVED */
		s->rport = (uint16_t)(3000 + i);
		IN_OK(.f = S);
		OUT(.f = S | A, .ack = 1);
		iss[i] = s->iss;
		if (i == 2)
			break;
		IN_OK(.f = A, .seq = 1, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &h[i]), 0);
	}
	s->rport = 3003; /* SYN-SENT */
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	iss[3] = s->iss;
	h[3] = s->h;

	struct pb_tcp_endpoint own = {s->us, s->lport};
	CHECK_EQ(pb_tcp_listen(s->e, &own, 4, &special), 0);
	CHECK_EQ(pb_tcp_listen(s->e, &own, 4, &special), (uint64_t)-EADDRINUSE);
	s->rport = 3000;
	CHECK_EQ(script_connect(s), (uint64_t)-EADDRINUSE);
	NONE_OUT();
	s->rport = 3004;
	CHECK_EQ(script_connect(s), 0);
	OUT(.f = S);
	iss[4] = s->iss;
	h[4] = s->h;

	CHECK_EQ(pb_tcp_accept(s->e, s->l, &s->h), (uint64_t)-EAGAIN);
	turn_to(3002, iss[2], s->h);
	IN_OK(.f = A, .seq = 1, .ack = 1);
	CHECK_EQ(pb_tcp_accept(s->e, s->l, &h[2]), 0); /* of the listener that answered its SYN */
	CHECK_EQ(pb_tcp_accept(s->e, special, &s->h), (uint64_t)-EAGAIN);
	for (unsigned i = 3; i < 5; i++) {
		turn_to((uint16_t)(3000 + i), iss[i], h[i]);
		STATE(SYN_SENT);
		IN_OK(.f = S | A, .ack = 1);
		OUT(.f = A, .seq = 1, .ack = 1);
	}
	for (unsigned i = 0; i < 5; i++) {
		turn_to((uint16_t)(3000 + i), iss[i], h[i]);
		STATE(ESTABLISHED);
		IN_OK(.f = A, .seq = 1, .ack = 1, .len = 100);
		OUT(.f = A, .seq = 1, .ack = 101);
		READ(1, 100);
		SEND(1, 50);
		OUT(.f = A | P, .seq = 1, .ack = 101, .len = 50);
	}
	NONE_OUT();
	CHECK(!(s->events & PB_TCP_EV_CLOSED));
	CLOSE(s);
}

/* RFC 9293 3.9.1.1 (MUST-45): each segment, from the SYN to the last ACK, leaves from the address that the connection
 * was opened with (OUT compares it with s->us), while another one of the same ports has another. */
TEST(local_address_is_kept)
{
	for (unsigned v6 = 0; v6 < 2; v6++) {
		struct pb_tcp_config c = script_config();
		struct pb_tcp_endpoint any = {.port = 1000};
		uint8_t a4[4] = {10, 0, 0, 9}, a6[16] = {0xfd, [15] = 9};
		REQUIRE(script_open_v(s, &c, v6, 256));
		struct pb_ip us[2] = {s->us, v6 ? pb_ip_from6(a6) : pb_ip_from4(a4)};
		uint32_t iss[2];
		pb_tcp_handle h[2];
		CHECK_EQ(script_connect(s), 0); /* active, from us[0] */
		OUT(.f = S);
		WAIT(SEC);
		OUT(.f = S);
		IN_OK(.f = S | A, .ack = 1);
		OUT(.f = A, .seq = 1, .ack = 1);
		iss[0] = s->iss;
		h[0] = s->h;
		s->us = us[1];
		CHECK_EQ(pb_tcp_listen(s->e, &any, 4, &s->l), 0); /* passive, at us[1] */
		IN_OK(.f = S);
		OUT(.f = S | A, .ack = 1);
		IN_OK(.f = A, .seq = 1, .ack = 1);
		CHECK_EQ(pb_tcp_accept(s->e, s->l, &h[1]), 0);
		iss[1] = s->iss;
		for (unsigned i = 0; i < 2; i++) {
			turn_to(2000, iss[i], h[i]);
			s->us = us[i];
			SEND(1, 100);
			OUT(.f = A | P, .seq = 1, .ack = 1, .len = 100);
			while (!s->n)
				WAIT(100 * MS);
			OUT(.f = A | P, .seq = 1, .ack = 1, .len = 100); /* again */
			IN_OK(.f = A, .seq = 1, .ack = 101);
			SHUT(SHUT_WR);
			OUT(.f = F | A, .seq = 101, .ack = 1);
			IN_OK(.f = F | A, .seq = 1, .ack = 102);
			OUT(.f = A, .seq = 102, .ack = 2);
			STATE(TIME_WAIT);
			struct pb_tcp_info info = script_info(s);
			CHECK(pb_ip_eq(&info.local.addr, &us[i]));
		}
		NONE_OUT();
		CLOSE(s);
	}
}

MAIN(T(syn_to_many_is_discarded), T(an_open_leaves_others_alone), T(local_address_is_kept))
