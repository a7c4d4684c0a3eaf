/* A host for scripts and a peer made by hand: packets in and out by flags and relative numbers, sockets of each kind.
 */
#ifndef PB_TEST_HOST_WORLD_H
#define PB_TEST_HOST_WORLD_H

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

static UNUSED bool world_open_as(struct world *w, const struct pb_host_config *cfg, bool v6)
{
	int err;
	uint8_t p4[4] = {192, 0, 2, 1}, p6[16] = {0x20, 1, 0xd, 0xb8, [15] = 1};
	*w = (struct world){.v6 = v6, .lport = PORT, .rport = 4000, .irs = 70000};
	w->us = cfg->addr[v6];
	w->peer = v6 ? pb_ip_from6(p6) : pb_ip_from4(p4);
	w->h = pb_host_create(cfg, &err);
	return w->h != NULL;
}

static UNUSED bool world_open(struct world *w)
{
	struct pb_host_config cfg;
	pb_host_config_default(&cfg);
	return world_open_as(w, &cfg, false);
}

static UNUSED void world_close(struct world *w)
{
	struct pb_pool *pool = pb_host_pool(w->h);
	pb_pool_ref(pool);
	pb_host_destroy(w->h);
	CHECK_POOL(pool);
}

/* seq and ack are relative to the two ISNs. */
static UNUSED unsigned in_opts(struct world *w, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t n,
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

static UNUSED unsigned in(struct world *w, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t n)
{
	return in_opts(w, flags, seq, ack, n, NULL);
}

/* The next packet out. False: none. */
static UNUSED bool out(struct world *w)
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

static UNUSED void expect_at(struct world *w, int line, uint8_t flags, uint32_t seq, uint32_t ack, uint32_t n)
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

static UNUSED struct pb_tcp_endpoint here(const struct world *w)
{
	return (struct pb_tcp_endpoint){.addr = w->us, .port = w->lport};
}

static UNUSED int listener(struct world *w)
{
	struct pb_tcp_endpoint l = here(w);
	int s = pb_host_socket(w->h, w->v6 ? 6 : 4, LX_SOCK_STREAM, LX_IPPROTO_TCP);
	CHECK(s >= 0);
	CHECK_EQ(pb_host_bind(w->h, s, &l), 0);
	CHECK_EQ(pb_host_listen(w->h, s, 1), 0);
	return s;
}

static UNUSED int accepted(struct world *w, int l)
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

static UNUSED int connected(struct world *w)
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

static UNUSED int get_int(struct world *w, int s, int level, int name)
{
	int32_t v = -1;
	uint32_t n = sizeof(v);
	CHECK_EQ(pb_host_getsockopt(w->h, s, level, name, &v, &n), 0);
	CHECK_EQ(n, sizeof(v));
	return v;
}

static UNUSED int set_int(struct world *w, int s, int level, int name, int32_t v)
{
	return pb_host_setsockopt(w->h, s, level, name, &v, sizeof(v));
}

#endif
