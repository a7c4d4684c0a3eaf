/* The host for scripts: the lives of sockets, as an application on Linux would see them. */
#include "host_world.h"

static void server_life(bool v6)
{
	struct world world, *w = &world;
	struct pb_host_config cfg;
	uint8_t buf[4096];
	int32_t v;
	pb_host_config_default(&cfg);
	REQUIRE(world_open_as(w, &cfg, v6));
	int l = listener(w), s = accepted(w, l);
	CHECK_EQ(pb_host_recv(w->h, s, buf, 10, 0), -EAGAIN);
	CHECK_EQ(in(w, A | P, 1, 1, 300), 0);
	OUT(A, 1, 301, 0);
	CHECK_EQ(pb_host_ioctl(w->h, s, LX_SIOCINQ, &v), 0);
	CHECK_EQ(v, 300);
	CHECK_EQ(pb_host_events(w->h, s), LX_POLLIN | LX_POLLOUT);
	CHECK_EQ(pb_host_recv(w->h, s, buf, 100, 0), 100);
	CHECK_EQ(buf[0], 1);
	CHECK_EQ(pb_host_recv(w->h, s, NULL, 150, LX_MSG_TRUNC), 150);
	CHECK_EQ(pb_host_recv(w->h, s, buf, sizeof(buf), 0), 50);
	CHECK_EQ(buf[0], 251);
	CHECK_EQ(pb_host_recv(w->h, s, NULL, 0, 0), -EAGAIN);
	CHECK_EQ(pb_host_send(w->h, s, buf, 1500, 0), 1500);
	OUT(A, 1, 301, 1000);
	CHECK_EQ(pb_host_ioctl(w->h, s, LX_SIOCOUTQ, &v), 0);
	CHECK_EQ(v, 1500);
	CHECK_EQ(in(w, A, 301, 1001, 0), 0);
	OUT(A | P, 1001, 301, 500);
	CHECK_EQ(in(w, A, 301, 1501, 0), 0);
	/* The peer ends, then we do. */
	CHECK_EQ(in(w, F | A, 301, 1501, 0), 0);
	OUT(A, 1501, 302, 0);
	CHECK_EQ(pb_host_events(w->h, s), LX_POLLIN | LX_POLLOUT | LX_POLLRDHUP);
	CHECK_EQ(pb_host_recv(w->h, s, buf, 10, 0), 0);
	CHECK_EQ(pb_host_close(w->h, s), 0);
	OUT(F | A, 1501, 302, 0);
	CHECK_EQ(pb_host_recv(w->h, s, buf, 10, 0), -EBADF);
	CHECK_EQ(in(w, A, 302, 1502, 0), 0);
	SILENT();
	CHECK_EQ(pb_host_close(w->h, l), 0);
	world_close(w);
}

TEST(a_server_from_listen_to_close)
{
	server_life(false);
}

TEST(the_same_in_ipv6)
{
	server_life(true);
}

TEST(what_linux_says_of_sockets_that_are_not_connected)
{
	struct world world, *w = &world;
	uint8_t b[4];
	REQUIRE(world_open(w));
	CHECK_EQ(pb_host_socket(w->h, 5, LX_SOCK_STREAM, 0), -EAFNOSUPPORT);
	CHECK_EQ(pb_host_socket(w->h, 4, 2, 0), -ESOCKTNOSUPPORT);
	CHECK_EQ(pb_host_socket(w->h, 4, LX_SOCK_STREAM, 17), -EPROTONOSUPPORT);
	int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0);
	CHECK_EQ(pb_host_recv(w->h, s, b, 1, 0), -ENOTCONN);
	CHECK_EQ(pb_host_send(w->h, s, b, 1, 0), -EPIPE);
	CHECK_EQ(pb_host_shutdown(w->h, s, PB_TCP_SHUT_WR), -ENOTCONN);
	CHECK_EQ(pb_host_shutdown(w->h, s, 3), -EINVAL);
	CHECK_EQ(pb_host_accept(w->h, s, NULL), -EINVAL);
	CHECK_EQ(pb_host_events(w->h, s), LX_POLLOUT | LX_POLLHUP);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_MAXSEG), 536);
	CHECK_EQ(pb_host_send(w->h, 63, b, 1, 0), -EBADF);
	CHECK_EQ(pb_host_close(w->h, -1), -EBADF);
	/* A port is one socket's, unless both allow it. */
	struct pb_tcp_endpoint l = here(w);
	CHECK_EQ(pb_host_bind(w->h, s, &l), 0);
	CHECK_EQ(pb_host_bind(w->h, s, &l), -EINVAL);
	int t = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0);
	CHECK_EQ(pb_host_bind(w->h, t, &l), -EADDRINUSE);
	CHECK_EQ(set_int(w, s, LX_SOL_SOCKET, LX_SO_REUSEADDR, 1), 0);
	CHECK_EQ(set_int(w, t, LX_SOL_SOCKET, LX_SO_REUSEADDR, 1), 0);
	CHECK_EQ(pb_host_bind(w->h, t, &l), 0);
	CHECK_EQ(pb_host_listen(w->h, s, 5), 0);
	CHECK_EQ(pb_host_listen(w->h, t, 5), -EADDRINUSE);
	world_close(w);
}

