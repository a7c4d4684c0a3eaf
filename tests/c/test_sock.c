/* The application's end: sockets against an engine on the other side of a mem pair, stepped by hand; and its threads
 * that wait. */
#define _GNU_SOURCE
#include "path/app.h"
#include "rig.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static struct {
	struct rig r;
	struct pb_chan chan;
	struct pb_app *app;
	pb_tcp_handle listener; /* on side 1, port 80 */
} w;

static bool world_open(uint32_t slots, uint32_t max_conns)
{
	int err;
	struct rig_config c = rig_defaults();
	memset(&w, 0, sizeof(w));
	c.tcp[0].max_conns = max_conns;
	if (!rig_open(&w.r, &c) || pb_chan_init(&w.chan, slots))
		return false;
	w.r.path[0]->chan = &w.chan;
	struct pb_app_config cfg = {.max_socks = max_conns, .sndbuf_bytes = 1u << 20, .reserve_frames = 64};
	w.app = pb_app_create(w.r.path[0], &cfg, &err);
	struct pb_tcp_endpoint l = {w.r.ip[1], 80};
	if (!w.app || pb_tcp_listen(rig_tcp(&w.r, 1), &l, 64, &w.listener))
		return false;
	pb_app_set_inline(w.app, false); /* the test is the loop */
	return true;
}

static void world_close(void)
{
	pb_app_destroy(w.app);
	rig_close(&w.r);
	pb_chan_fini(&w.chan);
}

/* Unlike rig_run() it does not go beyond its time to the next timer. */
static void run(uint64_t for_ns)
{
	uint64_t until = w.r.now_ns + for_ns;
	rig_settle(&w.r);
	while (pb_path_next_ns(w.r.path[0]) <= until || pb_path_next_ns(w.r.path[1]) <= until) {
		rig_advance(&w.r);
		rig_settle(&w.r);
	}
	w.r.now_ns = until;
}

static int start(uint16_t port)
{
	struct pb_tcp_endpoint l = {w.r.ip[0], port}, d = {w.r.ip[1], 80};
	return pb_sock_connect(w.app, &l, &d);
}

/* Runs until it is connected, and accepts it on the other side. -1: it is not. */
static int connected(uint16_t port, pb_tcp_handle *server)
{
	int s = start(port);
	run(10000000);
	if (s < 0 || !(pb_sock_poll(w.app, s) & PB_SOCK_CONNECTED) ||
	    pb_tcp_accept(rig_tcp(&w.r, 1), w.listener, server))
		return -1;
	return s;
}

static int freed(struct pb_tcp_endpoint *e)
{
	return pb_app_freed(w.app, e, 8);
}

TEST(freed_once_after_time_wait)
{
	struct pb_tcp_endpoint e[8];
	pb_tcp_handle server = 0;
	REQUIRE(world_open(256, 64));
	int s = connected(1000, &server);
	REQUIRE(s >= 0);
	CHECK_EQ(pb_sock_close(w.app, s, false), 0);
	run(10000000);
	CHECK_EQ(pb_tcp_close(rig_tcp(&w.r, 1), server, w.r.now_ns), 0);
	run(10000000);
	CHECK_EQ(freed(e), 0); /* TIME-WAIT holds the pair */
	run(61000000000);
	REQUIRE(freed(e) == 1);
	CHECK_EQ(e[0].port, 1000);
	CHECK(pb_ip_eq(&e[0].addr, &w.r.ip[0]));
	CHECK_EQ(freed(e), 0);
	world_close();
}

