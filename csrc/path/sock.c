/* Sockets: opening, sending, receiving, closing. Each public call takes the lock, works on memory, and leaves. */
#include "path/app.h"

#include "wire/csum.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

/* Room to tell of one socket more that it is gone. */
static bool freed_reserve(struct pb_app *a)
{
	uint32_t need = a->nfreed + a->nused + 1;
	if (need <= a->freed_room)
		return true;
	uint32_t room = need < 32 ? 64 : 2 * need;
	struct pb_tcp_endpoint *p = realloc(a->freed, room * sizeof(*p));
	if (!p)
		return false;
	a->freed = p;
	a->freed_room = room;
	return true;
}

static struct sock *sock_new(struct pb_app *a)
{
	if (a->nopen == a->cfg.max_socks)
		return NULL;
	for (uint32_t i = 0; i < a->nsocks; i++) {
		struct sock *s = &a->socks[(a->next_free + i) % a->nsocks];
		if (s->used)
			continue;
		a->next_free = (uint32_t)(s - a->socks) + 1;
		a->nused++;
		a->nopen++;
		*s = (struct sock){.used = true, .serial = ++a->serial, .rx_head = NO_FRAME, .rx_tail = NO_FRAME};
		return s;
	}
	return NULL;
}

static int sock_open(struct pb_app *a, enum pb_cmd_op op, const struct pb_tcp_endpoint *local,
		     const struct pb_tcp_endpoint *remote, uint32_t backlog, int listener)
{
	struct sock *l = NULL;
	if (op == PB_CMD_ACCEPT) {
		l = app_sock(a, listener);
		if (!l)
			return -EBADF;
		if (!l->listening)
			return -EINVAL;
		if (l->opening || (l->error && !l->h))
			return l->error ? -l->error : -EAGAIN;
	}
	if (!pb_ring_room(&a->chan->cmd, 1))
		return -EAGAIN;
	if (!freed_reserve(a))
		return -ENOMEM;
	struct sock *s = sock_new(a);
	if (!s)
		return -EMFILE;
	struct pb_cmd c = {.op = (uint8_t)op, .cookie = (uint32_t)(s - a->socks), .h = l ? l->h : 0};
	if (local) {
		c.open.laddr = local->addr;
		c.open.lport = local->port;
		s->name.local = *local;
	}
	if (remote) {
		c.open.raddr = remote->addr;
		c.open.rport = remote->port;
		s->name.remote = *remote;
	}
	c.open.backlog = backlog;
	s->listener = l ? listener : -1;
	s->listening = op == PB_CMD_LISTEN;
	s->opening = true;
	if (l)
		l->ready &= ~(unsigned)PB_SOCK_ACCEPT;
	app_cmd(a, &c);
	return (int)(s - a->socks);
}

int pb_sock_connect(struct pb_app *a, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote)
{
	app_lock(a);
	int rc = sock_open(a, PB_CMD_CONNECT, local, remote, 0, -1);
	app_unlock(a);
	return rc;
}

int pb_sock_listen(struct pb_app *a, const struct pb_tcp_endpoint *local, uint32_t backlog)
{
	app_lock(a);
	int rc = sock_open(a, PB_CMD_LISTEN, local, NULL, backlog, -1);
	app_unlock(a);
	return rc;
}

int pb_sock_accept(struct pb_app *a, int listener)
{
	app_lock(a);
	int rc = sock_open(a, PB_CMD_ACCEPT, NULL, NULL, 0, listener);
	app_unlock(a);
	return rc;
}

static int sendable(const struct sock *s)
{
	if (s->error)
		return -s->error;
	if (s->shut_wr || (s->ready & PB_SOCK_CLOSED))
		return -EPIPE;
	if (!(s->ready & PB_SOCK_CONNECTED))
		return s->listening ? -ENOTCONN : -EAGAIN;
	return 0;
}

/* Copies into frames and hands them to the loop, three to a command. */
static int64_t send_copy(struct pb_app *a, struct sock *s, const uint8_t *buf, size_t len, unsigned flags)
{
	size_t room = a->cfg.sndbuf_bytes > s->queued ? a->cfg.sndbuf_bytes - s->queued : 0;
	size_t want = len < room ? len : room, done = 0;
	uint32_t mss = s->mss;
	if (mss > a->pool->frame_bytes - PB_TCP_HEADROOM)
		mss = a->pool->frame_bytes - PB_TCP_HEADROOM;
	while (done < want && app_send_room(a)) {
		uint64_t addrs[PB_REFS_MAX];
		size_t need = (want - done + mss - 1) / mss;
		uint32_t n = pb_pool_get(a->cache, addrs, need < PB_REFS_MAX ? (uint32_t)need : PB_REFS_MAX,
					 a->cfg.reserve_frames, PB_OWN_APP);
		if (!n)
			break;
		struct pb_cmd *c = pb_ring_prod_slot(&a->chan->cmd, 0);
		c->op = PB_CMD_SEND;
		c->n = (uint8_t)n;
		c->cookie = (uint32_t)(s - a->socks);
		c->h = s->h;
		for (uint32_t i = 0; i < n; i++) {
			uint32_t k = want - done < mss ? (uint32_t)(want - done) : mss;
			uint8_t *dst = a->pool->base + addrs[i] + PB_TCP_HEADROOM;
			c->refs[i] = (struct pb_frame_ref){
				.addr = addrs[i],
				.off = PB_TCP_HEADROOM,
				.len = (uint16_t)k,
				.sum = pb_csum_copy(dst, buf + done, k, 0),
			};
			done += k;
		}
		/* No PSH in the middle, and the end of the record is there when all of it was taken. */
		c->u16 = (uint16_t)(done < want ? PB_TCP_MORE : done < len ? flags & PB_TCP_MORE : flags);
		app_cmd_go(a);
	}
	s->queued += (uint32_t)done;
	return done ? (int64_t)done : -EAGAIN;
}

