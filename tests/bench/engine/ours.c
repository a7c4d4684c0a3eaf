/* Our engine with itself over a mem pair, one thread: both ends send and receive at once. Prints ns per data segment
 * and heap allocations per segment. Allocations are counted by standing before the C library's. */
#define _GNU_SOURCE
#include "dev/mem.h"
#include "path/sock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#define CHUNK 16384u

static unsigned long allocations;

extern void *__libc_malloc(size_t n);
extern void *__libc_calloc(size_t n, size_t m);
extern void *__libc_realloc(void *p, size_t n);
extern void *__libc_memalign(size_t a, size_t n);

void *malloc(size_t n)
{
	allocations++;
	return __libc_malloc(n);
}

void *calloc(size_t n, size_t m)
{
	allocations++;
	return __libc_calloc(n, m);
}

void *realloc(void *p, size_t n)
{
	allocations++;
	return __libc_realloc(p, n);
}

void *aligned_alloc(size_t a, size_t n)
{
	allocations++;
	return __libc_memalign(a, n);
}

struct side {
	struct pb_pool *pool;
	struct pb_chan chan;
	struct pb_path *path;
	struct pb_app *app;
	int sock;
	uint64_t sent, received;
};

static struct side side[2];

static struct pb_ip address(int i)
{
	return pb_ip_from4((const uint8_t[]){10, 0, 0, (uint8_t)(1 + i)});
}

static int open_side(int i)
{
	struct side *s = &side[i];
	struct pb_tcp_config cfg;
	struct pb_app_config app = {.max_socks = 16, .sndbuf_bytes = 1u << 18, .reserve_frames = 512};
	int err;
	pb_tcp_config_default(&cfg);
	cfg.max_conns = 16;
	cfg.rcvbuf_bytes = 1u << 20;
	cfg.timestamps = false; /* as the peer: lwIP's default */
	s->pool = pb_pool_create(8192, 2048, PB_WANT_BEST, &err);
	struct pb_dev *dev = s->pool ? pb_dev_mem_open("bench", s->pool, NULL, &err) : NULL;
	if (!dev || pb_chan_init(&s->chan, 1024))
		return -1;
	s->path = pb_path_create(dev, &cfg, &s->chan, &err);
	s->app = s->path ? pb_app_create(s->path, &app, &err) : NULL;
	struct pb_ip ip = address(i);
	if (!s->app || pb_net_add_local(&s->path->net, &ip, 24))
		return -1;
	pb_app_set_inline(s->app, true);
	return 0;
}

static void know_each_other(void)
{
	for (int i = 0; i < 2; i++) {
		struct pb_ip other = address(!i);
		pb_net_neigh_set(&side[i].path->net, &other, side[!i].path->dev->mac);
	}
}

static int turn(void)
{
	int rc = pb_app_progress(side[0].app);
	return rc < 0 ? rc : pb_app_progress(side[1].app);
}

static int handshake(void)
{
	struct pb_tcp_endpoint a = {address(0), 1000}, b = {address(1), 80};
	int listener = pb_sock_listen(side[1].app, &b, 4);
	for (int i = 0; i < 10; i++)
		turn();
	side[0].sock = pb_sock_connect(side[0].app, &a, &b);
	side[1].sock = -1;
	for (int i = 0; i < 1000; i++) {
		turn();
		if (side[1].sock < 0)
			side[1].sock = pb_sock_accept(side[1].app, listener);
		if (side[1].sock >= 0 && (pb_sock_poll(side[0].app, side[0].sock) & PB_SOCK_CONNECTED) &&
		    (pb_sock_poll(side[1].app, side[1].sock) & PB_SOCK_CONNECTED))
			return 0;
	}
	return -1;
}

static int move(uint64_t bytes)
{
	static uint8_t out[CHUNK], in[65536];
	uint64_t goal = side[0].received + bytes;
	while (side[0].received < goal || side[1].received < goal) {
		for (int i = 0; i < 2; i++) {
			struct side *s = &side[i];
			int64_t k = s->sent < goal ? pb_sock_send(s->app, s->sock, out, CHUNK, 0) : 0;
			if (k < 0 && k != -EAGAIN)
				return (int)k;
			s->sent += k > 0 ? (uint64_t)k : 0;
			while ((k = pb_sock_recv(s->app, s->sock, in, sizeof(in))) > 0)
				s->received += (uint64_t)k;
			if (k != -EAGAIN)
				return -ECONNRESET;
		}
		int rc = turn();
		if (rc < 0)
			return rc;
	}
	return 0;
}

static uint64_t segments_out(void)
{
	struct pb_path_report r[2];
	for (int i = 0; i < 2; i++)
		pb_path_report(side[i].path, &r[i]);
	return r[0].tcp.n[PB_C_TcpOutSegs] + r[0].tcp.n[PB_C_TcpRetransSegs] + r[1].tcp.n[PB_C_TcpOutSegs] +
	       r[1].tcp.n[PB_C_TcpRetransSegs];
}

int main(int argc, char **argv)
{
	uint64_t bytes = argc > 1 ? strtoull(argv[1], NULL, 0) : 64u << 20;
	if (open_side(0) || open_side(1))
		return fprintf(stderr, "cannot open\n"), 1;
	know_each_other();
	if (handshake())
		return fprintf(stderr, "no handshake\n"), 1;
	if (move(bytes / 8))
		return fprintf(stderr, "transfer failed\n"), 1;
	unsigned long before = allocations;
	uint64_t segments = segments_out(), t0 = pb_now_ns(), sent = side[0].sent + side[1].sent;
	if (move(bytes))
		return fprintf(stderr, "transfer failed\n"), 1;
	uint64_t ns = pb_now_ns() - t0;
	sent = side[0].sent + side[1].sent - sent;
	/* Data segments, full ones; the pure ACKs between them are part of their cost. */
	double data = (double)sent / 1460;
	printf("{\"ns_per_segment\": %.2f, \"data_segments\": %.0f, \"segments_out\": %lu, \"allocations\": %lu, "
	       "\"gbps\": %.3f}\n",
	       (double)ns / data, data, (unsigned long)(segments_out() - segments), allocations - before,
	       (double)sent * 8 / (double)ns);
	return 0;
}
