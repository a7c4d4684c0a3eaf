/* Out: the backlog first, then what the application injects, then the engine, as much as the device may take. */
#include "path/path.h"

#include <errno.h>

#define PARK_NS 3000000000ull /* RFC 1122 2.3.2.2: keep packets for a while until the address is resolved */

/* A device that was set down takes nothing, and may come up again: what is sent meanwhile is lost and counted, as on
 * any link, and the device is tried again after a while. */
static int flush_down(struct pb_path *p, uint64_t now_ns)
{
	if (!p->down_until_ns)
		p->down_until_ns = now_ns + PB_PATH_DOWN_NS;
	p->stats.drops.n[PB_DROP_LINK_DOWN] += p->nbacklog - p->nheads;
	pb_tcp_tx_drop(p->tcp, p->backlog, p->nbacklog);
	p->nbacklog = p->nheads = 0;
	return 0;
}

static bool is_down(struct pb_path *p, uint64_t now_ns)
{
	if (!p->down_until_ns || p->down_until_ns > now_ns)
		return p->down_until_ns;
	bool down = pb_dev_tx(p->dev, NULL, 0, PB_OWN_ENGINE, now_ns) == -ENETDOWN;
	p->down_until_ns = down ? now_ns + PB_PATH_DOWN_NS : 0;
	return down;
}

/* What the device took of the backlog. Packets of one frame are the rule. */
static void sent(struct pb_path *p, const struct pb_desc *d, uint32_t n, uint64_t now_ns)
{
	uint32_t heads = 0;
	for (uint32_t i = 0; p->nheads && i < n; i++)
		heads += !!(d[i].flags & PB_DESC_MORE);
	p->nheads -= heads;
	p->stats.tx_pkts += n - heads;
	for (uint32_t i = 0, len, bytes; p->tap && i < n && (len = pb_desc_packet(d + i, n - i, &bytes)); i += len)
		pb_tap_packet(p->tap, p->dev->pool, d + i, len, true, now_ns);
}

/* Hands the backlog to the device. Returns descriptors taken, or -errno. */
int pb_path_flush(struct pb_path *p, uint64_t now_ns)
{
	bool down = is_down(p, now_ns);
	if (!p->nbacklog)
		return 0;
	int n = down ? -ENETDOWN : pb_dev_tx(p->dev, p->backlog, (int)p->nbacklog, PB_OWN_ENGINE, now_ns);
	if (n == -ENETDOWN)
		return flush_down(p, now_ns);
	if (n <= 0)
		return n;
	sent(p, p->backlog, (uint32_t)n, now_ns);
	p->nbacklog -= (uint32_t)n;
	memmove(p->backlog, p->backlog + n, p->nbacklog * sizeof(p->backlog[0]));
	return n;
}

static void tell_of_neigh(struct pb_path *p, const struct pb_ip *addr, enum pb_exc_reason reason)
{
	if (!p->chan || !pb_ring_room(&p->chan->exc, 1))
		return;
	struct pb_exc x = {.reason = reason, .addr = *addr};
	pb_ring_put(&p->chan->exc, &x, 1);
	pb_path_wake_slow(p);
}

void pb_path_want_neigh(struct pb_path *p, const struct pb_ip *addr)
{
	tell_of_neigh(p, addr, PB_EXC_NEIGH);
}

void pb_path_doubt_neigh(struct pb_path *p, const struct pb_ip *dst)
{
	struct pb_ip hop;
	if (!pb_net_route(&p->net, dst, &hop))
		tell_of_neigh(p, &hop, PB_EXC_DOUBT);
}

static void drop_oldest_parked(struct pb_path *p)
{
	p->stats.drops.n[PB_DROP_NO_NEIGH]++;
	pb_tcp_tx_drop(p->tcp, p->parked[0].d, p->parked[0].n);
	p->nparked--;
	memmove(p->parked, p->parked + 1, p->nparked * sizeof(p->parked[0]));
}

static void put_backlog(struct pb_path *p, const struct pb_desc *d, uint32_t n)
{
	p->nheads += n - 1;
	for (uint32_t i = 0; i < n; i++)
		p->backlog[p->nbacklog++] = d[i];
}

