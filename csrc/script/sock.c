/* Sockets: from socket() to close(). */
#include "script/impl.h"
#include "wire/ip.h"

#include <errno.h>

struct sock *sock_get(struct pb_host *h, int s)
{
	return s >= 0 && s < PB_HOST_SOCKETS && h->socks[s].used ? &h->socks[s] : NULL;
}

int sock_error(struct sock *s)
{
	int e = s->error;
	s->error = 0;
	return -e;
}

void sock_buffers(const struct pb_host *h, struct sock *s)
{
	if (!(s->set >> OPT_SNDBUF & 1))
		s->opt[OPT_SNDBUF] = (int32_t)clamp_u32(h->knob[KNOB_tcp_wmem][1], 4096, 1u << 30);
	if (!(s->set >> OPT_RCVBUF & 1))
		s->opt[OPT_RCVBUF] = (int32_t)clamp_u32(h->knob[KNOB_tcp_rmem][1], 4096, 1u << 30);
}

static int sock_new(struct pb_host *h, int family)
{
	for (int i = 0; i < PB_HOST_SOCKETS; i++)
		if (!h->socks[i].used) {
			h->socks[i] = (struct sock){.used = true, .family = (uint8_t)family};
			options_default(h, &h->socks[i]);
			return i;
		}
	return -EMFILE;
}

int pb_host_socket(struct pb_host *h, int family, int type, int protocol)
{
	if (family != 4 && family != 6)
		return -EAFNOSUPPORT;
	if (type != LX_SOCK_STREAM)
		return -ESOCKTNOSUPPORT;
	if (protocol && protocol != LX_IPPROTO_TCP)
		return -EPROTONOSUPPORT;
	int rc = host_engine(h);
	return rc ? rc : sock_new(h, family);
}

/* A free port above those that scripts use. */
static uint16_t pick_port(struct pb_host *h)
{
	uint16_t p = h->next_port;
	h->next_port = p >= 60999 ? 32768 : (uint16_t)(p + 1);
	return p;
}

/* Two sockets may have a port together when both allow it and none listens, or both share it. */
static bool port_taken(const struct pb_host *h, const struct sock *me, const struct pb_tcp_endpoint *l)
{
	for (int i = 0; i < PB_HOST_SOCKETS; i++) {
		const struct sock *o = &h->socks[i];
		if (!o->used || o == me || o->local.port != l->port || o->family != me->family)
			continue;
		if (!pb_ip_is_unspecified(&o->local.addr) && !pb_ip_is_unspecified(&l->addr) &&
		    !pb_ip_eq(&o->local.addr, &l->addr))
			continue;
		bool reuse = o->opt[OPT_REUSEADDR] && me->opt[OPT_REUSEADDR] && o->phase != SOCK_LISTENING;
		if (!reuse && !(o->opt[OPT_REUSEPORT] && me->opt[OPT_REUSEPORT]))
			return true;
	}
	return false;
}

int pb_host_bind(struct pb_host *h, int fd, const struct pb_tcp_endpoint *local)
{
	struct sock *s = sock_get(h, fd);
	if (!s)
		return -EBADF;
	if (s->phase != SOCK_NEW || s->local.port)
		return -EINVAL;
	struct pb_tcp_endpoint l = *local;
	if (!l.port)
		l.port = pick_port(h);
	if (port_taken(h, s, &l))
		return -EADDRINUSE;
	s->local = l;
	return 0;
}