/* One entry for each socket, a listener and what it accepted included; more than the caller takes at once are kept. */
TEST(freed_of_each_socket)
{
	struct pb_tcp_endpoint e[8];
	REQUIRE(world_open(256, 64));
	struct pb_tcp_endpoint l = {w.r.ip[0], 90};
	int listener = pb_sock_listen(w.app, &l, 16), s[12], n = 0;
	run(10000000);
	CHECK(pb_sock_poll(w.app, listener) & PB_SOCK_CONNECTED);
	for (uint16_t i = 0; i < 12; i++) {
		struct pb_tcp_endpoint from = {w.r.ip[1], (uint16_t)(2000 + i)};
		pb_tcp_handle h;
		CHECK_EQ(pb_tcp_connect(rig_tcp(&w.r, 1), &from, &l, w.r.now_ns, &h), 0);
		run(10000000);
		s[i] = pb_sock_accept(w.app, listener);
		run(10000000);
		CHECK(pb_sock_poll(w.app, s[i]) & PB_SOCK_CONNECTED);
	}
	for (int i = 0; i < 12; i++)
		CHECK_EQ(pb_sock_close(w.app, s[i], true), 0);
	CHECK_EQ(pb_sock_close(w.app, listener, false), 0);
	run(10000000);
	for (int k; (k = freed(e)) > 0; n += k)
		for (int i = 0; i < k; i++)
			CHECK(e[i].port == 90 && pb_ip_eq(&e[i].addr, &w.r.ip[0]));
	CHECK_EQ(n, 13);
	CHECK_EQ(w.app->nused, 0);
	world_close();
}

/* What never had a handle held nothing; what was closed before it had one did. */
TEST(freed_of_failed_and_early)
{
	struct pb_tcp_endpoint e[8];
	REQUIRE(world_open(256, 64));
	int a = start(1000), b = start(1000), c = start(1001);
	CHECK_EQ(pb_sock_close(w.app, c, false), 0);
	run(10000000);
	CHECK(pb_sock_poll(w.app, b) & PB_SOCK_ERROR);
	CHECK_EQ(pb_sock_error(w.app, b), EADDRINUSE);
	CHECK_EQ(pb_sock_close(w.app, b, false), 0);
	run(61000000000); /* FIN-WAIT-2 of one that its application has left */
	REQUIRE(freed(e) == 1);
	CHECK_EQ(e[0].port, 1001);
	CHECK_EQ(pb_sock_close(w.app, a, true), 0);
	run(10000000);
	REQUIRE(freed(e) == 1);
	CHECK_EQ(e[0].port, 1000);
	CHECK_EQ(w.app->nused, 0);
	world_close();
}

/* Many short connections, we close first: neither the engine's table nor ours fills up with those in TIME-WAIT. */
TEST(more_connections_than_places)
{
	struct pb_tcp_endpoint e[8];
	REQUIRE(world_open(256, 4));
	int gone = 0;
	for (uint16_t i = 0; i < 12; i++) {
		pb_tcp_handle server;
		int s = connected((uint16_t)(1000 + i), &server);
		REQUIRE(s >= 0);
		CHECK_EQ(pb_sock_close(w.app, s, false), 0);
		run(10000000);
		CHECK_EQ(pb_tcp_close(rig_tcp(&w.r, 1), server, w.r.now_ns), 0);
		run(10000000);
		gone += freed(e);
	}
	CHECK_EQ(gone, 8);
	CHECK_EQ(pb_tcp_get_stats(rig_tcp(&w.r, 0))->n[PB_C_TimeWaitCutShort], 8);
	run(61000000000);
	CHECK_EQ(freed(e), 4);
	/* Open ones are counted: the fifth is refused. */
	for (uint16_t i = 0; i < 5; i++)
		CHECK_EQ(start((uint16_t)(3000 + i)) >= 0, i < 4);
	world_close();
}

/* Commands that find no room are not lost: the close of a socket that was still opening, and the reset for data that
 * came when nobody reads any more. */
