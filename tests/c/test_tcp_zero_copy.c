/* Frames in and out without a copy: who owns them, and what happens while the device holds them. */
#include "tcp_script.h"

static struct script script, *const s = &script;

/* n frames of `len` bytes; the payload starts at HEADROOM + k. */
static int send_frames(uint32_t at, uint32_t n, uint16_t len, unsigned k)
{
	struct pb_desc d[16] = {0};
	uint32_t sums[16] = {0};
	uint64_t addr;
	for (uint32_t i = 0; i < n; i++) {
		if (!pb_pool_get(s->cache, &addr, 1, 0, PB_OWN_APP))
			return -1;
		d[i] = (struct pb_desc){.addr = addr, .off = (uint16_t)(PB_TCP_HEADROOM + k), .len = len};
		uint8_t *p = pb_pool_data(s->pool, &d[i]);
		for (uint32_t j = 0; j < len; j++)
			p[j] = tx_byte(at + i * len + j);
		sums[i] = pb_csum_partial(p, len, 0);
	}
	int rc = pb_tcp_send_frames(s->e, s->h, d, sums, (int)n);
	for (int i = rc < 0 ? 0 : rc; i < (int)n; i++)
		pb_pool_put(s->cache, d[i].addr, PB_OWN_APP);
	script_ok(s, __FILE__, __LINE__);
	return rc;
}

TEST(sent_from_their_own_frames)
{
	struct pb_tcp_config c = script_config();
	for (unsigned k = 0; k < 3; k++) {
		REQUIRE(script_open(s, &c));
		CHECK_EQ(send_frames(1, 1, 100, 0), (uint64_t)-EBADF);
		ACTIVE();
		CHECK_EQ(send_frames(1, 3, 1460, k), 3);
		for (uint32_t i = 0; i < 3; i++)
			OUT(.f = A, .seq = 1 + 1460 * i, .ack = 1, .len = 1460);
		IN_OK(.f = A, .seq = 1, .ack = 4381);
		/* Longer than a segment: split; shorter: joined. */
		CHECK_EQ(send_frames(4381, 1, 1700, k), 1);
		OUT(.f = A, .seq = 4381, .ack = 1, .len = 1460);
		OUT(.f = A, .seq = 5841, .ack = 1, .len = 240);
		CHECK_EQ(send_frames(6081, 4, 301, k), 4);
		OUT(.f = A, .seq = 6081, .ack = 1, .len = 1204);
		CLOSE(s);
	}
}

TEST(refused_frames)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint64_t addr;
	uint32_t sum = 0;
	REQUIRE(pb_pool_get(s->cache, &addr, 1, 0, PB_OWN_APP));
	struct pb_desc bad[] = {{.addr = addr, .off = PB_TCP_HEADROOM - 1, .len = 10},
				{.addr = addr, .off = PB_TCP_HEADROOM, .len = 0},
				{.addr = addr, .off = 2000, .len = 49}};
	for (unsigned i = 0; i < PB_ARRAY_LEN(bad); i++)
		CHECK_EQ(pb_tcp_send_frames(s->e, s->h, &bad[i], &sum, 1), (uint64_t)-EINVAL);
	SHUT(SHUT_WR);
	CHECK_EQ(pb_tcp_send_frames(s->e, s->h, bad, &sum, 1), (uint64_t)-EPIPE);
	pb_pool_put(s->cache, addr, PB_OWN_APP);
	FORGET();
	CLOSE(s);
}

/* The device still holds the frame: the retransmission is a copy, and the original stays as it is until it is back. */
TEST(retransmission_copies)
{
	struct pb_tcp_config c = script_config();
	for (int back = 0; back < 2; back++) {
		REQUIRE(script_open(s, &c));
		ACTIVE();
		s->hold = true;
		CHECK_EQ(send_frames(1, 2, 1000, 0), 2);
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
		OUT(.f = A, .seq = 1001, .ack = 1, .len = 1000);
		CHECK_EQ(s->nheld, 2);
		uint64_t first = s->held[0];
		if (back)
			script_complete(s, true);
		WAIT(SEC);
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
		FORGET();
		REQUIRE(s->nheld >= 1);
		CHECK_EQ(s->held[back ? 0 : 2] == first, back);
		IN_OK(.f = A, .seq = 1, .ack = 2001);
		struct pb_pool_info info;
		pb_pool_info(s->pool, &info);
		CHECK_EQ(info.own[PB_OWN_TX], s->nheld); /* acknowledged, and not free before the device is done */
		CHECK_EQ(info.own[PB_OWN_ENGINE], 0);
		script_complete(s, true);
		pb_pool_info(s->pool, &info);
		CHECK_EQ(info.own[PB_OWN_FREE], info.frames);
		CLOSE(s);
	}
}