int pb_host_listen(struct pb_host *h, int fd, int backlog)
{
	struct sock *s = sock_get(h, fd);
	if (!s)
		return -EBADF;
	if (s->phase == SOCK_LISTENING)
		return 0;
	if (s->phase != SOCK_NEW)
		return -EINVAL;
	if (!s->local.port)
		s->local.port = pick_port(h);
	/* A queue of length n is full at n + 1. */
	uint32_t n = backlog < 0 || backlog > 4095 ? 4096 : (uint32_t)backlog + 1;
	struct pb_tcp_endpoint l = {.port = s->local.port};
	if (!pb_ip_is_unspecified(&s->local.addr))
		l.addr = s->local.addr;
	int rc = pb_tcp_listen(h->tcp, &l, n, &s->conn);
	if (rc)
		return rc;
	s->phase = SOCK_LISTENING;
	sock_buffers(h, s);
	return options_apply(h, s);
}

int pb_host_accept(struct pb_host *h, int fd, struct pb_tcp_endpoint *remote)
{
	struct sock *s = sock_get(h, fd);
	pb_tcp_handle conn = 0;
	if (!s)
		return -EBADF;
	if (s->phase != SOCK_LISTENING)
		return -EINVAL;
	int k = sock_new(h, s->family);
	if (k < 0)
		return k;
	struct sock *c = &h->socks[k];
	int rc = s->next ? 0 : pb_tcp_accept(h->tcp, s->conn, &conn);
	if (rc) {
		c->used = false;
		return rc;
	}
	if (s->next)
		conn = s->next;
	s->next = 0;
	memcpy(c->opt, s->opt, sizeof(c->opt));
	memcpy(c->cc, s->cc, sizeof(c->cc));
	c->set = s->set;
	c->linger = s->linger;
	c->phase = SOCK_CONNECTED;
	c->conn = conn;
	struct pb_tcp_info i;
	if (!pb_tcp_get_info(h->tcp, conn, &i)) {
		c->local = i.local;
		c->remote = i.remote;
	}
	if (remote)
		*remote = c->remote;
	host_settle(h);
	return k;
}

static int begin_connect(struct pb_host *h, struct sock *s, const struct pb_tcp_endpoint *remote)
{
	struct pb_tcp_endpoint l = s->local;
	bool v4 = pb_ip_is4(&remote->addr);
	if (v4 ? s->family == 6 && s->opt[OPT_V6ONLY] : s->family == 4)
		return -EAFNOSUPPORT;
	if (pb_ip_is_unspecified(&l.addr))
		l.addr = h->cfg.addr[!v4];
	if (!l.port)
		l.port = pick_port(h);
	int rc = pb_tcp_connect(h->tcp, &l, remote, h->now_ns, &s->conn);
	if (rc)
		return rc == -EADDRINUSE ? -EADDRNOTAVAIL : rc;
	s->local = l;
	s->remote = *remote;
	s->phase = SOCK_CONNECTING;
	s->error = 0;
	sock_buffers(h, s);
	/* Before the SYN goes out: some options are in it. */
	rc = options_apply(h, s);
	host_settle(h);
	return rc ? rc : -EINPROGRESS;
}

/* How an open that began goes: -EALREADY, 0, or what became of it. */
static int connect_status(struct pb_host *h, struct sock *s)
{
	struct pb_tcp_info i;
	int rc = pb_tcp_get_info(h->tcp, s->conn, &i);
	if (!rc && (i.state == PB_TCP_SYN_SENT || i.state == PB_TCP_SYN_RCVD))
		return s->error ? sock_error(s) : -EALREADY;
	if (!rc && i.state != PB_TCP_CLOSED) {
		s->phase = SOCK_CONNECTED;
		return 0;
	}
	rc = sock_error(s);
	pb_tcp_close(h->tcp, s->conn, h->now_ns);
	s->conn = 0;
	s->phase = SOCK_FAILED;
	return rc ? rc : -ECONNABORTED;
}

int pb_host_connect(struct pb_host *h, int fd, const struct pb_tcp_endpoint *remote)
{
	struct sock *s = sock_get(h, fd);
	if (!s)
		return -EBADF;
	switch (s->phase) {
	case SOCK_LISTENING:
	case SOCK_CONNECTED:
		return -EISCONN;
	case SOCK_CONNECTING:
		return connect_status(h, s);
	default:
		return begin_connect(h, s, remote);
	}
}

