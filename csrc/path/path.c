#include "path/path.h"

#include "base/handles.h"
#include "path/group.h"

#include <errno.h>
#include <stdlib.h>

struct pb_path *pb_path_create(struct pb_dev *dev, const struct pb_tcp_config *tcp, struct pb_chan *chan, int *err)
{
	*err = -ENOMEM;
	struct pb_path *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	struct pb_tcp_config cfg = *tcp;
	if (!cfg.mtu || cfg.mtu > dev->mtu)
		cfg.mtu = dev->mtu;
	cfg.tx_chains = pb_dev_chains_again(dev);
	*err = pb_net_init(&p->net, dev->mac);
	if (*err) {
		free(p);
		return NULL;
	}
	p->tcp = pb_tcp_create(&cfg, dev->cache, err);
	if (!p->tcp) {
		pb_net_fini(&p->net);
		free(p);
		return NULL;
	}
	p->dev = dev;
	p->chan = chan;
	pb_handle_opened(PB_HANDLE_PATH);
	return p;
}

void pb_path_wake_slow(struct pb_path *p)
{
	pb_waitq_wake(&p->chan->slow);
	if (p->group)
		pb_waitq_wake(pb_group_waitq(p->group, true));
}

/* Frames in the rings have owner APP. */
static void drain_chan(struct pb_path *p)
{
	struct pb_cmd cmd;
	struct pb_ev ev;
	struct pb_exc exc;
	struct pb_desc d;
	while (pb_ring_get(&p->chan->cmd, &cmd, 1))
		for (int i = 0; cmd.op == PB_CMD_SEND && i < cmd.n; i++)
			pb_pool_put(p->dev->cache, cmd.refs[i].addr, PB_OWN_APP);
	while (pb_ring_get(&p->chan->ev, &ev, 1))
		for (int i = 0; ev.op == PB_EV_DATA && i < ev.n; i++)
			pb_pool_put(p->dev->cache, ev.refs[i].addr, PB_OWN_APP);
	while (pb_ring_get(&p->chan->exc, &exc, 1))
		if (exc.reason != PB_EXC_NEIGH && exc.reason != PB_EXC_DOUBT)
			pb_pool_put(p->dev->cache, exc.d.addr, PB_OWN_APP);
	while (pb_ring_get(&p->chan->inj, &d, 1))
		pb_pool_put(p->dev->cache, d.addr, PB_OWN_APP);
}

void pb_path_destroy(struct pb_path *p)
{
	if (!p)
		return;
	pb_group_leave(p);
	pb_tcp_tx_drop(p->tcp, p->backlog, p->nbacklog);
	for (uint32_t i = 0; i < p->nparked; i++)
		pb_tcp_tx_drop(p->tcp, p->parked[i].d, p->parked[i].n);
	if (p->chan)
		drain_chan(p);
	/* Frames with the device are marked for release; its close makes them FREE. */
	pb_tcp_destroy(p->tcp);
	pb_net_fini(&p->net);
	p->dev->ops->close(p->dev);
	free(p);
	pb_handle_closed(PB_HANDLE_PATH);
}

static void reap(struct pb_path *p, uint64_t now_ns)
{
	uint64_t addrs[PB_BURST_MAX];
	int n;
	do {
		n = pb_dev_reap(p->dev, addrs, PB_BURST_MAX, now_ns);
		if (n > 0)
			pb_tcp_tx_done(p->tcp, addrs, n);
	} while (n == PB_BURST_MAX);
}

static bool wants_out(const struct pb_path *p, uint64_t now_ns)
{
	return p->nbacklog || p->nparked || p->dev->tx_pending || pb_tcp_has_output(p->tcp) ||
	       (p->down_until_ns && p->down_until_ns <= now_ns) || (p->chan && pb_ring_avail(&p->chan->inj, 1));
}

/* A thread that waited for its turn comes with a time from before. */
static uint64_t not_before(struct pb_path *p, uint64_t now_ns)
{
	p->now_ns = now_ns > p->now_ns ? now_ns : p->now_ns;
	return p->now_ns;
}

int pb_path_push(struct pb_path *p, uint64_t now_ns)
{
	now_ns = not_before(p, now_ns);
	int done = p->chan ? pb_path_commands(p, now_ns) : 0;
	int sent = wants_out(p, now_ns) ? pb_path_transmit(p, now_ns) : 0;
	return sent < 0 ? sent : done + sent;
}

int pb_path_step(struct pb_path *p, uint64_t now_ns)
{
	now_ns = not_before(p, now_ns);
	reap(p, now_ns);
	int work = pb_path_receive(p, now_ns);
	if (work < 0)
		return work;
	if (p->group)
		work += pb_group_receive(p, now_ns);
	int told = p->chan ? pb_path_commands(p, now_ns) : 0;
	if (pb_tcp_next_deadline(p->tcp) <= now_ns)
		pb_tcp_expire(p->tcp, now_ns);
	int sent = wants_out(p, now_ns) ? pb_path_transmit(p, now_ns) : 0;
	if (sent < 0)
		return sent;
	if (p->chan)
		told += pb_path_tell(p);
	if (told) {
		pb_waitq_wake(&p->chan->app);
		if (p->group)
			pb_waitq_wake(pb_group_waitq(p->group, false));
	}
	work += sent + told;
	p->stats.steps++;
	p->stats.idle_steps += !work;
	return work;
}

uint64_t pb_path_next_ns(const struct pb_path *p)
{
	if (p->nbacklog || (p->dev->tx_pending && !p->down_until_ns) || pb_tcp_has_output(p->tcp))
		return 0;
	uint64_t t = pb_tcp_next_deadline(p->tcp), dev = pb_dev_next_ns(p->dev);
	t = dev < t ? dev : t;
	t = p->down_until_ns && p->down_until_ns < t ? p->down_until_ns : t;
	for (uint32_t i = 0; i < p->nparked; i++)
		t = p->parked[i].until_ns < t ? p->parked[i].until_ns : t;
	return t;
}

void pb_path_report(struct pb_path *p, struct pb_path_report *r)
{
	if (p->dev->ops->stats)
		p->dev->ops->stats(p->dev);
	r->path = p->stats;
	r->tcp = *pb_tcp_get_stats(p->tcp);
	r->dev = p->dev->stats;
}
