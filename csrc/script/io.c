/* Data through sockets, how much there is, and readiness. */
#include "script/impl.h"

#include <errno.h>

/* Linux counts what a socket queues by whole buffers with their descriptors, not by payload: a segment of payload n
 * costs n and about this much. */
#define SKB_OVERHEAD 1280u

static bool eof_seen(const struct pb_tcp_info *i)
{
	return i->state == PB_TCP_CLOSE_WAIT || i->state == PB_TCP_LAST_ACK || i->state == PB_TCP_CLOSING ||
	       i->state == PB_TCP_TIME_WAIT || i->state == PB_TCP_CLOSED;
}

/* Why nothing can be read although nothing is there: 0 at the end of the stream, or -errno. */
static int64_t nothing_to_read(struct sock *s, const struct pb_tcp_info *i)
{
	int rc = sock_error(s);
	if (rc)
		return rc;
	if (s->rcv_shut || eof_seen(i))
		return 0;
	return -EAGAIN;
}

int64_t pb_host_recv(struct pb_host *h, int fd, void *buf, size_t n, int flags)
{
	struct sock *s = sock_get(h, fd);
	struct pb_tcp_info i;
	uint8_t scratch[2048];
	if (!s)
		return -EBADF;
	if (flags & LX_MSG_ERRQUEUE)
		return -EAGAIN;
	if (flags & LX_MSG_OOB)
		return -EINVAL;
	if (flags & LX_MSG_PEEK)
		return -EOPNOTSUPP;
	if (s->phase == SOCK_LISTENING || s->phase == SOCK_NEW || s->phase == SOCK_FAILED)
		return s->error ? sock_error(s) : -ENOTCONN;
	if (pb_tcp_get_info(h->tcp, s->conn, &i))
		return -ENOTCONN;
	if (!i.unread_bytes)
		return nothing_to_read(s, &i);
	if (!n)
		return 0;
	if (!buf && !(flags & LX_MSG_TRUNC))
		return -EFAULT;
	size_t done = 0;
	while (done < n) {
		bool skip = flags & LX_MSG_TRUNC;
		size_t want = n - done;
		if (skip && want > sizeof(scratch))
			want = sizeof(scratch);
		int64_t k = pb_tcp_recv(h->tcp, s->conn, skip ? scratch : (uint8_t *)buf + done, want, h->now_ns);
		if (k <= 0)
			break;
		done += (size_t)k;
	}
	host_settle(h);
	return (int64_t)done;
}

/* Room in the send buffer as Linux would see it: half of SO_SNDBUF's value was asked for, the rest is for overhead. */
static uint32_t send_room(const struct sock *s, const struct pb_tcp_info *i, uint32_t queued)
{
	uint32_t mss = i->mss ? i->mss : 536;
	uint64_t segs = (queued + mss - 1) / mss;
	uint64_t used = queued + segs * SKB_OVERHEAD / (mss < 1448 ? 16 : 8);
	uint64_t all = (uint64_t)s->opt[OPT_SNDBUF];
	return used >= all ? 0 : (uint32_t)(all - used);
}

static int64_t send_failed(struct sock *s, int64_t rc)
{
	if (rc != -EPIPE && rc != -ECONNRESET && rc != -ETIMEDOUT && rc != -ENOTCONN)
		return rc;
	int e = sock_error(s);
	return e ? e : -EPIPE;
}

int64_t pb_host_send(struct pb_host *h, int fd, const void *buf, size_t n, int flags)
{
	struct sock *s = sock_get(h, fd);
	struct pb_tcp_info i;
	if (!s)
		return -EBADF;
	if (flags & LX_MSG_FASTOPEN)
		return -EOPNOTSUPP;
	if (flags & LX_MSG_OOB)
		return -EOPNOTSUPP;
	if (s->phase == SOCK_LISTENING || !s->conn || pb_tcp_get_info(h->tcp, s->conn, &i))
		return send_failed(s, -EPIPE);
	if (s->error)
		return sock_error(s);
	if (s->snd_shut || i.state == PB_TCP_CLOSED)
		return send_failed(s, -EPIPE);
	if (i.state == PB_TCP_SYN_SENT || i.state == PB_TCP_SYN_RCVD)
		return -EAGAIN;
	if (!n)
		return 0;
	if (!buf)
		return -EFAULT;
	uint32_t room = send_room(s, &i, i.inflight_bytes + i.unsent_bytes);
	if (!room)
		return -EAGAIN;
	if (n > room)
		n = room;
	int64_t k = pb_tcp_send(h->tcp, s->conn, buf, n, flags & LX_MSG_MORE ? PB_TCP_MORE : 0);
	host_settle(h);
	return k < 0 ? send_failed(s, k) : k;
}

int pb_host_ioctl(struct pb_host *h, int fd, unsigned long request, int32_t *value)
{
	struct sock *s = sock_get(h, fd);
	struct pb_tcp_info i = {0};
	if (!s)
		return -EBADF;
	if (s->phase == SOCK_LISTENING)
		return -EINVAL;
	bool known = s->conn && !pb_tcp_get_info(h->tcp, s->conn, &i);
	bool open = known && i.state != PB_TCP_CLOSED && i.state != PB_TCP_SYN_SENT && i.state != PB_TCP_SYN_RCVD;
	switch (request) {
	case LX_SIOCINQ:
		*value = open ? (int32_t)i.unread_bytes : 0;
		return 0;
	case LX_SIOCOUTQ:
		*value = open ? (int32_t)(i.inflight_bytes + i.unsent_bytes) : 0;
		return 0;
	case LX_SIOCOUTQNSD:
		*value = open ? (int32_t)i.unsent_bytes : 0;
		return 0;
	default:
		return -ENOTTY;
	}
}

/* tcp_poll(): hung up when both directions are, or the connection is gone. */
int pb_host_events(struct pb_host *h, int fd)
{
	struct sock *s = sock_get(h, fd);
	struct pb_tcp_info i = {0};
	if (!s)
		return -EBADF;
	int ev = s->error ? LX_POLLERR : 0;
	if (s->phase == SOCK_LISTENING) {
		/* The engine tells of it only by giving it: kept for accept(). */
		if (!s->next && pb_tcp_accept(h->tcp, s->conn, &s->next))
			s->next = 0;
		return s->next ? ev | LX_POLLIN : ev;
	}
	if (!s->conn || pb_tcp_get_info(h->tcp, s->conn, &i))
		return ev | LX_POLLOUT | LX_POLLHUP;
	if (i.state == PB_TCP_SYN_SENT || i.state == PB_TCP_SYN_RCVD)
		return ev;
	bool closed = i.state == PB_TCP_CLOSED, in_end = s->rcv_shut || eof_seen(&i), out_end = s->snd_shut || closed;
	if (closed || (in_end && out_end))
		ev |= LX_POLLHUP;
	if (in_end)
		ev |= LX_POLLIN | LX_POLLRDHUP;
	if (i.unread_bytes)
		ev |= LX_POLLIN;
	uint32_t queued = i.inflight_bytes + i.unsent_bytes;
	/* Writable when a third of the buffer is free. */
	if (out_end || send_room(s, &i, queued) >= (uint32_t)s->opt[OPT_SNDBUF] / 3)
		ev |= LX_POLLOUT;
	return ev;
}