/* Gives an IP packet its L2 header and puts it on the backlog, or aside, or away. */
static void enqueue(struct pb_path *p, struct pb_desc *d, uint32_t n, uint64_t now_ns)
{
	struct pb_ip missing;
	enum pb_drop why = pb_net_l2(&p->net, p->dev->pool, d, &missing);
	if (!why) {
		if (n == 1)
			p->backlog[p->nbacklog++] = *d;
		else
			put_backlog(p, d, n);
		return;
	}
	if (why == PB_DROP_NO_NEIGH) {
		pb_path_want_neigh(p, &missing);
		if (p->nparked == PB_PATH_PARKED)
			drop_oldest_parked(p); /* RFC 1122 2.3.2.2: the latest packet is the one to keep */
		struct pb_parked *k = &p->parked[p->nparked++];
		*k = (struct pb_parked){.n = n, .until_ns = now_ns + PARK_NS};
		memcpy(k->d, d, n * sizeof(*d));
		p->stats.parked++;
		return;
	}
	p->stats.drops.n[why]++;
	pb_tcp_tx_drop(p->tcp, d, n);
}

/* What waits for a MAC address that is known by now goes to the backlog, the oldest first, and nothing overtakes what
 * has no room there yet: then the engine sends nothing new either, since the backlog is full. So the packets of a flow
 * come to the device in the order in which the engine made them, and a frame's first reference before its second
 * (PB_DESC_AGAIN). False: some have no room. */
static bool retry_parked(struct pb_path *p)
{
	uint32_t i = 0, kept = 0;
	struct pb_ip missing;
	if (!p->nparked || p->net_seen == p->net.changes)
		return true;
	for (; i < p->nparked && p->nbacklog + p->parked[i].n <= PB_PATH_BACKLOG; i++) {
		struct pb_parked *k = &p->parked[i];
		enum pb_drop why = pb_net_l2(&p->net, p->dev->pool, k->d, &missing);
		if (!why) {
			put_backlog(p, k->d, k->n);
		} else if (why == PB_DROP_NO_NEIGH) {
			p->parked[kept++] = *k;
		} else { /* the routes are others by now */
			p->stats.drops.n[why]++;
			pb_tcp_tx_drop(p->tcp, k->d, k->n);
		}
	}
	bool all = i == p->nparked;
	memmove(&p->parked[kept], &p->parked[i], (p->nparked - i) * sizeof(p->parked[0]));
	p->nparked -= i - kept;
	if (all)
		p->net_seen = p->net.changes;
	return all;
}

void pb_path_unpark(struct pb_path *p, uint64_t now_ns)
{
	retry_parked(p);
	pb_path_flush(p, now_ns);
}

static void drop_stale(struct pb_path *p, uint64_t now_ns)
{
	uint32_t kept = 0;
	for (uint32_t i = 0; i < p->nparked; i++) {
		if (p->parked[i].until_ns > now_ns) {
			p->parked[kept++] = p->parked[i];
			continue;
		}
		p->stats.drops.n[PB_DROP_NO_NEIGH]++;
		pb_tcp_tx_drop(p->tcp, p->parked[i].d, p->parked[i].n);
	}
	p->nparked = kept;
}

static int take_injected(struct pb_path *p, uint64_t now_ns)
{
	if (!p->chan)
		return 0;
	int n = 0;
	struct pb_desc d;
	while (p->nbacklog < PB_PATH_BACKLOG && pb_ring_get(&p->chan->inj, &d, 1)) {
		n++;
		if (d.flags & (PB_DESC_ADMITTED | PB_DESC_REFUSED)) {
			pb_path_judged(p, &d, now_ns);
			continue;
		}
		pb_pool_move(p->dev->cache, d.addr, PB_OWN_APP, PB_OWN_ENGINE);
		p->backlog[p->nbacklog++] = d;
		p->stats.injected++;
	}
	return n;
}

int pb_path_transmit(struct pb_path *p, uint64_t now_ns)
{
	struct pb_desc d[PB_BURST_MAX];
	int first = pb_path_flush(p, now_ns);
	if (first < 0)
		return first;
	if (p->nparked && retry_parked(p))
		drop_stale(p, now_ns);
	take_injected(p, now_ns);
	if (p->nbacklog + PB_BURST_MAX <= PB_PATH_BACKLOG) {
		int n = pb_tcp_output(p->tcp, d, PB_BURST_MAX, now_ns);
		for (int i = 0, len; i < n; i += len) {
			len = d[i].flags & PB_DESC_MORE ? PB_PATH_CHAIN : 1;
			enqueue(p, &d[i], (uint32_t)len, now_ns);
		}
	}
	int more = pb_path_flush(p, now_ns);
	if (more < 0)
		return more;
	/* Nothing to hand over, but the driver was not yet woken for all of what it has. */
	if (!more && p->dev->tx_pending && !p->down_until_ns &&
	    pb_dev_tx(p->dev, d, 0, PB_OWN_ENGINE, now_ns) == -ENETDOWN)
		flush_down(p, now_ns);
	return first + more;
}