/* A partial ACK of a frame that the device holds: its rest goes as a copy with the right bytes. */
TEST(partial_ack_of_a_held_frame)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	ACTIVE();
	s->hold = true;
	CHECK_EQ(send_frames(1, 1, 1001, 1), 1);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1001);
	IN_OK(.f = A, .seq = 1, .ack = 502);
	WAIT(3 * SEC);
	OUT(.f = A, .seq = 502, .ack = 1, .len = 500);
	FORGET();
	script_complete(s, false);
	WAIT(30 * SEC);
	OUT(.f = A, .seq = 502, .ack = 1, .len = 500); /* from the frame itself now */
	FORGET();
	CLOSE(s);
}

/* Abort, close and destroy while the device holds everything. */
TEST(end_with_frames_in_the_device)
{
	struct pb_tcp_config c = script_config();
	for (int k = 0; k < 3; k++) {
		REQUIRE(script_open(s, &c));
		ACTIVE();
		s->hold = true;
		CHECK_EQ(send_frames(1, 8, 1000, 0), 8);
		SEND(8001, 20000);
		FORGET();
		if (k == 1)
			CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
		if (k == 2)
			IN_OK(.f = R, .seq = 1);
		FORGET();
		CLOSE(s);
	}
}

TEST(received_frames)
{
	struct pb_tcp_config c = script_config();
	c.rcvbuf_bytes = 32768;
	REQUIRE(script_open(s, &c));
	struct pb_desc d[16];
	CHECK_EQ(pb_tcp_recv_frames(s->e, s->h, d, 16), (uint64_t)-EBADF);
	ACTIVE();
	CHECK_EQ(pb_tcp_recv_frames(s->e, s->h, d, 16), 0);
	uint32_t at = 1, before = script_info(s).rcv_wnd;
	for (unsigned i = 0; i < 10; i++, at += 1400)
		IN_OK(.f = A, .seq = at, .ack = 1, .len = 1400);
	FORGET();
	CHECK_EQ(pb_tcp_recv_frames(s->e, s->h, d, 16), 10);
	for (uint32_t i = 0; i < 10; i++) {
		CHECK_EQ(d[i].len, 1400);
		CHECK_EQ(pb_pool_data(s->pool, &d[i])[7], rx_byte(1 + 1400 * i + 7));
	}
	script_ok(s, __FILE__, __LINE__);
	/* Held frames count against the window until they are told to be consumed. */
	CHECK_EQ(script_info(s).rcv_wnd, before - 14000);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 10);
	CHECK_EQ(pb_tcp_consumed(s->e, s->h, 11), (uint64_t)-EINVAL); /* one is not the application's */
	for (unsigned i = 0; i < 10; i++)
		pb_pool_put(s->cache, d[i].addr, PB_OWN_APP);
	CHECK_EQ(pb_tcp_consumed(s->e, s->h, 10), 0);
	script_ok(s, __FILE__, __LINE__);
	struct seen *o = NEXT();
	CHECK(o && o->v.wnd > before - 14010);
	READ(at, 10);
	IN_OK(.f = F | A, .seq = at + 10, .ack = 1);
	CHECK_EQ(pb_tcp_recv_frames(s->e, s->h, d, 16), 0);
	FORGET();
	CLOSE(s);
}

/* What is handed up now, from *read on. */
static uint32_t hand_up(struct pb_desc *d, uint32_t *read)
{
	int k = pb_tcp_recv_frames(s->e, s->h, d, 64);
	CHECK(k >= 0);
	for (int i = 0; i < k; *read += d[i++].len)
		CHECK_EQ(pb_pool_data(s->pool, &d[i])[0], rx_byte(*read));
	return k > 0 ? (uint32_t)k : 0;
}

static void give_back(const struct pb_desc *d, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		pb_pool_put(s->cache, d[i].addr, PB_OWN_APP);
	s->events = 0;
	CHECK_EQ(pb_tcp_consumed(s->e, s->h, n), 0);
	script_pull(s);
}

/* When the application has frames for three quarters of the buffer, small segments share one before it is handed up. It
 * is told of that one when there is room. */
