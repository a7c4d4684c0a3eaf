/* The application's end: creation, events from the loop, waiting, and the slow path's rings. */
#include "path/app.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>

#define CONTROL_SLOTS 64u

struct pb_app *pb_app_create(struct pb_path *p, const struct pb_app_config *cfg, int *err)
{
	*err = -EINVAL;
	if (!p->chan || !cfg->max_socks || cfg->max_socks > 1u << 22 || !cfg->sndbuf_bytes)
		return NULL;
	*err = -ENOMEM;
	struct pb_app *a = calloc(1, sizeof(*a));
	if (!a)
		return NULL;
	a->path = p;
	a->chan = p->chan;
	a->pool = p->dev->pool;
	a->cfg = *cfg;
	a->nsocks = 2 * cfg->max_socks; /* those that are closed and not gone must not keep new ones from opening */
	a->inline_mode = true;
	a->socks = calloc(a->nsocks, sizeof(*a->socks));
	a->notes = calloc(a->pool->nframes, sizeof(*a->notes));
	if (a->socks && a->notes)
		a->cache = pb_pool_cache_create(a->pool, err);
	if (!a->cache) {
		free(a->socks);
		free(a->notes);
		free(a);
		return NULL;
	}
	pthread_mutex_init(&a->lock, NULL);
	return a;
}

void pb_app_destroy(struct pb_app *a)
{
	if (!a)
		return;
	for (uint32_t i = 0; i < a->nsocks; i++)
		for (uint32_t f = a->socks[i].used ? a->socks[i].rx_head : NO_FRAME; f != NO_FRAME;
		     f = a->notes[f].next)
			pb_pool_put(a->cache, pb_pool_addr(a->pool, f), PB_OWN_APP);
	pb_pool_cache_destroy(a->cache);
	pthread_mutex_destroy(&a->lock);
	free(a->freed);
	free(a->socks);
	free(a->notes);
	free(a);
}

void pb_app_set_inline(struct pb_app *a, bool on)
{
	a->inline_mode = on;
}

void app_lock(struct pb_app *a)
{
	if (!pthread_mutex_trylock(&a->lock))
		return;
	atomic_fetch_add_explicit(&a->waiters, 1, memory_order_relaxed);
	if (a->inline_mode) /* whoever drives the path may sleep in it */
		pb_chan_wake_loop(a->chan);
	pthread_mutex_lock(&a->lock);
	atomic_fetch_sub_explicit(&a->waiters, 1, memory_order_relaxed);
}

void app_unlock(struct pb_app *a)
{
	pthread_mutex_unlock(&a->lock);
}

struct sock *app_sock(struct pb_app *a, int s)
{
	if (s < 0 || (uint32_t)s >= a->nsocks || !a->socks[s].used || a->socks[s].closed_by_app)
		return NULL;
	return &a->socks[s];
}

void app_sock_free(struct pb_app *a, struct sock *s, bool gone)
{
	s->used = false;
	a->nused--;
	a->nwant -= s->want != 0;
	s->want = 0;
	if (gone)
		a->freed[a->nfreed++] = s->name.local;
}

void app_cmd_go(struct pb_app *a)
{
	pb_ring_submit(&a->chan->cmd, 1);
	if (!a->inline_mode)
		pb_chan_wake_loop(a->chan);
}

int app_cmd(struct pb_app *a, const struct pb_cmd *c)
{
	if (!pb_ring_room(&a->chan->cmd, 1))
		return -EAGAIN;
	*(struct pb_cmd *)pb_ring_prod_slot(&a->chan->cmd, 0) = *c;
	app_cmd_go(a);
	return 0;
}

void app_want(struct pb_app *a, struct sock *s, enum pb_cmd_op op)
{
	a->nwant -= s->want != 0;
	struct pb_cmd c = {.op = (uint8_t)op, .cookie = (uint32_t)(s - a->socks), .h = s->h};
	if (op == PB_CMD_CONSUMED)
		c.u32 = s->unreported;
	s->want = app_cmd(a, &c) ? (uint8_t)op : 0;
	if (op == PB_CMD_CONSUMED && !s->want)
		s->unreported = 0;
	a->nwant += s->want != 0;
}

