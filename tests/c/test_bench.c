#include "app/bench.h"
#include "dev/fault.h"
#include "dev/ksock.h"
#include "dev/mem.h"
#include "harness.h"
#include "path/loop.h"
#include "wire/eth.h"
#include "wire/ip.h"
#include "wire/udp.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define STAMP 42
#define LEN 64

static struct pb_template tmpl;
static struct pb_bench bench, sink;
static struct pb_pool *pool;
static struct pb_dev *a, *b;

static void make_template(uint32_t len)
{
	static const uint8_t from[6] = {2, 0, 0, 0, 0, 1}, to[6] = {2, 0, 0, 0, 0, 2};
	uint8_t f[2048] = {0};
	struct pb_ip src = pb_ip_from4((const uint8_t[]){10, 0, 0, 1}),
		     dst = pb_ip_from4((const uint8_t[]){10, 0, 0, 2});
	pb_eth_write(f, to, from, PB_ETH_IP4);
	pb_ip4_write(f + 14, &src, &dst, PB_IPPROTO_UDP, 64, 0, 0, true, len - 34);
	f[35] = 7;
	f[37] = 9;
	f[38] = (uint8_t)((len - 34) >> 8);
	f[39] = (uint8_t)(len - 34);
	CHECK_EQ(pb_template_init(&tmpl, f, len, NULL, 0, STAMP, 5, 1), 0);
}

static struct pb_dev *open_end(const char *name)
{
	int err;
	struct pb_dev *d = pb_dev_mem_open(name, pool, NULL, &err);
	CHECK(d != NULL);
	return d;
}

static void make_pool(void)
{
	int err;
	pool = pb_pool_create(8192, 2048, PB_WANT_4K, &err);
	CHECK(pool != NULL);
}

/* Both ends of a mem: pair over one pool, and the template of their packets. */
static void open_ends(const char *name)
{
	make_pool();
	make_template(LEN);
	a = open_end(name);
	b = open_end(name);
}

static void close_ends(void)
{
	a->ops->close(a);
	b->ops->close(b);
	CHECK_POOL(pool);
}

static uint64_t latencies(const struct pb_bench *of)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < of->cfg.slices; i++)
		n += of->latency[i].n;
	return n;
}

struct peer {
	struct pb_dev *dev;
	_Atomic uint32_t stop;
	struct pb_reflect r;
	int rc;
	pthread_t thread;
	bool swap;
};

static void *reflect(void *arg)
{
	struct peer *p = arg;
	p->rc = pb_reflect_run(p->dev, p->swap, &p->stop, &p->r);
	return NULL;
}

static void start_reflector(struct peer *p, struct pb_dev *dev, bool swap)
{
	*p = (struct peer){.dev = dev, .swap = swap};
	CHECK_EQ(pthread_create(&p->thread, NULL, reflect, p), 0);
}

static void stop_reflector(struct peer *p)
{
	atomic_store(&p->stop, 1);
	pthread_join(p->thread, NULL);
	CHECK_EQ(p->rc, 0);
}

static struct pb_bench_config rtt_config(uint64_t interval_ns)
{
	return (struct pb_bench_config){
		.tmpl = &tmpl,
		.interval = interval_ns << PB_INTERVAL_FRAC,
		.packets = 2000,
		.duration_ns = 10000000000ull,
		.drain_ns = 2000000000,
		.burst = 16,
		.slices = 4,
		.stamp_off = STAMP,
		.run = 5,
		.rx = true,
		.until_back = true,
	};
}

/* Every packet comes back, judged, and its latency counts from when it was due. */
TEST(reflected_over_mem)
{
	open_ends("b1");
	struct peer p;
	start_reflector(&p, b, true);
	struct pb_bench_config cfg = rtt_config(20000);
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	stop_reflector(&p);
	CHECK_EQ(bench.offered, 2000);
	CHECK_EQ(bench.sent, 2000);
	CHECK_EQ(bench.received, 2000);
	CHECK_EQ(bench.track.unique, 2000);
	CHECK_EQ(bench.track.duplicates + bench.track.reordered + bench.foreign + bench.stamp_ahead, 0);
	CHECK_EQ(latencies(&bench), 2000);
	CHECK_EQ(bench.lag.n, 2000);
	CHECK_EQ(p.r.received, 2000);
	/* To the schedule: the last packet was due 1,999 intervals after the first. */
	CHECK(bench.end_ns - bench.start_ns >= 1999ull * 20000);
	close_ends();
}

