/* What the application of the fuzz target does: reads, holds and writes, connects and listens. */
#ifndef PB_FUZZ_TCP_APP_H
#define PB_FUZZ_TCP_APP_H
#include "tcp_peer.h"

static void events(struct fuzz *f)
{
	struct pb_tcp_event ev[4];
	int n = pb_tcp_events(f->e, ev, 4);
	for (int i = 0; i < n; i++)
		if ((ev[i].mask & PB_TCP_EV_GONE) && ev[i].conn == f->h)
			f->open = false;
	check_trace(f);
}

static void app_recv(struct fuzz *f, uint8_t how)
{
	uint8_t buf[2048];
	struct pb_desc d;
	uint64_t at = f->read;
	if (how & 1) {
		int64_t n = pb_tcp_recv(f->e, f->h, buf, 1 + how * 8u, f->now_ns);
		if (n > 0)
			check_bytes(f, buf, (uint32_t)n);
	} else if (f->nheld < APP_MAX && pb_tcp_recv_frames(f->e, f->h, &d, 1) == 1) {
		check_bytes(f, pb_pool_data(f->pool, &d), d.len);
		f->held[f->nheld++] = (struct held){d, at};
	}
}

/* What was handed up is still what it was. */
static void app_release(struct fuzz *f)
{
	if (!f->nheld)
		return;
	struct held *h = &f->held[--f->nheld];
	const uint8_t *p = pb_pool_data(f->pool, &h->d);
	for (uint32_t i = 0; i < h->d.len; i++)
		HOLDS(p[i] == rx_byte((uint32_t)(h->at + i)));
	pb_pool_put(f->cache, h->d.addr, PB_OWN_APP);
	pb_tcp_consumed(f->e, f->h, 1);
	refill(f);
}

static void wrote(struct fuzz *f, uint32_t n, bool record)
{
	f->wrote += n;
	if (record)
		f->records[f->nrecords++ % RECORDS] = (uint32_t)f->wrote;
}

static void app_send(struct fuzz *f, uint8_t op, uint8_t how)
{
	uint8_t buf[16384];
	uint32_t n = op & 32 ? 1u + how : how * 64u;
	unsigned flags = (op & 16 ? PB_TCP_MORE : 0u) | (op & 64 ? PB_TCP_EOR : 0u);
	if (op & 128) {
		uint64_t addr;
		if (!n || n > 1900 || !pb_pool_get(f->cache, &addr, 1, 40, PB_OWN_APP))
			return;
		struct pb_desc d = {.addr = addr, .off = PB_TCP_HEADROOM + (how & 6), .len = (uint16_t)n};
		d.flags = (uint16_t)((op & 16 ? PB_DESC_MORE : 0) | (op & 64 ? PB_DESC_EOR : 0));
		uint8_t *p = pb_pool_data(f->pool, &d);
		for (uint32_t i = 0; i < n; i++)
			p[i] = tx_byte((uint32_t)(f->wrote + i));
		uint32_t sum = pb_csum_partial(p, n, 0);
		if (pb_tcp_send_frames(f->e, f->h, &d, &sum, 1) == 1)
			wrote(f, n, op & 64);
		else
			pb_pool_put(f->cache, addr, PB_OWN_APP);
		return;
	}
	for (uint32_t i = 0; i < n; i++)
		buf[i] = tx_byte((uint32_t)(f->wrote + i));
	int64_t k = pb_tcp_send(f->e, f->h, buf, n, flags);
	HOLDS(k <= (int64_t)n);
	wrote(f, k > 0 ? (uint32_t)k : 0, k > 0 && k == (int64_t)n && (op & 64));
}

static void app_connect(struct fuzz *f)
{
	struct pb_tcp_endpoint us = {f->us, 1000}, peer = {f->peer, 2000};
	pb_tcp_handle h;
	if (f->open || pb_tcp_connect(f->e, &us, &peer, f->now_ns, &h))
		return;
	renew(f);
	f->h = h;
	f->open = true;
}

/* The listener goes, with all that waits in it; another comes, on any address or on ours. */
static void app_listen_again(struct fuzz *f, bool any)
{
	struct pb_tcp_endpoint here = {.port = 1000};
	if (!any)
		here.addr = f->us;
	if (f->l) {
		HOLDS(!pb_tcp_close(f->e, f->l, f->now_ns));
		events(f);
		f->l = 0;
	}
	if (pb_tcp_listen(f->e, &here, 2, &f->l))
		f->l = 0;
}

static void app_accept(struct fuzz *f)
{
	if (f->open || pb_tcp_accept(f->e, f->l, &f->h))
		return;
	f->open = true;
	f->read = f->wrote = 0;
	f->nrecords = 0;
}
#endif