static void retry_wanted(struct pb_app *a)
{
	for (uint32_t i = 0; i < a->nsocks && a->nwant && pb_ring_room(&a->chan->cmd, 1); i++)
		if (a->socks[i].want)
			app_want(a, &a->socks[i], a->socks[i].want);
}

uint32_t app_send_room(struct pb_app *a)
{
	uint32_t slots = a->chan->cmd.mask + 1, keep = slots / 4 < CONTROL_SLOTS ? slots / 4 : CONTROL_SLOTS;
	uint32_t room = pb_ring_room(&a->chan->cmd, keep + 1);
	return room > keep ? room - keep : 0;
}

static void put_refs(struct pb_app *a, const struct pb_ev *ev)
{
	for (int i = 0; i < ev->n; i++)
		pb_pool_put(a->cache, ev->refs[i].addr, PB_OWN_APP);
}

static void on_data(struct pb_app *a, struct sock *s, const struct pb_ev *ev)
{
	if (!s->used || s->closed_by_app || s->h != ev->h) {
		put_refs(a, ev);
		/* It was on its way when the application closed: nobody will read it, and the peer must learn that. */
		if (s->used && s->h == ev->h)
			app_want(a, s, PB_CMD_ABORT);
		return;
	}
	s->keep = ev->u16;
	for (int i = 0; i < ev->n; i++) {
		uint32_t f = pb_pool_index(a->pool, ev->refs[i].addr);
		a->notes[f] = (struct frame_note){NO_FRAME, ev->refs[i].off, ev->refs[i].len};
		if (s->rx_tail == NO_FRAME)
			s->rx_head = f;
		else
			a->notes[s->rx_tail].next = f;
		s->rx_tail = f;
	}
}

static void on_opened(struct pb_app *a, struct sock *s, const struct pb_ev *ev)
{
	s->opening = false;
	if (ev->opened.rc) {
		s->error = -ev->opened.rc;
		s->ready |= PB_SOCK_ERROR | PB_SOCK_CLOSED;
		if (s->closed_by_app)
			app_sock_free(a, s, false);
		return;
	}
	if (s->listener >= 0) /* there may be more where this one came from */
		a->socks[s->listener].ready |= PB_SOCK_ACCEPT;
	s->h = ev->h;
	s->ready |= PB_SOCK_OPENED;
	s->mss = ev->opened.mss;
	s->name.local = (struct pb_tcp_endpoint){ev->opened.laddr, ev->opened.lport};
	s->name.remote = (struct pb_tcp_endpoint){ev->opened.raddr, ev->opened.rport};
	if (s->closed_by_app) /* while it was being opened */
		app_want(a, s, PB_CMD_CLOSE);
}

static void on_state(struct pb_app *a, struct sock *s, const struct pb_ev *ev)
{
	uint32_t m = ev->state.mask;
	if (!s->used || s->h != ev->h)
		return;
	s->queued -= ev->state.acked < s->queued ? ev->state.acked : s->queued;
	if (m & PB_TCP_EV_CONNECTED) {
		s->ready |= PB_SOCK_CONNECTED;
		s->mss = ev->state.mss ? ev->state.mss : s->mss;
	}
	if (m & PB_TCP_EV_ACCEPT)
		s->ready |= PB_SOCK_ACCEPT;
	if (m & PB_TCP_EV_FIN)
		s->ready |= PB_SOCK_FIN;
	if (m & PB_TCP_EV_CLOSED) {
		s->ready |= PB_SOCK_CLOSED;
		s->queued = 0;
		if (ev->state.error) {
			s->error = ev->state.error;
			s->ready |= PB_SOCK_ERROR;
		}
	}
	if (m & PB_TCP_EV_GONE) {
		s->ready |= PB_SOCK_GONE;
		s->h = 0;
		if (s->closed_by_app)
			app_sock_free(a, s, true);
	}
}

