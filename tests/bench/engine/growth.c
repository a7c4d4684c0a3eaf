/* Two engines in one thread, N connections between them, visited in an order that no cache foresees: each visit sends
 * two full segments, and the other end reads them. Prints ns per data segment; the same bytes for every N.
 *   growth CONNECTIONS SEGMENTS */
#include "tcp/tcp.h"
#include "wire/tcp.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define VISITS 16u /* a burst */
#define AHEAD 2u   /* connections are fetched so many visits before, as by the path's loop from its ring of commands */
#define MSS 1460u
#define PORTS 50000u /* of one server address */

struct end {
	struct pb_pool *pool;
	struct pb_pool_cache *cache;
	struct pb_tcp *e;
	pb_tcp_handle *conn;
};

static struct end end[2];
static uint64_t now_ns = 1000000000;

static uint64_t clock_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int open_end(struct end *s, uint32_t n)
{
	int err;
	struct pb_tcp_config c;
	pb_tcp_config_default(&c);
	c.max_conns = n;
	c.timestamps = false;
	s->pool = pb_pool_create(8192, 2048, PB_WANT_BEST, &err);
	s->cache = s->pool ? pb_pool_cache_create(s->pool, &err) : NULL;
	s->e = s->cache ? pb_tcp_create(&c, s->cache, &err) : NULL;
	s->conn = calloc(n, sizeof(*s->conn));
	return s->e && s->conn ? 0 : -1;
}

/* All that one end wants to send, to the other: the wire copies, as the mem device does. Returns how many. */
static int carry(struct end *from, struct end *to)
{
	struct pb_desc d[PB_BURST_MAX], in[PB_BURST_MAX];
	struct pb_tcp_verdict v[PB_BURST_MAX];
	uint64_t addr[PB_BURST_MAX], done[PB_BURST_MAX];
	int n = pb_tcp_output(from->e, d, PB_BURST_MAX, now_ns);
	if (n <= 0 || pb_pool_get(to->cache, addr, (uint32_t)n, 0, PB_OWN_RX) != (uint32_t)n)
		return n > 0 ? -1 : n;
	for (int i = 0; i < n; i++) {
		pb_pool_move(from->cache, d[i].addr, PB_OWN_ENGINE, PB_OWN_TX);
		in[i] = (struct pb_desc){.addr = addr[i], .off = 64, .len = d[i].len};
		memcpy(pb_pool_data(to->pool, &in[i]), pb_pool_data(from->pool, &d[i]), d[i].len);
		done[i] = d[i].addr;
	}
	pb_tcp_tx_done(from->e, done, n);
	pb_tcp_input(to->e, in, n, now_ns, v);
	for (int i = 0; i < n; i++)
		if (v[i].what != PB_VERDICT_TAKEN)
			pb_pool_put(to->cache, in[i].addr, PB_OWN_RX);
	return n;
}

static int settle(void)
{
	struct pb_tcp_event ev[64];
	for (int moved = 1; moved;) {
		int there = carry(&end[0], &end[1]), back = carry(&end[1], &end[0]);
		if (there < 0 || back < 0)
			return -1;
		moved = there + back;
	}
	for (int i = 0; i < 2; i++) {
		now_ns += 500;
		pb_tcp_expire(end[i].e, now_ns);
		while (pb_tcp_events(end[i].e, ev, 64) > 0)
			;
	}
	return 0;
}

static int open_conn(uint32_t i)
{
	static pb_tcp_handle listener[8];
	uint32_t host = i / PORTS;
	const uint8_t a[4] = {10, 0, 0, 1}, b[4] = {10, 0, 1, (uint8_t)(1 + host)};
	struct pb_tcp_endpoint us = {pb_ip_from4(a), (uint16_t)(1024 + i % PORTS)}, peer = {pb_ip_from4(b), 80};
	if (!listener[host] && pb_tcp_listen(end[1].e, &peer, 64, &listener[host]))
		return -1;
	if (pb_tcp_connect(end[0].e, &us, &peer, now_ns, &end[0].conn[i]) || settle())
		return -1;
	return pb_tcp_accept(end[1].e, listener[host], &end[1].conn[i]);
}

/* So many segments, two a visit. Visits jump by a stride that is prime. */
static int move(uint32_t n, uint64_t segments)
{
	static uint8_t out[2 * MSS], in[65536];
	uint64_t sent = 0, received = 0, goal = segments * MSS;
	uint32_t at = 0;
	pb_tcp_handle from[VISITS], to[VISITS];
	while (received < goal) {
		for (uint32_t i = 0; i < VISITS; i++) {
			from[i] = end[0].conn[at];
			to[i] = end[1].conn[at];
			at = (uint32_t)(((uint64_t)at + 39916801) % n);
		}
		for (uint32_t i = 0; i < VISITS; i++) {
			if (i + AHEAD < VISITS)
				pb_tcp_prefetch(end[0].e, from[i + AHEAD]);
			int64_t k = pb_tcp_send(end[0].e, from[i], out, sizeof(out), 0);
			sent += k > 0 ? (uint64_t)k : 0;
		}
		if (settle())
			return -1;
		for (uint32_t i = 0; i < VISITS; i++)
			for (int64_t k; (k = pb_tcp_recv(end[1].e, to[i], in, sizeof(in), now_ns)) > 0;)
				received += (uint64_t)k;
		if (settle())
			return -1;
	}
	return sent >= received ? 0 : -1;
}

int main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 0) : 1;
	uint64_t segments = argc > 2 ? strtoull(argv[2], NULL, 0) : 400000;
	if (!n || n > 8 * PORTS || open_end(&end[0], n) || open_end(&end[1], n))
		return fprintf(stderr, "cannot open\n"), 1;
	for (uint32_t i = 0; i < n; i++)
		if (open_conn(i))
			return fprintf(stderr, "no connection %u\n", i), 1;
	if (move(n, segments / 4))
		return fprintf(stderr, "transfer failed\n"), 1;
	uint64_t t0 = clock_ns();
	if (move(n, segments))
		return fprintf(stderr, "transfer failed\n"), 1;
	const uint64_t *c = pb_tcp_get_stats(end[0].e)->n;
	printf("{\"ns_per_segment\": %.2f, \"retransmitted\": %lu}\n", (double)(clock_ns() - t0) / (double)segments,
	       (unsigned long)c[PB_C_TcpRetransSegs]);
	return 0;
}