TEST(small_segments_of_who_does_not_read_share_frames)
{
	for (int end = 0; end < 3; end++) {
		struct pb_tcp_config c = script_config();
		struct pb_desc d[256];
		c.rcvbuf_bytes = 65536; /* 32 frames */
		REQUIRE(script_open(s, &c));
		ACTIVE();
		uint32_t at = 1, read = 1, n = 0;
		for (; at < 1 + 305 * 100; at += 100) { /* with a frame for each it would be ten times the buffer */
			IN_OK(.f = A, .seq = at, .ack = 1, .len = 100);
			FORGET();
			n += hand_up(d + n, &read);
		}
		CHECK(n >= 24 && n < 24 + 281 / 12);
		CHECK(read < at && at - read < 2048); /* one is kept back */
		if (end == 1) {                       /* the end of the stream: all of it */
			IN_OK(.f = F | A, .seq = at, .ack = 1);
			FORGET();
			CHECK(s->events & PB_TCP_EV_FIN);
		} else if (end == 2) {
			IN_OK(.f = R, .seq = at);
			FORGET();
			CHECK_EQ(s->error, ECONNRESET);
		} else {
			give_back(d, n - 24);
			CHECK(!(s->events & PB_TCP_EV_READABLE));
			CHECK_EQ(hand_up(d + n, &read), 0);
			give_back(d + n - 24, 1);
			CHECK(s->events & PB_TCP_EV_READABLE);
		}
		uint32_t last = hand_up(d + n, &read);
		CHECK_EQ(last, 1);
		CHECK_EQ(read, at);
		uint32_t had = end ? n + last : 23 + last;
		give_back(d + n + last - had, had);
		CHECK(!(s->events & PB_TCP_EV_READABLE)); /* nothing is left */
		CLOSE(s);
	}
}

/* Who keeps what may be kept for long gets what comes next, in the smallest buffer too. */
TEST(what_may_be_kept_keeps_nothing_back)
{
	for (uint32_t rcvbuf = 4096; rcvbuf <= 65536; rcvbuf += 1024) {
		struct pb_tcp_config c = script_config();
		struct pb_desc d[64];
		c.rcvbuf_bytes = rcvbuf;
		REQUIRE(script_open(s, &c));
		ACTIVE();
		uint32_t at = 1, read = 1, n = 0, keep = pb_tcp_keep_frames(s->e, s->h);
		CHECK_EQ(keep, rcvbuf / 4096);
		for (; n <= keep; at += 10) {
			IN_OK(.f = A, .seq = at, .ack = 1, .len = 10);
			FORGET();
			REQUIRE(hand_up(d + n, &read) == 1);
			n++;
		}
		give_back(d, n);
		CLOSE(s);
	}
}

/* A buffer that becomes smaller is not smaller than what the application holds of it; one that becomes larger says what
 * was kept back. */
TEST(buffer_resized_while_frames_are_held)
{
	struct pb_tcp_config c = script_config();
	struct pb_desc d[128];
	int64_t size = 0;
	c.rcvbuf_bytes = 1 << 20;
	REQUIRE(script_open(s, &c));
	ACTIVE();
	uint32_t at = 1, read = 1, n = 0;
	for (; n < 40; at += 1000, FORGET()) {
		IN_OK(.f = A, .seq = at, .ack = 1, .len = 1000);
		n += hand_up(d + n, &read);
	}
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_RCVBUF, 65536, s->now_ns), 0);
	CHECK_EQ(pb_tcp_get_option(s->e, s->h, PB_TCP_O_RCVBUF, &size), 0);
	CHECK(size > 40 * 2048 && size < 60 * 2048);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 100);
	at += 100;
	FORGET();
	CHECK_EQ(hand_up(d + n++, &read), 1);
	CHECK_EQ(read, at);
	IN_OK(.f = A, .seq = at, .ack = 1, .len = 100); /* now it is what it allows */
	at += 100;
	FORGET();
	CHECK_EQ(hand_up(d + n, &read), 0);
	s->events = 0;
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_RCVBUF, 1 << 20, s->now_ns), 0);
	script_pull(s);
	CHECK(s->events & PB_TCP_EV_READABLE);
	CHECK_EQ(hand_up(d + n++, &read), 1);
	CHECK_EQ(read, at);
	give_back(d, n);
	CHECK_EQ(pb_tcp_set_option(s->e, s->h, PB_TCP_O_RCVBUF, 65536, s->now_ns), 0);
	CHECK_EQ(pb_tcp_get_option(s->e, s->h, PB_TCP_O_RCVBUF, &size), 0);
	CHECK_EQ(size, 65536);
	CLOSE(s);
}

/* Closed while the application holds frames: they are its own to give back. */
TEST(closed_while_held)
{
	struct pb_tcp_config c = script_config();
	REQUIRE(script_open(s, &c));
	struct pb_desc d[4];
	ACTIVE();
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 700);
	IN_OK(.f = A, .seq = 701, .ack = 1, .len = 700);
	CHECK_EQ(pb_tcp_recv_frames(s->e, s->h, d, 4), 2);
	FORGET();
	CLOSE_H(); /* all was handed up: no RST */
	OUT(.f = F | A, .seq = 1, .ack = 1401);
	CHECK_EQ(pb_tcp_consumed(s->e, s->h, 2), (uint64_t)-EBADF);
	pb_pool_put(s->cache, d[0].addr, PB_OWN_APP);
	pb_pool_put(s->cache, d[1].addr, PB_OWN_APP);
	CLOSE(s);
}