int64_t pb_sock_send(struct pb_app *a, int sock, const void *buf, size_t len, unsigned flags)
{
	app_lock(a);
	app_drain(a);
	struct sock *s = app_sock(a, sock);
	int64_t rc = s ? sendable(s) : -EBADF;
	if (!rc && len)
		rc = send_copy(a, s, buf, len, flags);
	if (rc > 0 && a->inline_mode)
		(void)pb_path_push(a->path, pb_now_ns()); /* a device that is gone says so again in the next step */
	app_unlock(a);
	return rc;
}

/* What a read gives when nothing is queued: 0 at the end of the stream. */
static int empty(const struct sock *s)
{
	if (s->error)
		return -s->error;
	if (s->ready & (PB_SOCK_FIN | PB_SOCK_CLOSED))
		return 0;
	return s->listening ? -ENOTCONN : -EAGAIN;
}

static uint32_t rx_pop(struct pb_app *a, struct sock *s)
{
	uint32_t f = s->rx_head;
	s->rx_head = a->notes[f].next;
	if (s->rx_head == NO_FRAME)
		s->rx_tail = NO_FRAME;
	return f;
}

/* Tells the engine in batches: the window need not move for every frame, but it must when the queue is empty. */
static void report(struct pb_app *a, struct sock *s)
{
	if (!s->unreported || (s->unreported < 16 && s->rx_head != NO_FRAME))
		return;
	if (s->want || !pb_ring_room(&a->chan->cmd, 1)) {
		app_want(a, s, PB_CMD_CONSUMED); /* the engine may wait for it with what it keeps back */
		return;
	}
	struct pb_cmd *c = pb_ring_prod_slot(&a->chan->cmd, 0);
	c->op = PB_CMD_CONSUMED;
	c->cookie = (uint32_t)(s - a->socks);
	c->h = s->h;
	c->u32 = s->unreported;
	s->unreported = 0;
	app_cmd_go(a);
}

int64_t pb_sock_recv(struct pb_app *a, int sock, void *buf, size_t len)
{
	app_lock(a);
	struct sock *s = app_sock(a, sock);
	int64_t rc = s ? 0 : -EBADF;
	size_t done = 0;
	if (s && s->rx_head == NO_FRAME)
		app_drain(a);
	while (s && done < len && s->rx_head != NO_FRAME) {
		uint32_t f = s->rx_head;
		struct frame_note *n = &a->notes[f];
		uint64_t addr = pb_pool_addr(a->pool, f);
		size_t k = len - done < n->len ? len - done : n->len;
		memcpy((uint8_t *)buf + done, a->pool->base + addr + n->off, k);
		done += k;
		n->off = (uint16_t)(n->off + k);
		n->len = (uint16_t)(n->len - k);
		if (n->len)
			break;
		rx_pop(a, s);
		pb_pool_put(a->cache, addr, PB_OWN_APP);
		s->unreported++;
	}
	if (s) {
		report(a, s);
		rc = done || !len ? (int64_t)done : empty(s);
	}
	app_unlock(a);
	return rc;
}

int pb_sock_recv_frame(struct pb_app *a, int sock, struct pb_desc *d)
{
	app_lock(a);
	struct sock *s = app_sock(a, sock);
	int rc = s ? 1 : -EBADF;
	if (s && s->rx_head == NO_FRAME)
		app_drain(a);
	if (s && s->rx_head == NO_FRAME) {
		rc = empty(s);
	} else if (s) {
		uint32_t f = rx_pop(a, s);
		rc = s->held++ < s->keep && pb_pool_free_hint(a->cache) >= 2 * a->cfg.reserve_frames ? 1 : 2;
		*d = (struct pb_desc){.addr = pb_pool_addr(a->pool, f), .off = a->notes[f].off, .len = a->notes[f].len};
	}
	app_unlock(a);
	return rc;
}