TEST(close_with_a_full_ring)
{
	struct pb_tcp_endpoint e[8];
	pb_tcp_handle server[3];
	REQUIRE(world_open(16, 64));
	int s = connected(1000, &server[0]), t = connected(1001, &server[1]), u = start(1002);
	REQUIRE(s >= 0 && t >= 0 && u >= 0);
	CHECK_EQ(pb_sock_close(w.app, u, false), 0); /* before it has a handle */
	CHECK_EQ(pb_sock_close(w.app, t, false), 0);
	CHECK_EQ(pb_tcp_send(rig_tcp(&w.r, 1), server[1], "data", 4, 0), 4);
	while (pb_sock_info(w.app, s) == -EINPROGRESS)
		;
	CHECK_EQ(pb_sock_info(w.app, s), -EAGAIN);
	run(10000000); /* t: the data crosses the FIN */
	while (pb_sock_info(w.app, s) == -EINPROGRESS)
		;
	CHECK_EQ(pb_sock_close(w.app, s, true), 0);
	CHECK_EQ(w.app->nwant, 2); /* s and u */
	run(10000000);
	CHECK(pb_app_progress(w.app) > 0);
	CHECK_EQ(w.app->nwant, 0);
	run(10000000);
	CHECK_EQ(pb_tcp_accept(rig_tcp(&w.r, 1), w.listener, &server[2]), 0);
	struct pb_tcp_info i[3];
	for (int k = 0; k < 3; k++)
		CHECK_EQ(pb_tcp_get_info(rig_tcp(&w.r, 1), server[k], &i[k]), 0);
	CHECK_EQ(i[0].state, PB_TCP_CLOSED);
	CHECK_EQ(i[0].error, ECONNRESET);
	CHECK_EQ(i[2].state, PB_TCP_CLOSE_WAIT);
	run(61000000000);
	CHECK_EQ(freed(e), 3);
	CHECK_EQ(w.app->nused, 0);
	world_close();
}

/* Data leaves places for control; a shutdown that found none has not happened. */
TEST(sends_leave_room_for_control)
{
	static const uint8_t data[500000];
	pb_tcp_handle server;
	REQUIRE(world_open(128, 64));
	int s = connected(1000, &server), k = 0;
	CHECK(pb_sock_send(w.app, s, data, sizeof(data), 0) > 0);
	CHECK_EQ(pb_sock_send(w.app, s, data, 1, 0), -EAGAIN);
	CHECK(!(pb_sock_poll(w.app, s) & PB_SOCK_WRITE));
	while (pb_sock_info(w.app, s) == -EINPROGRESS)
		k++;
	CHECK_EQ(k, 32);
	CHECK_EQ(pb_sock_shutdown(w.app, s, SHUT_WR), -EAGAIN);
	run(100000000);
	CHECK_EQ(pb_sock_send(w.app, s, data, 1, 0), 1);
	CHECK_EQ(pb_sock_shutdown(w.app, s, SHUT_WR), -EINPROGRESS);
	CHECK_EQ(pb_sock_send(w.app, s, data, 1, 0), -EPIPE);
	CHECK_EQ(pb_sock_close(w.app, s, true), 0);
	world_close();
}

/* The ring of commands is full when what was read is to be told: it is told later, or the engine would wait for that
 * with what it keeps back. */