/* ---- retransmissions of every kind while the device holds what was sent ---- */

static struct pb_tcp_opts sack_of(uint32_t left, uint32_t right)
{
	return (struct pb_tcp_opts){.n_sack = 1, .sack = {{s->iss + left, s->iss + right}}};
}

/* Ten frames of 1000 bytes, all in the device; an RTT of 20 ms is known. */
static bool ten_in_device(void)
{
	struct pb_tcp_config c = script_config();
	c.sack = true;
	if (!script_open(s, &c))
		return false;
	ACTIVE();
	CHECK_EQ(send_frames(1, 1, 1000, 0), 1);
	OUT(.f = A, .seq = 1, .ack = 1, .len = 1000);
	WAIT(20 * MS);
	IN_OK(.f = A, .seq = 1, .ack = 1001);
	s->hold = true;
	/* No two of them fit into one segment, so each goes from its own frame. */
	CHECK_EQ(send_frames(1001, 9, 1000, 0), 9);
	for (uint32_t i = 1; i < 10; i++)
		OUT(.f = A, .seq = 1 + 1000 * i, .ack = 1, .len = 1000);
	return s->nheld == 9;
}

/* What comes out next is this segment again, in a frame that the device did not have. */
static void again(uint32_t seq)
{
	uint64_t had[OUTS];
	uint32_t n = s->nheld;
	memcpy(had, s->held, n * sizeof(had[0]));
	OUT(.f = A, .seq = seq, .ack = 1, .len = 1000);
	CHECK(s->nheld > n);
	for (uint32_t k = n; k < s->nheld; k++)
		for (uint32_t i = 0; i < k; i++)
			CHECK(s->held[i] != s->held[k]);
}

static void all_arrive_and_come_back(bool reverse)
{
	FORGET();
	IN_OK(.f = A, .seq = 1, .ack = 10001);
	CHECK_EQ(script_info(s).inflight_bytes, 0);
	struct pb_pool_info info;
	pb_pool_info(s->pool, &info);
	CHECK_EQ(info.own[PB_OWN_TX], s->nheld);
	script_complete(s, reverse);
	pb_pool_info(s->pool, &info);
	CHECK_EQ(info.own[PB_OWN_FREE], info.frames);
	CLOSE(s);
}

TEST(tail_loss_probe_of_a_held_frame)
{
	for (int reverse = 0; reverse < 2; reverse++) {
		REQUIRE(ten_in_device());
		s->n = 0;
		uint64_t due = pb_tcp_next_deadline(s->e);
		REQUIRE(due < s->now_ns + 200 * MS); /* before the timeout */
		s->now_ns = due;
		pb_tcp_expire(s->e, s->now_ns);
		again(9001); /* the last one */
		all_arrive_and_come_back(reverse);
	}
}

TEST(rack_resends_held_frames)
{
	for (int reverse = 0; reverse < 2; reverse++) {
		REQUIRE(ten_in_device());
		WAIT(20 * MS);
		FORGET(); /* a probe */
		for (uint32_t i = 2; i < 6; i++)
			IN_OK(.f = A, .seq = 1, .ack = 1001, .o = sack_of(2001, 1001 + 1000 * i));
		again(1001);
		/* And once more, when that is found lost: two copies are in the device then. */
		WAIT(25 * MS);
		IN_OK(.f = A, .seq = 1, .ack = 1001, .o = sack_of(2001, 10001));
		all_arrive_and_come_back(reverse);
	}
}

TEST(timeout_resends_held_frames_and_then_their_own)
{
	REQUIRE(ten_in_device());
	uint64_t own = s->held[0];
	WAIT(300 * MS);
	s->n = 0;
	/* Frames come back in another order, while the timer goes on. */
	script_complete(s, true);
	IN_OK(.f = A, .seq = 1, .ack = 1001);
	WAIT(2 * SEC);
	struct seen *o = NEXT();
	CHECK(o && o->v.seq - s->iss == 1001);
	CHECK_EQ(s->held[0], own); /* nobody holds it: no copy */
	all_arrive_and_come_back(true);
}

MAIN(T(sent_from_their_own_frames), T(refused_frames), T(retransmission_copies), T(partial_ack_of_a_held_frame),
     T(end_with_frames_in_the_device), T(received_frames), T(small_segments_of_who_does_not_read_share_frames),
     T(what_may_be_kept_keeps_nothing_back), T(buffer_resized_while_frames_are_held), T(closed_while_held),
     T(tail_loss_probe_of_a_held_frame), T(rack_resends_held_frames), T(timeout_resends_held_frames_and_then_their_own))
