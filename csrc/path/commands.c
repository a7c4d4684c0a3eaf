/* The application's commands, and what is told to it. */
#include "path/path.h"

#include <errno.h>

/* Answers need a place in the event ring: a command waits until there is one. */
static bool push_ev(struct pb_path *p, const struct pb_ev *ev)
{
	return pb_ring_put(&p->chan->ev, ev, 1) == 1;
}

static void opened(struct pb_path *p, const struct pb_cmd *c, int rc, pb_tcp_handle h)
{
	struct pb_ev ev = {.op = PB_EV_OPENED, .cookie = c->cookie, .h = h};
	struct pb_tcp_info info;
	ev.opened.rc = rc;
	if (!rc) {
		pb_tcp_set_cookie(p->tcp, h, c->cookie);
		pb_tcp_get_info(p->tcp, h, &info);
		ev.opened.mss = info.mss;
		ev.opened.laddr = info.local.addr;
		ev.opened.lport = info.local.port;
		ev.opened.raddr = info.remote.addr;
		ev.opened.rport = info.remote.port;
	}
	push_ev(p, &ev);
}

static void cmd_open(struct pb_path *p, const struct pb_cmd *c, uint64_t now_ns)
{
	struct pb_tcp_endpoint l = {c->open.laddr, c->open.lport}, r = {c->open.raddr, c->open.rport};
	pb_tcp_handle h = 0;
	int rc;
	if (c->op == PB_CMD_CONNECT) {
		struct pb_ip hop;
		rc = pb_net_is_local(&p->net, &l.addr) ? pb_net_route(&p->net, &r.addr, &hop) : -EADDRNOTAVAIL;
		if (!rc)
			rc = pb_tcp_connect(p->tcp, &l, &r, now_ns, &h);
	} else if (c->op == PB_CMD_LISTEN) {
		rc = pb_tcp_listen(p->tcp, &l, c->open.backlog, &h);
	} else {
		rc = pb_tcp_accept(p->tcp, c->h, &h);
	}
	opened(p, c, rc, h);
}

static void cmd_send(struct pb_path *p, const struct pb_cmd *c)
{
	struct pb_desc d[PB_REFS_MAX];
	uint32_t sums[PB_REFS_MAX];
	for (int i = 0; i < c->n; i++) {
		d[i] = (struct pb_desc){.addr = c->refs[i].addr, .off = c->refs[i].off, .len = c->refs[i].len};
		bool last = i + 1 == c->n;
		d[i].flags = last && !(c->u16 & PB_TCP_MORE) ? 0 : PB_DESC_MORE;
		d[i].flags |= last && (c->u16 & PB_TCP_EOR) ? PB_DESC_EOR : 0;
		sums[i] = c->refs[i].sum;
	}
	int done = pb_tcp_send_frames(p->tcp, c->h, d, sums, c->n);
	/* The connection is gone: so are its bytes, as in any socket; the state event says why. */
	for (int i = done < 0 ? 0 : done; i < c->n; i++)
		pb_pool_put(p->dev->cache, d[i].addr, PB_OWN_APP);
}

static void reply(struct pb_path *p, const struct pb_cmd *c, int rc)
{
	struct pb_ev ev = {.op = PB_EV_REPLY, .cookie = c->cookie, .h = c->h};
	ev.rc = rc;
	push_ev(p, &ev);
}

static void read_trace(struct pb_path *p, struct pb_trace_want *w)
{
	w->n = pb_tcp_trace_read(p->tcp, w->records, w->room, &w->lost);
}

static void run(struct pb_path *p, const struct pb_cmd *c, uint64_t now_ns)
{
	switch (c->op) {
	case PB_CMD_CONNECT:
	case PB_CMD_LISTEN:
	case PB_CMD_ACCEPT:
		cmd_open(p, c, now_ns);
		break;
	case PB_CMD_SEND:
		cmd_send(p, c);
		break;
	case PB_CMD_CONSUMED:
		pb_tcp_consumed(p->tcp, c->h, c->u32);
		break;
	case PB_CMD_SHUTDOWN:
		reply(p, c, pb_tcp_shutdown(p->tcp, c->h, (int)c->u32, now_ns));
		break;
	case PB_CMD_CLOSE:
		pb_tcp_close(p->tcp, c->h, now_ns);
		break;
	case PB_CMD_ABORT:
		pb_tcp_abort(p->tcp, c->h, now_ns);
		break;
	case PB_CMD_INFO:
		reply(p, c, pb_tcp_get_info(p->tcp, c->h, c->ptr));
		break;
	case PB_CMD_STATS:
		pb_path_report(p, c->ptr);
		reply(p, c, 0);
		break;
	case PB_CMD_OPTION:
		reply(p, c, pb_tcp_set_option(p->tcp, c->h, c->option.which, c->option.value, now_ns));
		break;
	case PB_CMD_GET_OPTION:
		reply(p, c, pb_tcp_get_option(p->tcp, c->h, c->option.which, c->option.ptr));
		break;
	case PB_CMD_CC:
		reply(p, c, pb_tcp_set_cc(p->tcp, c->h, c->option.ptr));
		break;
	case PB_CMD_TRACE:
		read_trace(p, c->ptr);
		reply(p, c, 0);
		break;
	case PB_CMD_NEIGH:
		pb_net_neigh_set(&p->net, &c->neigh.addr, c->neigh.valid ? c->neigh.mac : NULL);
		pb_path_unpark(p, now_ns);
		break;
	case PB_CMD_ROUTES:
		pb_net_set_routes(&p->net, c->ptr);
		reply(p, c, 0);
		break;
	case PB_CMD_TAP:
		p->tap = c->ptr;
		reply(p, c, 0);
		break;
	default:
		reply(p, c, -EINVAL);
		break;
	}
}

