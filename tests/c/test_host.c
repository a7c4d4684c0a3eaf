/* The host for scripts: a peer made by hand, and what an application on Linux would see. */
#include "harness.h"
#include "script/host.h"
#include "script/linux.h"
#include "wire/icmp.h"
#include "wire/tcp.h"

#include <errno.h>

enum { F = PB_TCP_FIN, S = PB_TCP_SYN, R = PB_TCP_RST, P = PB_TCP_PSH, A = PB_TCP_ACK };
#define SEC 1000000000ull
#define MS 1000000ull
#define PORT 8080

struct world {
	struct pb_host *h;
	bool v6;
	struct pb_ip us, peer;
	uint16_t lport, rport;
	uint32_t iss, irs; /* of the host, of the peer */
	/* the packet that was fetched last */
	struct pb_ip_view ip;
	struct pb_tcp_view tcp;
	struct pb_tcp_opts opts;
	uint8_t raw_opts[PB_TCP_OPTS_MAX];
	uint32_t len;
	uint64_t time_ns;
};

static bool world_open_as(struct world *w, const struct pb_host_config *cfg, bool v6)
{
	int err;
	uint8_t p4[4] = {192, 0, 2, 1}, p6[16] = {0x20, 1, 0xd, 0xb8, [15] = 1};
	*w = (struct world){.v6 = v6, .lport = PORT, .rport = 4000, .irs = 70000};
	w->us = cfg->addr[v6];
	w->peer = v6 ? pb_ip_from6(p6) : pb_ip_from4(p4);
	w->h = pb_host_create(cfg, &err);
	return w->h != NULL;
}

static bool world_open(struct world *w)
{
	struct pb_host_config cfg;
	pb_host_config_default(&cfg);
	return world_open_as(w, &cfg, false);
}

static void world_close(struct world *w)
{
	struct pb_pool *pool = pb_host_pool(w->h);
	pb_pool_ref(pool);
	pb_host_destroy(w->h);
	CHECK_POOL(pool);
}

/* seq and ack are relative to the two ISNs. */
static unsigned in_opts(struct world *w, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t n,
			const struct pb_tcp_opts *o)
{
	static uint8_t buf[70000];
	uint8_t opts[PB_TCP_OPTS_MAX];
	uint32_t on = o ? pb_tcp_opts_write(opts, o) : 0, len = PB_TCP_HLEN + on + n;
	uint8_t *t = buf + (w->v6 ? pb_ip6_write(buf, &w->peer, &w->us, PB_IPPROTO_TCP, 64, 0, 0, len)
				  : pb_ip4_write(buf, &w->peer, &w->us, PB_IPPROTO_TCP, 64, 0, 1, true, len));
	pb_tcp_write(t, w->rport, w->lport, w->irs + seq, flags & A ? w->iss + ack : 0, flags, 30000, on);
	memcpy(t + PB_TCP_HLEN, opts, on);
	for (uint32_t i = 0; i < n; i++)
		t[PB_TCP_HLEN + on + i] = (uint8_t)(seq + i);
	pb_tcp_set_csum(t, len, &w->peer, &w->us);
	return pb_host_input(w->h, buf, (uint32_t)(t - buf) + len);
}

static unsigned in(struct world *w, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t n)
{
	return in_opts(w, flags, seq, ack, n, NULL);
}

/* The next packet out. False: none. */
static bool out(struct world *w)
{
	static uint8_t buf[4096];
	int n = pb_host_output(w->h, buf, sizeof(buf), &w->time_ns);
	if (n <= 0)
		return false;
	CHECK_EQ(pb_ip_parse(buf, (uint32_t)n, &w->ip), 0);
	CHECK_EQ(w->ip.total_len, n);
	const uint8_t *t = buf + w->ip.hdr_len;
	uint32_t len = w->ip.total_len - w->ip.hdr_len;
	CHECK(pb_tcp_csum_ok(t, len, &w->ip.src, &w->ip.dst));
	CHECK_EQ(pb_tcp_parse(t, len, &w->tcp), 0);
	CHECK_EQ(pb_tcp_opts_parse(w->tcp.opts, w->tcp.opts_len, &w->opts), 0);
	memcpy(w->raw_opts, w->tcp.opts, w->tcp.opts_len);
	w->len = len - w->tcp.hdr_len;
	return true;
}

static void expect_at(struct world *w, int line, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t n)
{
	if (!out(w)) {
		check_failed(__FILE__, line, "nothing came out");
		return;
	}
	if (flags & S)
		w->iss = w->tcp.seq - seq;
	check_eq(__FILE__, line, "flags", w->tcp.flags, flags);
	check_eq(__FILE__, line, "seq", w->tcp.seq - w->iss, seq);
	if (flags & A)
		check_eq(__FILE__, line, "ack", w->tcp.ack - w->irs, ack);
	check_eq(__FILE__, line, "length", w->len, n);
}
#define OUT(flags, seq, ack, n) expect_at(w, __LINE__, flags, seq, ack, n)
#define SILENT() CHECK(!out(w))