static void on_event(struct pb_app *a, const struct pb_ev *ev)
{
	if (ev->cookie == UINT32_MAX) {
		a->call_done = true;
		return;
	}
	if (ev->cookie >= a->nsocks)
		return;
	struct sock *s = &a->socks[ev->cookie];
	switch (ev->op) {
	case PB_EV_DATA:
		on_data(a, s, ev);
		break;
	case PB_EV_OPENED:
		on_opened(a, s, ev);
		break;
	case PB_EV_STATE:
		on_state(a, s, ev);
		break;
	default:
		if (s->used && s->h == ev->h) {
			s->rc = ev->rc;
			s->ready |= PB_SOCK_REPLY;
		}
		break;
	}
}

int app_progress(struct pb_app *a, uint64_t now_ns)
{
	if (a->inline_mode) {
		int rc = pb_path_step(a->path, now_ns);
		if (rc < 0)
			return rc;
	}
	return app_drain(a);
}

int app_drain(struct pb_app *a)
{
	uint32_t n = pb_ring_avail(&a->chan->ev, 1);
	for (uint32_t i = 0; i < n; i++) {
		on_event(a, pb_ring_cons_slot(&a->chan->ev, 0));
		pb_ring_release(&a->chan->ev, 1);
	}
	if (a->nwant)
		retry_wanted(a);
	return (int)n;
}

int pb_app_progress(struct pb_app *a)
{
	app_lock(a);
	int rc = app_progress(a, pb_now_ns());
	app_unlock(a);
	return rc;
}

unsigned app_poll(struct pb_app *a, struct sock *s)
{
	unsigned m = s->ready;
	bool open = (m & PB_SOCK_CONNECTED) && !(m & (PB_SOCK_CLOSED | PB_SOCK_ERROR));
	if (s->rx_head != NO_FRAME || (m & (PB_SOCK_FIN | PB_SOCK_CLOSED | PB_SOCK_ERROR)))
		m |= PB_SOCK_READ;
	if (open && s->queued < a->cfg.sndbuf_bytes && app_send_room(a) &&
	    pb_pool_free_hint(a->cache) > a->cfg.reserve_frames)
		m |= PB_SOCK_WRITE;
	if (!s->queued)
		m |= PB_SOCK_SENT;
	if (!s->opening && s->listening && s->h)
		m |= PB_SOCK_CONNECTED;
	return m;
}

/* serial: of the socket when the wait began, so that a number given anew is not mistaken for it. */
static unsigned wanted(struct pb_app *a, int sock, uint64_t serial, unsigned mask, int progressed)
{
	bool slow = pb_ring_count(&a->chan->exc) && (a->inline_mode || sock == PB_WAIT_SLOWPATH);
	unsigned m = slow ? PB_SOCK_SLOWPATH : 0;
	if (sock == PB_WAIT_ANY)
		return m | (progressed ? PB_SOCK_READ : 0);
	if (sock == PB_WAIT_SLOWPATH && a->nfreed)
		m |= PB_SOCK_GONE;
	if (sock < 0)
		return m;
	struct sock *s = app_sock(a, sock);
	return m | (s && s->serial == serial ? app_poll(a, s) & mask : PB_SOCK_CLOSED);
}

int pb_app_wait(struct pb_app *a, int sock, unsigned mask, uint64_t until_ns, uint64_t spin_ns)
{
	struct pb_waitq *q = sock == PB_WAIT_SLOWPATH ? &a->chan->slow : &a->chan->app;
	uint64_t start = pb_now_ns(), now_ns = start, serial = 0;
	/* One look at the clock in each turn: it costs as much as the rest of a turn that finds nothing. */
	for (bool first = true;; first = false, now_ns = pb_now_ns()) {
		bool sleepy = now_ns - start >= spin_ns, queue = sleepy && !a->inline_mode;
		uint32_t seq = queue ? pb_waitq_enter(q) : 0;
		app_lock(a);
		struct sock *s = first ? app_sock(a, sock) : NULL;
		if (s)
			serial = s->serial;
		int rc = atomic_load_explicit(&a->closing, memory_order_acquire) ? -ESHUTDOWN : app_progress(a, now_ns);
		unsigned m = rc < 0 ? 0 : wanted(a, sock, serial, mask, rc);
		bool done = rc < 0 || m || now_ns >= until_ns;
		/* Room in the ring of commands is nothing that anybody is woken for. */
		uint64_t rest = done ? 0 : until_ns - now_ns, most = a->nwant ? 1000000 : until_ns;
		rest = rest < most ? rest : most;
		if (sleepy && a->inline_mode && !done)
			pb_path_sleep(a->path, now_ns, rest < 10000000 ? rest : 10000000, &a->waiters);
		app_unlock(a);
		if (queue && !done)
			pb_waitq_wait(q, seq, rest);
		if (queue)
			pb_waitq_leave(q);
		if (done)
			return rc < 0 ? rc : (int)m;
		if (atomic_load_explicit(&a->waiters, memory_order_relaxed))
			sched_yield();
	}
}

