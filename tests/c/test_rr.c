#include "app/rr.h"
#include "harness.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

/* Two ends of a stream, the far one in a thread. */
struct streams {
	int fd[2];
	struct pb_stream near, far;
	_Atomic uint32_t stop;
	pthread_t thread;
	int rc; /* of the thread */
};

static void start_far(struct streams *s, enum pb_spin how, void *(*run)(void *))
{
	*s = (struct streams){.rc = -1};
	REQUIRE(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s->fd));
	pb_stream_of_kernel(&s->far, s->fd[1], how);
	pb_stream_of_kernel(&s->near, s->fd[0], how);
	CHECK_EQ(pthread_create(&s->thread, NULL, run, s), 0);
}

/* Ends the stream; what the thread returned. */
static void *end_far(struct streams *s)
{
	void *found;
	shutdown(s->fd[0], SHUT_WR);
	pthread_join(s->thread, &found);
	CHECK_EQ(s->rc, 0);
	close(s->fd[0]);
	close(s->fd[1]);
	return found;
}

static void *run_echo(void *arg)
{
	struct streams *s = arg;
	s->rc = pb_stream_echo(&s->far, &s->stop);
	return NULL;
}

static struct pb_rr rr;

static void request_and_answer(uint64_t interval_ns, enum pb_spin how)
{
	struct streams s;
	start_far(&s, how, run_echo);
	struct pb_rr_config cfg = {.interval = interval_ns << PB_INTERVAL_FRAC,
				   .requests = 500,
				   .duration_ns = 20000000000ull,
				   .bytes = 100,
				   .slices = 2};
	CHECK_EQ(pb_rr_init(&rr, &cfg), 0);
	CHECK_EQ(pb_rr_run(&rr, &s.near), 0);
	end_far(&s);
	CHECK_EQ(rr.sent, 500);
	CHECK_EQ(rr.answered, 500);
	CHECK_EQ(rr.latency[0].n + rr.latency[1].n, 500);
	CHECK_EQ(rr.lag.n, 500);
	CHECK(rr.end_ns - rr.start_ns >= 499 * interval_ns);
}

TEST(requests_one_at_a_time)
{
	request_and_answer(0, PB_SPIN_NOT);
	request_and_answer(0, PB_SPIN_YIELD);
}

TEST(requests_to_a_schedule)
{
	request_and_answer(50000, PB_SPIN_NOT);
	request_and_answer(50000, PB_SPIN_YIELD);
}

/* A stream that refuses every other send, and answers what it took. */
struct moody {
	struct pb_stream s;
	unsigned sends;
	int64_t owed;
};

static int64_t moody_send(struct pb_stream *s, const void *data, size_t n)
{
	struct moody *m = (struct moody *)s;
	(void)data;
	if (m->sends++ % 2 == 0)
		return -EAGAIN;
	m->owed += (int64_t)n;
	return (int64_t)n;
}

static int64_t moody_recv(struct pb_stream *s, void *data, size_t n)
{
	struct moody *m = (struct moody *)s;
	int64_t k = m->owed < (int64_t)n ? m->owed : (int64_t)n;
	memset(data, 0, (size_t)k);
	m->owed -= k;
	return k ? k : -EAGAIN;
}

static int moody_wait(struct pb_stream *s, bool write, uint64_t until_ns)
{
	(void)s;
	(void)write;
	(void)until_ns;
	return 0;
}

/* A request that was refused first is one request, and late once. */
TEST(refused_requests_count_once)
{
	for (uint64_t interval_ns = 0; interval_ns <= 1000; interval_ns += 1000) {
		struct moody m = {.s = {.send = moody_send, .recv = moody_recv, .wait = moody_wait}};
		struct pb_rr_config cfg = {.interval = interval_ns << PB_INTERVAL_FRAC,
					   .requests = 50,
					   .duration_ns = 20000000000ull,
					   .bytes = 100,
					   .slices = 1};
		CHECK_EQ(pb_rr_init(&rr, &cfg), 0);
		CHECK_EQ(pb_rr_run(&rr, &m.s), 0);
		CHECK_EQ(m.sends, 100);
		CHECK_EQ(rr.sent, 50);
		CHECK_EQ(rr.lag.n, 50);
		CHECK_EQ(rr.latency[0].n, 50);
	}
}

static void *run_bulk(void *arg)
{
	struct streams *s = arg;
	static struct pb_bulk in;
	in = (struct pb_bulk){.duration_ns = 100000000, .slices = 2};
	s->rc = pb_bulk_recv(&in, &s->far);
	return &in;
}

TEST(bulk_arrives)
{
	struct streams s;
	start_far(&s, PB_SPIN_NOT, run_bulk);
	static struct pb_bulk out;
	out = (struct pb_bulk){.duration_ns = 100000000, .slices = 2};
	CHECK_EQ(pb_bulk_send(&out, &s.near), 0);
	const struct pb_bulk *in = end_far(&s);
	CHECK(out.bytes > 0);
	CHECK_EQ(in->bytes, out.bytes);
	/* What was sent at the very end belongs to no slice. */
	uint64_t in_slices = out.slice[0].bytes + out.slice[1].bytes;
	CHECK(out.slice[0].bytes > 0 && in_slices <= out.bytes && out.bytes - in_slices <= PB_RR_BYTES_MAX);
}

MAIN(T(requests_one_at_a_time), T(requests_to_a_schedule), T(refused_requests_count_once), T(bulk_arrives))
