/* Members of a group in threads of their own. */
#include "group_world.h"

/* The client and the wire run here, each member in a loop of its own that sleeps when it has nothing to do. */
static bool spin_until(int s, int who, unsigned mask)
{
	for (uint64_t until = pb_now_ns() + 20000000000u; pb_now_ns() < until;) {
		uint64_t now = pb_now_ns();
		for (int i = 0; i <= MEMBERS; i++)
			carry(i, now);
		pb_path_step(w.path[CLIENT], now);
		pb_app_progress(w.app[who]);
		if (pb_sock_poll(w.app[who], s) & mask)
			return true;
	}
	return false;
}

static uint32_t echo_all(int who, int s, pb_tcp_handle h)
{
	static uint8_t out[4096], in[65536];
	uint32_t sent = 0, got = 0;
	for (uint64_t until = pb_now_ns() + 20000000000u; got < BYTES && pb_now_ns() < until;) {
		uint64_t now = pb_now_ns();
		uint32_t n = BYTES - sent < sizeof(out) ? BYTES - sent : sizeof(out);
		for (uint32_t j = 0; j < n; j++)
			out[j] = (uint8_t)((sent + j) * 11);
		int64_t put = n ? pb_tcp_send(w.path[CLIENT]->tcp, h, out, n, 0) : 0;
		sent += put > 0 ? (uint32_t)put : 0;
		for (int i = 0; i <= MEMBERS; i++)
			carry(i, now);
		pb_path_step(w.path[CLIENT], now);
		int64_t k = pb_sock_recv(w.app[who], s, in, sizeof(in));
		for (int64_t done = 0; done < k;) {
			int64_t m = pb_sock_send(w.app[who], s, in + done, (size_t)(k - done), 0);
			done += m > 0 ? m : 0;
		}
		pb_chan_wake_loop(&w.chan[who]);
		k = pb_tcp_recv(w.path[CLIENT]->tcp, h, in, sizeof(in), now);
		for (int64_t j = 0; j < k; j++)
			if (in[j] != (uint8_t)((got + (uint32_t)j) * 11))
				return 0;
		got += k > 0 ? (uint32_t)k : 0;
	}
	return got;
}

/* ACCEPT may be of the connection before. */
static int accept_soon(int who, int listener)
{
	for (int tries = 0; tries < 1000; tries++) {
		if (!spin_until(listener, who, PB_SOCK_ACCEPT))
			return -1;
		int s = pb_sock_accept(w.app[who], listener);
		pb_chan_wake_loop(&w.chan[who]);
		if (!spin_until(s, who, PB_SOCK_CONNECTED | PB_SOCK_ERROR))
			return -1;
		if (pb_sock_poll(w.app[who], s) & PB_SOCK_CONNECTED)
			return s;
		pb_sock_close(w.app[who], s, true);
	}
	return -1;
}

static void loops(bool own_pools)
{
	struct pb_loop_config cfg = {.cpu = -1, .spin_ns = 20000};
	struct pb_loop *loop[MEMBERS];
	struct pb_tcp_endpoint l = {w.us, 80};
	int listener[MEMBERS], err;
	REQUIRE(world_open(own_pools));
	for (int i = 0; i < MEMBERS; i++) {
		listener[i] = pb_sock_listen(w.app[i], &l, 16);
		loop[i] = pb_loop_start(w.path[i], &cfg, &err);
		REQUIRE(loop[i]);
	}
	for (int i = 0; i < MEMBERS; i++)
		CHECK(spin_until(listener[i], i, PB_SOCK_CONNECTED));
	for (uint32_t i = 0; i < 4; i++) {
		int who = (int)(i % MEMBERS);
		w.fixed = who; /* the SYN; from then on in turn */
		w.now_ns = pb_now_ns();
		pb_tcp_handle h = client_connect((uint16_t)(4000 + i));
		int s = accept_soon(who, listener[who]);
		REQUIRE(s >= 0);
		w.fixed = -1;
		CHECK_EQ(echo_all(who, s, h), BYTES);
	}
	/* One after the other: what the second hands to the first, which is gone, is counted. */
	for (int i = 0; i < MEMBERS; i++) {
		pb_loop_stop(loop[i]);
		if (!i) {
			CHECK(w.path[0]->stats.stray_out > 50 && w.path[0]->stats.stray_in > 50);
			CHECK_EQ(pb_tcp_get_stats(w.path[0]->tcp)->n[PB_C_TcpOutRsts], 0);
			close_member(0);
		} else {
			CHECK_EQ(pb_tcp_get_stats(w.path[1]->tcp)->n[PB_C_TcpOutRsts], 0);
		}
	}
	world_close();
}

TEST(loops_of_one_pool)
{
	loops(false);
}

TEST(loops_of_own_pools)
{
	loops(true);
}

MAIN(T(loops_of_one_pool), T(loops_of_own_pools))