int pb_app_freed(struct pb_app *a, struct pb_tcp_endpoint *local, int n)
{
	app_lock(a);
	app_drain(a);
	int k = 0;
	while (k < n && a->nfreed)
		local[k++] = a->freed[--a->nfreed];
	app_unlock(a);
	return k;
}

void pb_app_wake_all(struct pb_app *a)
{
	pb_waitq_wake_always(&a->chan->app);
	pb_waitq_wake_always(&a->chan->slow);
	pb_chan_wake_loop_always(a->chan);
}

void pb_app_shut(struct pb_app *a)
{
	atomic_store(&a->closing, 1);
	pb_app_wake_all(a);
}

int pb_app_exceptions(struct pb_app *a, struct pb_exc *x, int n)
{
	app_lock(a);
	int k = (int)pb_ring_get(&a->chan->exc, x, (uint32_t)n);
	app_unlock(a);
	return k;
}

void pb_app_free(struct pb_app *a, uint64_t addr)
{
	app_lock(a);
	pb_pool_put(a->cache, addr, PB_OWN_APP);
	app_unlock(a);
}

static int put_frame(struct pb_app *a, const void *frame, uint32_t len, uint16_t flags)
{
	if (len < 14 || len > a->pool->frame_bytes - PB_TCP_HEADROOM || len > (uint32_t)a->path->dev->mtu + 18)
		return -EMSGSIZE;
	app_lock(a);
	uint64_t addr;
	int rc = -ENOBUFS;
	if (pb_ring_room(&a->chan->inj, 1) && pb_pool_get(a->cache, &addr, 1, 0, PB_OWN_APP)) {
		memcpy(a->pool->base + addr + PB_TCP_HEADROOM, frame, len);
		struct pb_desc d = {.addr = addr, .off = PB_TCP_HEADROOM, .len = (uint16_t)len, .flags = flags};
		pb_ring_put(&a->chan->inj, &d, 1);
		pb_chan_wake_loop(a->chan);
		rc = 0;
	}
	app_unlock(a);
	return rc;
}

int pb_app_inject(struct pb_app *a, const void *frame, uint32_t len)
{
	return put_frame(a, frame, len, 0);
}

int pb_app_judged(struct pb_app *a, const void *frame, uint32_t len, bool admitted)
{
	return put_frame(a, frame, len, admitted ? PB_DESC_ADMITTED : PB_DESC_REFUSED);
}

void pb_app_hand_over(struct pb_app *a, bool on)
{
	atomic_store_explicit(&a->path->hand_over, on, memory_order_relaxed);
}

static int locked_cmd(struct pb_app *a, const struct pb_cmd *c)
{
	app_lock(a);
	int rc = app_cmd(a, c);
	app_unlock(a);
	return rc;
}

int pb_app_neigh(struct pb_app *a, const struct pb_ip *addr, const uint8_t *mac)
{
	struct pb_cmd c = {.op = PB_CMD_NEIGH, .neigh = {.addr = *addr, .valid = mac != NULL}};
	if (mac)
		memcpy(c.neigh.mac, mac, 6);
	return locked_cmd(a, &c);
}

int pb_app_call(struct pb_app *a, enum pb_cmd_op op, void *ptr)
{
	struct pb_cmd c = {.op = (uint8_t)op, .cookie = UINT32_MAX, .ptr = ptr};
	a->call_done = false;
	int rc = locked_cmd(a, &c);
	return rc ? rc : -EINPROGRESS;
}

bool pb_app_replied(struct pb_app *a)
{
	app_lock(a);
	bool done = a->call_done;
	app_unlock(a);
	return done;
}
