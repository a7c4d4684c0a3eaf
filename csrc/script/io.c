/* Data through sockets, how much there is, and readiness. */
#include "script/impl.h"

#include <errno.h>

#define SKB_MAX 65536u /* of one buffer's data */
#define SKB_SEGS 5u    /* segments that one holds in the mean */
#define SKB_OVERHEAD 768u

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

/* What Linux counts for data that is queued: the data, and what describes it, about so much per super-segment. */
static uint64_t memory_of(uint32_t queued, uint32_t mss)
{
	return queued + (uint64_t)(queued / (SKB_SEGS * mss)) * SKB_OVERHEAD;
}

/* SO_SNDBUF; grows with the window as long as nobody has set it (tcp_sndbuf_expand). */
static uint64_t send_memory(const struct pb_host *h, const struct sock *s, const struct pb_tcp_info *i)
{
	uint64_t all = (uint64_t)s->opt[OPT_SNDBUF];
	if (s->set >> OPT_SNDBUF & 1 || !i->mss)
		return all;
	uint32_t per_mss = 256, cwnd = i->cwnd_bytes / i->mss;
	while (per_mss < i->mss + 640)
		per_mss *= 2;
	uint64_t grown = 2ull * (cwnd > 10 ? cwnd : 10) * (per_mss + 256);
	uint64_t most = (uint64_t)h->knob[KNOB_tcp_wmem][2];
	grown = grown < most ? grown : most;
	return all > grown ? all : grown;
}

static uint32_t lowat_of(const struct pb_host *h, const struct sock *s)
{
	bool own = s->set >> OPT_NOTSENT_LOWAT & 1 && s->opt[OPT_NOTSENT_LOWAT];
	return own ? (uint32_t)s->opt[OPT_NOTSENT_LOWAT] : clamp_u32(h->knob[KNOB_tcp_notsent_lowat][0], 0, UINT32_MAX);
}

/* Whether another buffer may be begun; who waits for one is woken only when a third of the memory is free. */
static bool send_space(const struct pb_host *h, const struct sock *s, const struct pb_tcp_info *i, bool woken)
{
	uint64_t used = memory_of(i->inflight_bytes + i->unsent_bytes, i->mss ? i->mss : 536);
	uint64_t all = send_memory(h, s, i), lowat = lowat_of(h, s), unsent = i->unsent_bytes;
	return woken ? 3 * used <= 2 * all && 2 * unsent < lowat : used < all && unsent < lowat;
}

/* Bytes that Linux puts into one buffer: at most half of the largest window there was (tcp_xmit_size_goal). */
static uint32_t goal_of(struct sock *s, const struct pb_tcp_info *i)
{
	uint32_t mss = i->mss ? i->mss : 536;
	s->max_wnd = i->snd_wnd > s->max_wnd ? i->snd_wnd : s->max_wnd;
	uint32_t most = s->max_wnd > 536 ? s->max_wnd / 2 : s->max_wnd;
	most = most < SKB_MAX ? most : SKB_MAX;
	return most < mss ? mss : most / mss * mss;
}

/* Queues up to n bytes by buffers, as sendmsg() would: one that was begun and not sent is filled first. */
static int64_t queue_data(struct pb_host *h, struct sock *s, const uint8_t *buf, size_t n, int flags)
{
	struct pb_tcp_info i;
	size_t done = 0;
	while (done < n && !pb_tcp_get_info(h->tcp, s->conn, &i)) {
		uint32_t goal = goal_of(s, &i), tail = s->tail_bytes < i.unsent_bytes ? s->tail_bytes : i.unsent_bytes;
		if (!tail || tail >= goal) {
			if (!send_space(h, s, &i, s->nospace && !(flags & LX_MSG_DONTWAIT))) {
				s->nospace = true;
				break;
			}
			s->nospace = false;
			tail = 0;
		}
		size_t k = n - done < goal - tail ? n - done : goal - tail;
		bool more = flags & LX_MSG_MORE || done + k < n;
		bool record = (flags & LX_MSG_EOR) && done + k == n;
		unsigned how = (more ? PB_TCP_MORE : 0u) | (record ? PB_TCP_EOR : 0u);
		int64_t took = pb_tcp_send(h->tcp, s->conn, buf + done, k, how);
		if (took <= 0)
			return done ? (int64_t)done : took;
		s->tail_bytes = record && (size_t)took == k ? 0 : tail + (uint32_t)took;
		done += (size_t)took;
		s->psh.written += (uint32_t)took;
		bool half = s->tail_bytes >= goal && s->psh.written - s->psh.pushed > s->max_wnd / 2;
		if (!more || half) {
			psh_add(&s->psh, s->psh.written);
			s->psh.pushed = s->psh.written;
		}
		host_settle(h);
	}
	return done ? (int64_t)done : -EAGAIN;
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
	int64_t k = queue_data(h, s, buf, n, flags);
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
	if (out_end || send_space(h, s, &i, true))
		ev |= LX_POLLOUT;
	return ev;
}