/* A reflector that stands still for a while: an open loop sees it in every packet that was due meanwhile. */
static void *late_reflector(void *arg)
{
	struct timespec t = {.tv_nsec = 100000000};
	nanosleep(&t, NULL);
	return reflect(arg);
}

TEST(open_loop_counts_what_a_stall_delays)
{
	open_ends("b2");
	struct peer p = {.dev = b, .swap = true};
	struct pb_bench_config cfg = rtt_config(100000); /* 2,000 packets, one each 100 us: half of them in the stall */
	cfg.slices = 1;
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), 0);
	CHECK_EQ(pthread_create(&p.thread, NULL, late_reflector, &p), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	stop_reflector(&p);
	CHECK_EQ(bench.received, 2000);
	/* Those due in the first 50 ms waited for at least 50 ms: about 500, and the generator was not late by that. */
	uint64_t waited = 0;
	for (uint32_t i = pb_hist_index(50000000); i < PB_HIST_COUNTS; i++)
		waited += bench.latency[0].counts[i];
	CHECK(waited >= 400);
	CHECK(pb_hist_at_rank(&bench.lag, bench.lag.n / 2) < 50000000);
	close_ends();
}

/* Loss, copies and disorder of a link with a seed are what the receiver counts. */
TEST(faults_are_counted)
{
	int err;
	open_ends("b3");
	struct pb_link_config link = {.loss_ppm = 50000,
				      .dup_ppm = 30000,
				      .reorder_ppm = 20000,
				      .reorder_ns = 300000,
				      .capacity = 1024,
				      .seed = 3};
	struct pb_dev *bad = pb_dev_fault_open(b, NULL, &link, &err);
	REQUIRE(bad != NULL);
	struct peer p;
	start_reflector(&p, bad, true);
	struct pb_bench_config cfg = rtt_config(20000);
	cfg.until_back = false;
	cfg.drain_ns = 300000000;
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	stop_reflector(&p);
	bad->ops->stats(bad);
	CHECK_EQ(bench.sent, 2000);
	uint64_t lost = pb_seqtrack_lost(&bench.track, bench.sent);
	CHECK_EQ(lost, bad->stats.drops.n[PB_DROP_LINK_LOSS]);
	CHECK(lost > 40 && lost < 200);
	CHECK(bench.track.duplicates > 20);
	CHECK(bench.track.reordered > 5);
	CHECK_EQ(bench.received, bench.track.unique + bench.track.duplicates);
	a->ops->close(a);
	bad->ops->close(bad);
	CHECK_POOL(pool);
}

static void *run_sink(void *arg)
{
	(void)arg;
	return pb_bench_run(&sink) ? &sink : NULL;
}

/* As fast as it goes, into a receiver in another thread: what was sent came or the ring is to blame, and strangers are
 * told apart. */
TEST(full_speed_into_a_sink)
{
	open_ends("b4");
	_Atomic uint32_t stop = 0;
	_Atomic uint64_t heard = 0;
	struct pb_bench_config cfg = rtt_config(0), in = cfg;
	cfg.rx = cfg.until_back = false;
	cfg.burst = 64;
	in.tmpl = NULL;
	in.stop = &stop;
	in.heard = &heard;
	in.drain_ns = 50000000;
	CHECK_EQ(pb_bench_init(&sink, b, &in), 0);
	pthread_t thread;
	CHECK_EQ(pthread_create(&thread, NULL, run_sink, NULL), 0);
	cfg.packets = 100;
	tmpl.run = 6; /* another measurement's */
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	cfg.packets = 20000;
	tmpl.run = 5;
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	for (int i = 0; i < 20000 && atomic_load(&heard) < 20000; i++)
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	atomic_store(&stop, 1);
	void *rc;
	pthread_join(thread, &rc);
	CHECK(rc == NULL);
	CHECK_EQ(sink.received, 20000);
	CHECK_EQ(sink.rx_bytes, 20000 * LEN);
	CHECK_EQ(sink.track.unique, 20000);
	CHECK_EQ(sink.foreign, 100);
	CHECK_EQ(atomic_load(&heard), 20000);
	close_ends();
}