TEST(a_refused_connect_tells_its_error_once)
{
	struct world world, *w = &world;
	struct pb_tcp_endpoint r, l;
	REQUIRE(world_open(w));
	int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0);
	r = (struct pb_tcp_endpoint){w->peer, w->rport};
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
	OUT(S, 0, 0, 0);
	pb_host_names(w->h, s, &l, &r);
	w->lport = l.port;
	CHECK_EQ(in(w, R | A, 0, 1, 0), 0);
	CHECK(pb_host_events(w->h, s) & LX_POLLERR);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_ERROR), ECONNREFUSED);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_ERROR), 0);
	CHECK_EQ(pb_host_connect(w->h, s, &r), -ECONNABORTED);
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
	world_close(w);
}

TEST(a_connect_that_nobody_answers_ends_by_the_knob)
{
	struct world world, *w = &world;
	struct pb_tcp_endpoint r;
	REQUIRE(world_open(w));
	CHECK_EQ(pb_host_set_knob(w->h, "tcp_syn_retries", 0, 2), 0);
	int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0), n = 0;
	r = (struct pb_tcp_endpoint){w->peer, w->rport};
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
	uint64_t start = pb_host_now(w->h);
	pb_host_advance(w->h, start + 30 * SEC);
	for (; out(w); n++)
		CHECK_EQ(w->tcp.flags & ~0xc0u, S);
	CHECK_EQ(n, 3);
	CHECK_EQ(w->time_ns - start, 3 * SEC);
	CHECK_EQ(pb_host_connect(w->h, s, &r), -ETIMEDOUT);
	CHECK_EQ(pb_host_next_ns(w->h), UINT64_MAX);
	world_close(w);
}

TEST(a_reset_is_told_once_and_then_the_end)
{
	struct world world, *w = &world;
	uint8_t b[4] = {0};
	REQUIRE(world_open(w));
	int s = connected(w);
	CHECK_EQ(in(w, R, 1, 0, 0), 0);
	CHECK(pb_host_events(w->h, s) & LX_POLLERR);
	CHECK_EQ(pb_host_recv(w->h, s, b, 4, 0), -ECONNRESET);
	CHECK_EQ(pb_host_recv(w->h, s, b, 4, 0), 0);
	CHECK_EQ(pb_host_send(w->h, s, b, 4, 0), -EPIPE);
	world_close(w);
}

TEST(half_closed_both_ways)
{
	struct world world, *w = &world;
	uint8_t b[100];
	REQUIRE(world_open(w));
	int s = connected(w);
	CHECK_EQ(pb_host_shutdown(w->h, s, PB_TCP_SHUT_WR), 0);
	OUT(F | A, 1, 1, 0);
	CHECK_EQ(pb_host_send(w->h, s, b, 4, 0), -EPIPE);
	CHECK_EQ(in(w, A, 1, 2, 0), 0);
	CHECK_EQ(pb_host_shutdown(w->h, s, PB_TCP_SHUT_RD), 0);
	CHECK_EQ(pb_host_recv(w->h, s, b, 100, 0), 0);
	/* Linux still takes what comes. */
	CHECK_EQ(in(w, A | P, 1, 2, 50), 0);
	OUT(A, 2, 51, 0);
	CHECK_EQ(pb_host_recv(w->h, s, b, 100, 0), 50);
	CHECK_EQ(pb_host_recv(w->h, s, b, 100, 0), 0);
	world_close(w);
}

TEST(linger_of_no_time_resets)
{
	struct world world, *w = &world;
	struct pb_lx_linger l = {.onoff = 1};
	REQUIRE(world_open(w));
	int s = connected(w);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_SOCKET, LX_SO_LINGER, &l, 4), -EINVAL);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_SOCKET, LX_SO_LINGER, &l, sizeof(l)), 0);
	CHECK_EQ(pb_host_close(w->h, s), 0);
	OUT(R | A, 1, 1, 0);
	SILENT();
	world_close(w);
}

TEST(a_super_segment_from_the_peer_is_cut)
{
	struct world world, *w = &world;
	static uint8_t buf[60000];
	REQUIRE(world_open(w));
	int s = accepted(w, listener(w));
	CHECK_EQ(in(w, A | P | F, 1, 1, 60000), 0);
	OUT(A, 1, 60002, 0);
	SILENT();
	CHECK_EQ(pb_host_recv(w->h, s, buf, sizeof(buf), 0), 60000);
	for (uint32_t i = 0; i < 60000; i++)
		if (buf[i] != (uint8_t)(1 + i)) {
			check_failed(__FILE__, __LINE__, "wrong byte");
			break;
		}
	CHECK_EQ(pb_host_recv(w->h, s, buf, 1, 0), 0);
	world_close(w);
}