static struct pb_tcp_endpoint here(const struct world *w)
{
	return (struct pb_tcp_endpoint){.addr = w->us, .port = w->lport};
}

static int listener(struct world *w)
{
	struct pb_tcp_endpoint l = here(w);
	int s = pb_host_socket(w->h, w->v6 ? 6 : 4, LX_SOCK_STREAM, LX_IPPROTO_TCP);
	CHECK(s >= 0);
	CHECK_EQ(pb_host_bind(w->h, s, &l), 0);
	CHECK_EQ(pb_host_listen(w->h, s, 1), 0);
	return s;
}

static int accepted(struct world *w, int l)
{
	struct pb_tcp_opts o = {.has_mss = true, .mss = 1000, .sack_ok = true, .has_wscale = true, .wscale = 7};
	struct pb_tcp_endpoint remote;
	CHECK_EQ(pb_host_accept(w->h, l, &remote), -EAGAIN);
	CHECK_EQ(in_opts(w, S, 0, 0, 0, &o), 0);
	OUT(S | A, 0, 1, 0);
	CHECK_EQ(pb_host_events(w->h, l), 0);
	CHECK_EQ(in(w, A, 1, 1, 0), 0);
	CHECK_EQ(pb_host_events(w->h, l), LX_POLLIN);
	int s = pb_host_accept(w->h, l, &remote);
	CHECK(s >= 0);
	CHECK(pb_ip_eq(&remote.addr, &w->peer) && remote.port == w->rport);
	return s;
}

static int connected(struct world *w)
{
	struct pb_tcp_endpoint r = {w->peer, w->rport}, l;
	int s = pb_host_socket(w->h, w->v6 ? 6 : 4, LX_SOCK_STREAM, 0);
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
	OUT(S, 0, 0, 0);
	CHECK_EQ(pb_host_names(w->h, s, &l, &r), 0);
	CHECK(pb_ip_eq(&l.addr, &w->us));
	w->lport = l.port;
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EALREADY);
	CHECK_EQ(in_opts(w, S | A, 0, 1, 0, &(struct pb_tcp_opts){.has_mss = true, .mss = 1000}), 0);
	OUT(A, 1, 1, 0);
	CHECK_EQ(pb_host_connect(w->h, s, &r), 0);
	CHECK_EQ(pb_host_connect(w->h, s, &r), -EISCONN);
	return s;
}

static int get_int(struct world *w, int s, int level, int name)
{
	int32_t v = -1;
	uint32_t n = sizeof(v);
	CHECK_EQ(pb_host_getsockopt(w->h, s, level, name, &v, &n), 0);
	CHECK_EQ(n, sizeof(v));
	return v;
}

static int set_int(struct world *w, int s, int level, int name, int32_t v)
{
	return pb_host_setsockopt(w->h, s, level, name, &v, sizeof(v));
}

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

TEST(options_keep_linux_rules)
{
	struct world world, *w = &world;
	uint8_t byte = 0x10;
	REQUIRE(world_open(w));
	int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0);
	CHECK_EQ(set_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF, 21000), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF), 42000);
	CHECK_EQ(set_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF, 1), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF), 4608);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, LX_TCP_MAXSEG, 10), -EINVAL);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, LX_TCP_KEEPCNT, 128), -EINVAL);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, LX_TCP_NODELAY, 7), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_NODELAY), 1);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, 9999, 1), -ENOPROTOOPT);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_TCP, LX_TCP_NODELAY, &byte, 1), -EINVAL);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_TCP, LX_TCP_NODELAY, NULL, 4), -EFAULT);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_IP, LX_IP_TOS, &byte, 1), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_IP, LX_IP_TOS), 0x10);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_TYPE), LX_SOCK_STREAM);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_ACCEPTCONN), 0);
	/* What a listener has, its children have. */
	CHECK_EQ(pb_host_close(w->h, s), 0);
	int l = listener(w);
	CHECK_EQ(set_int(w, l, LX_SOL_TCP, LX_TCP_KEEPIDLE, 77), 0);
	s = accepted(w, l);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_KEEPIDLE), 77);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_MAXSEG), 1000);
	struct pb_lx_tcp_info i;
	uint32_t n = sizeof(i);
	CHECK_EQ(pb_host_getsockopt(w->h, s, LX_SOL_TCP, LX_TCP_INFO, &i, &n), 0);
	CHECK_EQ(n, sizeof(i));
	CHECK_EQ(i.state, LX_ESTABLISHED);
	CHECK_EQ(i.snd_cwnd, 10);
	CHECK_EQ(i.snd_ssthresh, LX_TCP_INFINITE_SSTHRESH);
	CHECK_EQ(i.options, LX_TCPI_OPT_SACK | LX_TCPI_OPT_WSCALE);
	CHECK_EQ(i.wscale & 15, 7);
	n = 6;
	CHECK_EQ(pb_host_getsockopt(w->h, s, LX_SOL_TCP, LX_TCP_INFO, &i, &n), 0);
	CHECK_EQ(n, 6);
	world_close(w);
}