/* Without a peer's core to take them the ring fills: what was offered and not taken is not called sent. */
TEST(a_full_device_is_not_a_loss)
{
	open_ends("b5");
	struct pb_bench_config cfg = rtt_config(0);
	cfg.rx = cfg.until_back = false;
	cfg.packets = 1000000;
	cfg.duration_ns = 30000000;
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	CHECK_EQ(bench.sent, 1024);
	CHECK(bench.tx_full > 0);
	CHECK(bench.offered > bench.sent && bench.offered <= bench.sent + 16);
	uint64_t in_slices = 0, ns = 0;
	for (int i = 0; i < 4; i++) {
		in_slices += bench.slice[i].sent;
		ns += bench.slice[i].ns;
	}
	CHECK_EQ(in_slices, 1024);
	CHECK_EQ(ns, 30000000);
	close_ends();
}

TEST(configurations_that_cannot_be)
{
	make_pool();
	make_template(LEN);
	a = open_end("b6");
	struct pb_bench_config cfg = rtt_config(0);
	cfg.burst = 0;
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), -EINVAL);
	cfg = rtt_config(0);
	cfg.slices = PB_BENCH_SLICES + 1;
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), -EINVAL);
	cfg = rtt_config(0);
	cfg.tmpl = NULL; /* receives, and nothing ends it */
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), -EINVAL);
	make_template(1600);
	cfg = rtt_config(0);
	CHECK_EQ(pb_bench_init(&bench, a, &cfg), -EMSGSIZE);
	a->ops->close(a);
	CHECK_POOL(pool);
}

static int udp_socket(struct sockaddr_in *at)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*at);
	*at = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	CHECK_EQ(bind(fd, (struct sockaddr *)at, len), 0);
	CHECK_EQ(getsockname(fd, (struct sockaddr *)at, &len), 0);
	return fd;
}

/* So many small packets fit a socket's receive buffer: a reflector that does not get a core for a while loses none. */
#define KSOCK_PKTS 200

/* The same loops over the kernel's sockets. */
TEST(kernel_sockets_as_a_device)
{
	make_pool();
	make_template(LEN);
	struct sockaddr_in at[2];
	int fd[2] = {udp_socket(&at[0]), udp_socket(&at[1])}, err;
	struct pb_dev *dev[2];
	for (int i = 0; i < 2; i++) {
		CHECK_EQ(connect(fd[i], (struct sockaddr *)&at[!i], sizeof(at[0])), 0);
		struct pb_dev_ksock_config k = {.fd = fd[i], .hdr_bytes = 42, .mtu = 1500};
		dev[i] = pb_dev_ksock_open(&k, pool, &err);
		REQUIRE(dev[i] != NULL);
	}
	struct peer p;
	start_reflector(&p, dev[1], false);
	struct pb_bench_config cfg = rtt_config(50000);
	cfg.packets = KSOCK_PKTS;
	CHECK_EQ(pb_bench_init(&bench, dev[0], &cfg), 0);
	CHECK_EQ(pb_bench_run(&bench), 0);
	stop_reflector(&p);
	CHECK_EQ(bench.sent, KSOCK_PKTS);
	CHECK_EQ(bench.track.unique, KSOCK_PKTS);
	CHECK_EQ(bench.rx_bytes, KSOCK_PKTS * LEN);
	CHECK_EQ(latencies(&bench), KSOCK_PKTS);
	/* What does not fit a frame is dropped with its reason. */
	static uint8_t large[4000];
	CHECK_EQ(send(fd[1], large, sizeof(large), 0), sizeof(large));
	CHECK_EQ(send(fd[1], large, 100, 0), 100);
	struct pb_desc d[4];
	CHECK_EQ(pb_dev_rx(dev[0], d, 4, 0), 1);
	CHECK_EQ(d[0].len, 142);
	CHECK_EQ(dev[0]->stats.drops.n[PB_DROP_TOO_LONG], 1);
	pb_pool_put(dev[0]->cache, d[0].addr, PB_OWN_RX);
	for (int i = 0; i < 2; i++)
		dev[i]->ops->close(dev[i]);
	CHECK_POOL(pool);
}

TEST(the_noise_floor_is_measured)
{
	static struct pb_hist h;
	pb_hist_reset(&h);
	uint64_t t0 = pb_now_ns(), turns = pb_noise_measure(&h, 20000000);
	CHECK(pb_now_ns() - t0 >= 20000000);
	CHECK(turns > 1000);
	CHECK(!h.n || h.min >= 200);
}

MAIN(T(reflected_over_mem), T(open_loop_counts_what_a_stall_delays), T(faults_are_counted), T(full_speed_into_a_sink),
     T(a_full_device_is_not_a_loss), T(configurations_that_cannot_be), T(kernel_sockets_as_a_device),
     T(the_noise_floor_is_measured))