TEST(linger_waits_for_what_was_sent)
{
	struct world world, *w = &world;
	struct pb_lx_linger l = {.onoff = 1, .seconds = 3};
	uint8_t b[10] = {0};
	for (int answered = 0; answered < 2; answered++) {
		REQUIRE(world_open(w));
		int s = connected(w);
		CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_SOCKET, LX_SO_LINGER, &l, sizeof(l)), 0);
		CHECK_EQ(pb_host_send(w->h, s, b, 10, 0), 10);
		OUT(A | P, 1, 1, 10);
		CHECK_EQ(pb_host_close(w->h, s), (uint64_t)-EAGAIN);
		OUT(F | A, 11, 1, 0);
		uint64_t end = pb_host_now(w->h) + 3 * SEC;
		if (answered) {
			CHECK_EQ(in(w, A, 1, 11, 0), 0);
			CHECK_EQ(pb_host_close(w->h, s), (uint64_t)-EAGAIN); /* the FIN is not */
			CHECK_EQ(in(w, A, 1, 12, 0), 0);
			CHECK(pb_host_now(w->h) < end);
		} else {
			pb_host_advance(w->h, end - MS);
			CHECK_EQ(pb_host_close(w->h, s), (uint64_t)-EAGAIN);
			CHECK_EQ(pb_host_next_ns(w->h), end);
			pb_host_advance(w->h, end);
		}
		CHECK_EQ(pb_host_close(w->h, s), 0);
		CHECK_EQ(pb_host_close(w->h, s), (uint64_t)-EBADF);
		while (out(w))
			CHECK_EQ(w->tcp.flags & R, 0); /* in the background it goes on */
		world_close(w);
	}
}

TEST(icmp_fails_an_open)
{
	struct world world, *w = &world;
	struct pb_tcp_endpoint r, l;
	uint8_t quote[40], p[200];
	REQUIRE(world_open(w));
	int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0);
	r = (struct pb_tcp_endpoint){w->peer, w->rport};
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
	OUT(S, 0, 0, 0);
	pb_host_names(w->h, s, &l, &r);
	pb_ip4_write(quote, &w->us, &w->peer, PB_IPPROTO_TCP, 64, 0, 1, true, PB_TCP_HLEN);
	pb_tcp_write(quote + PB_IP4_HLEN, l.port, w->rport, w->iss, 0, S, 100, 0);
	uint32_t n = pb_icmp_write_unreach(p + PB_IP4_HLEN, &w->peer, &w->us, 3, quote, sizeof(quote));
	pb_ip4_write(p, &w->peer, &w->us, PB_IPPROTO_ICMP, 64, 0, 1, false, n);
	CHECK_EQ(pb_host_input(w->h, p, PB_IP4_HLEN + n), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_ERROR), ECONNREFUSED);
	/* Not about a segment of ours. */
	pb_tcp_write(quote + PB_IP4_HLEN, l.port, w->rport, w->iss + 5, 0, S, 100, 0);
	pb_icmp_write_unreach(p + PB_IP4_HLEN, &w->peer, &w->us, 3, quote, sizeof(quote));
	CHECK_EQ(pb_host_input(w->h, p, PB_IP4_HLEN + n), PB_DROP_ICMP_BAD);
	world_close(w);
}

TEST(nothing_leaves_while_it_is_stuck)
{
	struct world world, *w = &world;
	uint8_t b[10] = {0};
	REQUIRE(world_open(w));
	int s = connected(w);
	pb_host_set_stuck(w->h, true);
	CHECK_EQ(pb_host_send(w->h, s, b, 10, 0), 10);
	SILENT();
	pb_host_set_stuck(w->h, false);
	OUT(A | P, 1, 1, 10);
	world_close(w);
}

TEST(many_packets_wait_to_be_fetched)
{
	struct world world, *w = &world;
	REQUIRE(world_open(w));
	accepted(w, listener(w));
	/* Each draws a reset: more than the outbox began with. */
	w->lport = 9;
	for (uint32_t i = 0; i < 300; i++)
		in(w, A, i, i, 0);
	for (uint32_t i = 0; i < 300; i++)
		OUT(R, i, 0, 0);
	SILENT();
	world_close(w);
}

MAIN(T(a_server_from_listen_to_close), T(the_same_in_ipv6), T(what_linux_says_of_sockets_that_are_not_connected),
     T(a_refused_connect_tells_its_error_once), T(a_connect_that_nobody_answers_ends_by_the_knob),
     T(a_reset_is_told_once_and_then_the_end), T(half_closed_both_ways), T(linger_of_no_time_resets),
     T(linger_waits_for_what_was_sent), T(a_super_segment_from_the_peer_is_cut), T(icmp_fails_an_open),
     T(nothing_leaves_while_it_is_stuck), T(many_packets_wait_to_be_fetched))