#define AHEAD 2u /* commands: connections that are fetched while one is served */

int pb_path_commands(struct pb_path *p, uint64_t now_ns)
{
	int n = 0;
	uint32_t left;
	while (n < PB_BURST_MAX && (left = pb_ring_avail(&p->chan->cmd, 1)) && pb_ring_room(&p->chan->ev, 1)) {
		const struct pb_cmd *c = pb_ring_cons_slot(&p->chan->cmd, 0);
		if (left > AHEAD)
			pb_tcp_prefetch(p->tcp, ((struct pb_cmd *)pb_ring_cons_slot(&p->chan->cmd, AHEAD))->h);
		run(p, c, now_ns);
		pb_ring_release(&p->chan->cmd, 1);
		n++;
	}
	return n;
}

/* Written where it goes, and there is room: no copy waits for what was just stored. pb_ring_submit() follows. */
static struct pb_ev *next_ev(struct pb_path *p, enum pb_ev_op op, const struct pb_tcp_event *t)
{
	struct pb_ev *ev = pb_ring_prod_slot(&p->chan->ev, 0);
	ev->op = (uint8_t)op;
	ev->cookie = t->cookie;
	ev->h = t->conn;
	return ev;
}

/* Data of one connection, as far as the ring has room. True: all of it is told. */
static bool tell_data(struct pb_path *p, const struct pb_tcp_event *t, int *n)
{
	struct pb_desc d[PB_REFS_MAX];
	uint32_t keep = pb_tcp_keep_frames(p->tcp, t->conn);
	while (pb_ring_room(&p->chan->ev, 2) >= 2) {
		int k = pb_tcp_recv_frames(p->tcp, t->conn, d, PB_REFS_MAX);
		if (k <= 0)
			return true;
		struct pb_ev *ev = next_ev(p, PB_EV_DATA, t);
		ev->n = (uint8_t)k;
		ev->u16 = (uint16_t)(keep < UINT16_MAX ? keep : UINT16_MAX);
		for (int i = 0; i < k; i++)
			ev->refs[i] = (struct pb_frame_ref){.addr = d[i].addr, .off = d[i].off, .len = d[i].len};
		pb_ring_submit(&p->chan->ev, 1);
		(*n)++;
	}
	return false;
}

static uint32_t mss_of(struct pb_path *p, pb_tcp_handle h)
{
	struct pb_tcp_info info = {0};
	pb_tcp_get_info(p->tcp, h, &info);
	return info.mss;
}

/* Data first, then what happened: the end of a stream must not overtake its bytes. */
int pb_path_tell(struct pb_path *p)
{
	int n = 0;
	uint32_t gone = 0;
	while (pb_ring_room(&p->chan->ev, 2) >= 2) {
		struct pb_tcp_event *t = &p->event;
		if (!p->have_event && !pb_tcp_events(p->tcp, t, 1))
			break;
		p->have_event = true;
		if ((t->mask & (PB_TCP_EV_READABLE | PB_TCP_EV_FIN | PB_TCP_EV_CLOSED)) && !tell_data(p, t, &n))
			break;
		p->have_event = false;
		struct pb_tcp_endpoint peer;
		if ((t->mask & PB_TCP_EV_DOUBT) && !pb_tcp_remote(p->tcp, t->conn, &peer))
			pb_path_doubt_neigh(p, &peer.addr);
		uint32_t mask = t->mask & ~(uint32_t)(PB_TCP_EV_READABLE | PB_TCP_EV_DOUBT);
		if (!mask)
			continue;
		struct pb_ev *ev = next_ev(p, PB_EV_STATE, t);
		ev->state.mask = mask;
		ev->state.error = t->error;
		ev->state.acked = t->acked;
		ev->state.mss = mask & PB_TCP_EV_CONNECTED ? mss_of(p, t->conn) : 0;
		pb_ring_submit(&p->chan->ev, 1);
		gone |= mask & PB_TCP_EV_GONE;
		n++;
	}
	if (gone) /* the slow path lets go of ports */
		pb_path_wake_slow(p);
	return n;
}