TEST(knobs_have_names_and_fields)
{
	struct world world, *w = &world;
	unsigned fields, i = 0;
	int64_t v;
	REQUIRE(world_open(w));
	for (const char *name; (name = pb_host_knob_name(i, &fields)); i++) {
		CHECK_EQ(pb_host_set_knob(w->h, name, fields - 1, 12 + i), 0);
		CHECK_EQ(pb_host_get_knob(w->h, name, fields - 1, &v), 0);
		CHECK_EQ(v, 12 + i);
		CHECK_EQ(pb_host_set_knob(w->h, name, fields, 1), -EINVAL);
	}
	CHECK(i > 30);
	CHECK_EQ(pb_host_set_knob(w->h, "tcp_nothing", 0, 1), -ENOENT);
	world_close(w);
	/* Those that the engine reads are in the SYN. */
	REQUIRE(world_open(w));
	pb_host_set_knob(w->h, "tcp_sack", 0, 0);
	pb_host_set_knob(w->h, "tcp_timestamps", 0, 0);
	pb_host_set_knob(w->h, "tcp_rmem", 2, 15 << 20);
	connected(w);
	CHECK_EQ(pb_host_get_knob(w->h, "tcp_rmem", 2, &v), 0);
	CHECK_EQ(v, 15 << 20);
	world_close(w);
}

TEST(layouts_of_the_options_of_a_syn)
{
	static const uint8_t linux_order[] = {2, 4, 8, 3}, freebsd_order[] = {2, 3, 4, 8};
	for (int layout = PB_HOST_LINUX; layout <= PB_HOST_FREEBSD; layout++) {
		struct world world, *w = &world;
		struct pb_host_config cfg;
		struct pb_tcp_endpoint r;
		pb_host_config_default(&cfg);
		cfg.layout = (uint8_t)layout;
		REQUIRE(world_open_as(w, &cfg, false));
		r = (struct pb_tcp_endpoint){w->peer, w->rport};
		int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0), k = 0;
		CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
		OUT(S, 0, 0, 0);
		CHECK(w->opts.has_mss && w->opts.sack_ok && w->opts.has_ts && w->opts.has_wscale);
		uint8_t seen[8] = {0};
		for (uint32_t i = 0; i < w->tcp.opts_len && k < 8; i += w->raw_opts[i] == 1 ? 1 : w->raw_opts[i + 1])
			if (w->raw_opts[i] > 1)
				seen[k++] = w->raw_opts[i];
		CHECK_EQ(k, 4);
		/* Linux has SACK-permitted before the timestamps, FreeBSD the window scale before both. */
		CHECK_MEM(seen, layout == PB_HOST_LINUX ? linux_order : freebsd_order, 4);
		world_close(w);
	}
}

/* 2 * 5 segments at a window of 10: Linux builds super-segments of at most half the window. */
TEST(psh_where_linux_ends_a_super_segment)
{
	struct world world, *w = &world;
	struct pb_host_config cfg;
	static uint8_t data[10000];
	pb_host_config_default(&cfg);
	cfg.psh = true;
	REQUIRE(world_open_as(w, &cfg, false));
	int s = accepted(w, listener(w));
	CHECK_EQ(pb_host_send(w->h, s, data, sizeof(data), 0), sizeof(data));
	for (uint32_t i = 0; i < 10; i++)
		OUT((uint8_t)(A | (i % 5 == 4 ? P : 0)), 1 + i * 1000, 1, 1000);
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

TEST(bad_configurations)
{
	struct pb_host_config cfg;
	int err = 0;
	pb_host_config_default(&cfg);
	cfg.layout = 9;
	CHECK(!pb_host_create(&cfg, &err) && err == -EINVAL);
	pb_host_config_default(&cfg);
	cfg.mtu[0] = 100;
	CHECK(!pb_host_create(&cfg, &err) && err == -EINVAL);
	pb_host_config_default(&cfg);
	cfg.frames = 3;
	CHECK(!pb_host_create(&cfg, &err) && err == -EINVAL);
}

MAIN(T(a_server_from_listen_to_close), T(the_same_in_ipv6), T(what_linux_says_of_sockets_that_are_not_connected),
     T(a_refused_connect_tells_its_error_once), T(a_connect_that_nobody_answers_ends_by_the_knob),
     T(a_reset_is_told_once_and_then_the_end), T(half_closed_both_ways), T(linger_of_no_time_resets),
     T(options_keep_linux_rules), T(knobs_have_names_and_fields), T(layouts_of_the_options_of_a_syn),
     T(psh_where_linux_ends_a_super_segment), T(a_super_segment_from_the_peer_is_cut), T(icmp_fails_an_open),
     T(nothing_leaves_while_it_is_stuck), T(many_packets_wait_to_be_fetched), T(bad_configurations))