void pb_sock_release(struct pb_app *a, int sock, uint64_t serial, const struct pb_desc *d)
{
	app_lock(a);
	pb_pool_put(a->cache, d->addr, PB_OWN_APP);
	struct sock *s = app_sock(a, sock);
	if (s && s->serial == serial) {
		s->held--;
		s->unreported++;
		report(a, s);
	}
	app_unlock(a);
}

uint64_t pb_sock_serial(struct pb_app *a, int sock)
{
	app_lock(a);
	struct sock *s = app_sock(a, sock);
	uint64_t serial = s ? s->serial : 0;
	app_unlock(a);
	return serial;
}

/* Sends a command that is answered. */
static int call_locked(struct pb_app *a, int sock, struct pb_cmd *c)
{
	struct sock *s = app_sock(a, sock);
	int rc = !s ? -EBADF : !s->h ? -ENOTCONN : pb_ring_room(&a->chan->cmd, 1) ? -EINPROGRESS : -EAGAIN;
	if (rc == -EINPROGRESS) {
		s->ready &= ~(unsigned)PB_SOCK_REPLY;
		c->cookie = (uint32_t)sock;
		c->h = s->h;
		if (c->op == PB_CMD_INFO)
			c->ptr = &s->info;
		app_cmd(a, c);
	}
	return rc;
}

static int call(struct pb_app *a, int sock, struct pb_cmd *c)
{
	app_lock(a);
	int rc = call_locked(a, sock, c);
	app_unlock(a);
	return rc;
}

int pb_sock_shutdown(struct pb_app *a, int s, int how)
{
	app_lock(a);
	int rc = call_locked(a, s, &(struct pb_cmd){.op = PB_CMD_SHUTDOWN, .u32 = (uint32_t)how});
	if (rc == -EINPROGRESS && how != SHUT_RD)
		app_sock(a, s)->shut_wr = true;
	app_unlock(a);
	return rc;
}

int pb_sock_info(struct pb_app *a, int s)
{
	return call(a, s, &(struct pb_cmd){.op = PB_CMD_INFO});
}

int pb_sock_set_option(struct pb_app *a, int s, unsigned option, int64_t value)
{
	return call(a, s, &(struct pb_cmd){.op = PB_CMD_OPTION, .option = {.which = option, .value = value}});
}

int pb_sock_get_option(struct pb_app *a, int s, unsigned option, int64_t *value)
{
	return call(a, s, &(struct pb_cmd){.op = PB_CMD_GET_OPTION, .option = {.which = option, .ptr = value}});
}

int pb_sock_set_cc(struct pb_app *a, int s, const struct pb_cc_ops *cc)
{
	return call(a, s, &(struct pb_cmd){.op = PB_CMD_CC, .option = {.ptr = (void *)(uintptr_t)cc}});
}

int pb_sock_reply(struct pb_app *a, int sock, struct pb_tcp_info *info)
{
	app_lock(a);
	struct sock *s = app_sock(a, sock);
	int rc = !s ? -EBADF : s->ready & PB_SOCK_REPLY ? s->rc : -EINPROGRESS;
	if (!rc && info)
		*info = s->info;
	app_unlock(a);
	return rc;
}

int pb_sock_close(struct pb_app *a, int sock, bool abort)
{
	app_lock(a);
	app_drain(a);
	struct sock *s = app_sock(a, sock);
	int rc = !s ? -EBADF : 0;
	if (s) {
		/* Unread data makes it a reset, as close() of any socket: the engine cannot see what is here. */
		bool unread = s->rx_head != NO_FRAME;
		while (s->rx_head != NO_FRAME)
			pb_pool_put(a->cache, pb_pool_addr(a->pool, rx_pop(a, s)), PB_OWN_APP);
		s->closed_by_app = true;
		a->nopen--;
		if (s->h)
			app_want(a, s, abort || unread ? PB_CMD_ABORT : PB_CMD_CLOSE);
		else if (!s->opening)
			app_sock_free(a, s, s->ready & PB_SOCK_GONE);
		pb_waitq_wake(&a->chan->app);
	}
	app_unlock(a);
	return rc;
}

int pb_sock_error(struct pb_app *a, int sock)
{
	app_lock(a);
	struct sock *s = app_sock(a, sock);
	int rc = s ? s->error : EBADF;
	app_unlock(a);
	return rc;
}

int pb_sock_name(struct pb_app *a, int sock, struct pb_sock_name *name)
{
	app_lock(a);
	struct sock *s = app_sock(a, sock);
	if (s)
		*name = s->name;
	app_unlock(a);
	return s ? 0 : -EBADF;
}

unsigned pb_sock_poll(struct pb_app *a, int sock)
{
	app_lock(a);
	app_drain(a);
	struct sock *s = app_sock(a, sock);
	unsigned m = s ? app_poll(a, s) : PB_SOCK_CLOSED | PB_SOCK_GONE;
	app_unlock(a);
	return m;
}
