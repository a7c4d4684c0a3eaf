/* Sequence numbers and timestamps across 2^32. */
#include "tcp_script.h"

static struct script script, *const s = &script;

/* Both directions, with both ISNs right below the wrap at every distance that matters, SACK and loss included. */
TEST(sequence_numbers)
{
	static const uint32_t below[] = {0, 1, 2, 100, 1459, 1460, 1461, 3000, 0x80000000u, 0x80000005u};
	for (unsigned k = 0; k < PB_ARRAY_LEN(below); k++) {
		struct pb_tcp_config c = script_config();
		c.sack = true;
		REQUIRE(script_open(s, &c));
		script_set_iss(s, 0u - below[k]);
		s->irs = 0u - below[k];
		ACTIVE();
		CHECK_EQ(s->iss, 0u - below[k]);
		SEND(1, 4380);
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
		OUT(.f = A, .seq = 1461, .ack = 1, .len = 1460);
		OUT(.f = A, .seq = 2921, .ack = 1, .len = 1460);
		struct pb_tcp_opts o = {.n_sack = 1};
		o.sack[0].left = s->iss + 1461;
		o.sack[0].right = s->iss + 4381;
		for (unsigned i = 0; i < 3; i++)
			IN_OK(.f = A, .seq = 1, .ack = 1, .o = o);
		OUT(.f = A, .seq = 1, .ack = 1, .len = 1460);
		IN_OK(.f = A, .seq = 1, .ack = 4381);
		IN_OK(.f = A, .seq = 1461, .ack = 4381, .len = 1460);
		IN_OK(.f = F | A, .seq = 2921, .ack = 4381, .len = 10);
		IN_OK(.f = A, .seq = 1, .ack = 4381, .len = 1460);
		FORGET();
		STATE(CLOSE_WAIT);
		READ(1, 2930);
		CLOSE_H();
		OUT(.f = F | A, .seq = 4381, .ack = 2932);
		IN_OK(.f = A, .seq = 2932, .ack = 4382);
		script_pull(s);
		CHECK_EQ(pb_tcp_get_stats(s->e)->conns, 0);
		CLOSE(s);
	}
}

static bool with_ts(uint32_t ts_val)
{
	struct pb_tcp_config c = script_config();
	c.timestamps = true;
	if (!script_open(s, &c))
		return false;
	s->ts = true;
	s->ts_val = ts_val;
	ACTIVE();
	return true;
}

TEST(timestamps)
{
	REQUIRE(with_ts(0xfffffff0u));
	uint32_t at = 1;
	for (unsigned i = 0; i < 64; i++, at += 10) {
		IN_OK(.f = A, .seq = at, .ack = 1, .len = 10);
		if (i < 10) {
			struct seen *o = NEXT();
			CHECK(o && o->o.ts_ecr == s->ts_val);
		}
		s->ts_val++;
		FORGET();
		WAIT(50 * MS);
		FORGET();
	}
	CHECK_EQ(script_info(s).bytes_received, 640);
	CLOSE(s);
}

TEST(paws)
{
	REQUIRE(with_ts(1000));
	s->ts_val = 2000;
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 10);
	FORGET();
	s->ts_val = 1999;
	IN_DROP(TCP_PAWS, .f = A, .seq = 11, .ack = 1, .len = 10);
	OUT(.f = A, .seq = 1, .ack = 11);
	IN_DROP(TCP_PAWS, .f = A, .seq = 11, .ack = 1, .len = 10, .no_ts = true); /* 3.2: silently */
	NONE_OUT();
	CHECK_EQ(script_info(s).bytes_received, 10);
	/* A RST is judged by its number only. */
	IN_OK(.f = R, .seq = 11, .no_ts = true);
	STATE(CLOSED);
	CLOSE(s);
}

/* 5.5: after 24 days the last value says nothing, and the new one takes its place. */
TEST(paws_after_24_days)
{
	REQUIRE(with_ts(1000));
	s->now_ns += 25ull * 86400 * SEC;
	s->ts_val = 999;
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 10);
	struct seen *o = NEXT();
	CHECK(o && o->o.ts_ecr == 999);
	s->ts_val = 998;
	IN_DROP(TCP_PAWS, .f = A, .seq = 11, .ack = 1, .len = 10);
	FORGET();
	CLOSE(s);
}

/* 4.3: the value of the segment that the next ACK is of; one beyond a hole does not count. */
TEST(ts_recent)
{
	REQUIRE(with_ts(1000));
	s->ts_val = 1001;
	IN_OK(.f = A, .seq = 11, .ack = 1, .len = 10);
	struct seen *o = NEXT();
	CHECK(o && o->o.ts_ecr == 1000);
	s->ts_val = 1002;
	IN_OK(.f = A, .seq = 1, .ack = 1, .len = 10);
	o = NEXT();
	CHECK(o && o->o.ts_ecr == 1002);
	CLOSE(s);
}

/* Equal connections at other times do not go back in their own clock, and another tuple has another offset. */
TEST(own_clock)
{
	uint32_t val[3];
	struct pb_tcp_config c = script_config();
	c.timestamps = true;
	REQUIRE(script_open(s, &c));
	for (unsigned i = 0; i < 3; i++) {
		s->rport = (uint16_t)(2000 + (i == 2));
		CHECK_EQ(script_connect(s), 0);
		struct seen *o = NEXT();
		REQUIRE(o);
		val[i] = o->o.ts_val;
		CHECK_EQ(pb_tcp_abort(s->e, s->h, s->now_ns), 0);
		FORGET();
		s->now_ns += SEC;
	}
	CHECK_EQ(val[1] - val[0], 1000);
	CHECK(val[2] - val[1] != 1000);
	CLOSE(s);
}

MAIN(T(sequence_numbers), T(timestamps), T(paws), T(paws_after_24_days), T(ts_recent), T(own_clock))