int pb_host_shutdown(struct pb_host *h, int fd, int how)
{
	struct sock *s = sock_get(h, fd);
	struct pb_tcp_info i;
	if (!s)
		return -EBADF;
	if (how < PB_TCP_SHUT_RD || how > PB_TCP_SHUT_RDWR)
		return -EINVAL;
	if (s->phase == SOCK_LISTENING) {
		if (how == PB_TCP_SHUT_WR)
			return 0;
		pb_tcp_close(h->tcp, s->conn, h->now_ns); /* as if it had never listened */
		s->conn = 0;
		s->phase = SOCK_NEW;
		host_settle(h);
		return 0;
	}
	if (!s->conn || pb_tcp_get_info(h->tcp, s->conn, &i) || i.state == PB_TCP_CLOSED)
		return -ENOTCONN;
	/* Linux acknowledges and keeps what comes after SHUT_RD, so the engine is not told of it. */
	if (how != PB_TCP_SHUT_WR)
		s->rcv_shut = true;
	if (how != PB_TCP_SHUT_RD) {
		s->snd_shut = true;
		int rc = pb_tcp_shutdown(h->tcp, s->conn, PB_TCP_SHUT_WR, h->now_ns);
		if (rc && rc != -ENOTCONN)
			return rc;
	}
	host_settle(h);
	return 0;
}

/* With SO_LINGER, Linux waits in close() until the FIN is acknowledged or the time is over, also for a socket that does
 * not block (tcp_close(), sk_stream_wait_close()). What was not read makes a RST instead. */
static bool lingers(struct pb_host *h, struct sock *s)
{
	struct pb_tcp_info i;
	if (!s->linger.onoff || !s->linger.seconds || s->phase == SOCK_LISTENING || !s->conn ||
	    pb_tcp_get_info(h->tcp, s->conn, &i))
		return false;
	if (!s->linger_ns) {
		if (i.unread_bytes)
			return false;
		s->linger_ns = h->now_ns + clamp_u32(s->linger.seconds, 0, INT32_MAX) * NS_PER_S;
		pb_tcp_shutdown(h->tcp, s->conn, PB_TCP_SHUT_WR, h->now_ns);
		host_settle(h);
		if (pb_tcp_get_info(h->tcp, s->conn, &i))
			return false;
	}
	bool closing = i.state == PB_TCP_FIN_WAIT_1 || i.state == PB_TCP_CLOSING || i.state == PB_TCP_LAST_ACK;
	return closing && h->now_ns < s->linger_ns;
}

int pb_host_close(struct pb_host *h, int fd)
{
	struct sock *s = sock_get(h, fd);
	if (!s)
		return -EBADF;
	if (lingers(h, s))
		return -EAGAIN;
	if (s->conn) {
		bool abort = s->linger.onoff && !s->linger.seconds && s->phase != SOCK_LISTENING;
		if (s->next)
			pb_tcp_abort(h->tcp, s->next, h->now_ns);
		if (abort)
			pb_tcp_abort(h->tcp, s->conn, h->now_ns);
		else
			pb_tcp_close(h->tcp, s->conn, h->now_ns);
	}
	s->used = false;
	host_settle(h);
	return 0;
}

int pb_host_names(struct pb_host *h, int fd, struct pb_tcp_endpoint *local, struct pb_tcp_endpoint *remote)
{
	const struct sock *s = sock_get(h, fd);
	if (!s)
		return -EBADF;
	*local = s->local;
	*remote = s->remote;
	return 0;
}

int pb_host_info(struct pb_host *h, int fd, struct pb_tcp_info *info)
{
	const struct sock *s = sock_get(h, fd);
	if (!s)
		return -EBADF;
	return s->conn && !pb_tcp_get_info(h->tcp, s->conn, info) ? 0 : -ENOTCONN;
}