TEST(what_was_read_is_told_when_there_is_room)
{
	static uint8_t data[1400], buf[65536];
	pb_tcp_handle server, other;
	struct rig *r = &w.r;
	REQUIRE(world_open(16, 64));
	int s = connected(1000, &server), t = connected(1001, &other);
	REQUIRE(s >= 0 && t >= 0);
	CHECK_EQ(pb_tcp_send(rig_tcp(r, 1), server, data, sizeof(data), 0), sizeof(data));
	run(100000000);
	while (pb_sock_info(w.app, t) == -EINPROGRESS)
		;
	CHECK_EQ(pb_sock_recv(w.app, s, buf, sizeof(buf)), sizeof(data));
	CHECK_EQ(w.app->nwant, 1);
	run(100000000);
	CHECK(pb_app_progress(w.app) >= 0);
	CHECK_EQ(w.app->nwant, 0);
	CHECK_EQ(w.app->socks[s].unreported, 0);
	/* And what is told anyway takes its place. */
	CHECK_EQ(pb_tcp_send(rig_tcp(r, 1), server, data, sizeof(data), 0), sizeof(data));
	run(100000000);
	while (pb_sock_info(w.app, t) == -EINPROGRESS)
		;
	CHECK_EQ(pb_sock_recv(w.app, s, buf, sizeof(buf)), sizeof(data));
	CHECK_EQ(w.app->nwant, 1);
	CHECK_EQ(pb_sock_close(w.app, s, true), 0);
	CHECK_EQ(w.app->nwant, 1); /* the abort */
	run(100000000);
	CHECK(pb_app_progress(w.app) >= 0);
	CHECK_EQ(w.app->nwant, 0);
	CHECK_EQ(pb_sock_close(w.app, t, true), 0);
	world_close();
}

struct waiter {
	pthread_t thread;
	int sock, rc;
	unsigned mask;
	uint64_t spin_ns, took_ns;
	_Atomic int tid;
};

static void *wait_thread(void *arg)
{
	struct waiter *k = arg;
	uint64_t t = pb_now_ns();
	atomic_store(&k->tid, (int)syscall(SYS_gettid));
	k->rc = pb_app_wait(w.app, k->sock, k->mask, t + 20000000000, k->spin_ns);
	k->took_ns = pb_now_ns() - t;
	return NULL;
}

static bool sleeps(int tid)
{
	char path[64], text[512] = "";
	snprintf(path, sizeof(path), "/proc/self/task/%d/stat", tid);
	FILE *f = fopen(path, "r");
	if (!f)
		return false;
	size_t n = fread(text, 1, sizeof(text) - 1, f);
	fclose(f);
	const char *end = n ? strrchr(text, ')') : NULL; /* of the name; the state follows */
	return end && end[2] == 'S';
}

/* Until it waits: it has looked, found nothing, and sleeps, or spins. */
static void wait_start(struct waiter *k)
{
	pthread_create(&k->thread, NULL, wait_thread, k);
	for (int i = 0; i < 10000 && !(k->spin_ns ? atomic_load(&k->tid) : sleeps(atomic_load(&k->tid))); i++)
		nanosleep(&(struct timespec){0, 1000000}, NULL);
	nanosleep(&(struct timespec){0, 10000000}, NULL);
}

/* It came out because it was called, not because its time was over. */
static int wait_end(struct waiter *k)
{
	pthread_join(k->thread, NULL);
	CHECK(k->took_ns < 10000000000);
	return k->rc;
}

TEST(shut_ends_every_wait)
{
	for (int inl = 0; inl < 2; inl++) {
		REQUIRE(world_open(256, 64));
		pb_app_set_inline(w.app, inl);
		int s = start(1000);
		struct waiter k[] = {{.sock = s, .mask = PB_SOCK_GONE},
				     {.sock = PB_WAIT_SLOWPATH},
				     {.sock = s, .mask = PB_SOCK_GONE, .spin_ns = UINT64_MAX}};
		for (unsigned i = 0; i < PB_ARRAY_LEN(k); i++)
			wait_start(&k[i]);
		pb_app_wake_all(w.app); /* they look, and go on */
		nanosleep(&(struct timespec){0, 20000000}, NULL);
		pb_app_shut(w.app);
		for (unsigned i = 0; i < PB_ARRAY_LEN(k); i++)
			CHECK_EQ(wait_end(&k[i]), -ESHUTDOWN);
		CHECK_EQ(pb_app_wait(w.app, s, PB_SOCK_GONE, UINT64_MAX, 0), -ESHUTDOWN);
		CHECK(pb_app_progress(w.app) >= 0); /* what is there can still be closed */
		world_close();
	}
}

TEST(close_ends_the_wait_of_another)
{
	pb_tcp_handle server;
	REQUIRE(world_open(256, 64));
	struct waiter k = {.sock = connected(1000, &server), .mask = PB_SOCK_READ};
	REQUIRE(k.sock >= 0);
	wait_start(&k);
	CHECK_EQ(pb_sock_close(w.app, k.sock, true), 0);
	CHECK_EQ(wait_end(&k), PB_SOCK_CLOSED);
	world_close();
}

/* A number that was given anew is not the socket that was waited for. */
TEST(close_and_reuse_ends_the_wait)
{
	REQUIRE(world_open(256, 64));
	int s = start(1000), t = start(1000);
	run(10000000);
	CHECK(pb_sock_poll(w.app, t) & PB_SOCK_ERROR);
	struct waiter k = {.sock = t, .mask = PB_SOCK_GONE};
	wait_start(&k);
	CHECK_EQ(pb_sock_close(w.app, t, false), 0);
	w.app->next_free = (uint32_t)t;
	CHECK_EQ(start(1001), t);
	CHECK_EQ(wait_end(&k), PB_SOCK_CLOSED);
	CHECK_EQ(pb_sock_close(w.app, s, true), 0);
	world_close();
}

TEST(gone_wakes_the_slow_path)
{
	struct pb_tcp_endpoint e[8];
	pb_tcp_handle server;
	REQUIRE(world_open(256, 64));
	int s = connected(1000, &server);
	struct waiter k = {.sock = PB_WAIT_SLOWPATH};
	wait_start(&k);
	CHECK_EQ(pb_sock_close(w.app, s, true), 0);
	run(10000000);
	CHECK_EQ(wait_end(&k), PB_SOCK_GONE);
	CHECK_EQ(freed(e), 1);
	world_close();
}

static int quiet_fd(struct pb_dev *dev)
{
	(void)dev;
	return w.chan.loop_fd;
}

/* A sleep whose caller was wanted before it began is none. */
TEST(urgent_ends_the_sleep)
{
	static _Atomic uint32_t urgent;
	int err;
	memset(&w, 0, sizeof(w));
	struct pb_tcp_config tcp;
	pb_tcp_config_default(&tcp);
	struct pb_pool *pool = pb_pool_create(1024, 2048, PB_WANT_4K, &err);
	struct pb_dev *dev = pb_dev_mem_open("sleep", pool, NULL, &err);
	REQUIRE(dev && !pb_chan_init(&w.chan, 64));
	struct pb_dev_ops ops = *dev->ops; /* with a descriptor, so that it sleeps as long as it may */
	ops.fd = quiet_fd;
	dev->ops = &ops;
	struct pb_path *p = pb_path_create(dev, &tcp, &w.chan, &err);
	REQUIRE(p);
	uint64_t t = pb_now_ns();
	atomic_store(&urgent, 1);
	for (int i = 0; i < 20; i++)
		pb_path_sleep(p, pb_now_ns(), 1000000000, &urgent);
	CHECK(pb_now_ns() - t < 1000000000);
	atomic_store(&urgent, 0);
	t = pb_now_ns();
	pb_path_sleep(p, t, 30000000, &urgent);
	CHECK(pb_now_ns() - t >= 30000000);
	t = pb_now_ns();
	pb_path_sleep(p, t, 30000000, NULL);
	CHECK(pb_now_ns() - t >= 30000000);
	pb_path_destroy(p);
	pb_chan_fini(&w.chan);
	CHECK_POOL(pool);
}

MAIN(T(freed_once_after_time_wait), T(freed_of_each_socket), T(freed_of_failed_and_early),
     T(more_connections_than_places), T(close_with_a_full_ring), T(sends_leave_room_for_control),
     T(what_was_read_is_told_when_there_is_room), T(shut_ends_every_wait), T(close_ends_the_wait_of_another),
     T(close_and_reuse_ends_the_wait), T(gone_wakes_the_slow_path), T(urgent_ends_the_sleep))
