/* Calls that move data. */
#include "pd.h"

#include <stdlib.h>
#include <string.h>

struct receiving {
	int sock;
	void *buf;
	size_t n;
	int flags;
};

static ssize_t try_recv(void *arg)
{
	struct receiving *r = arg;
	return pb_host_recv(pd_host, r->sock, r->buf, r->n, r->flags);
}

static ssize_t call_recv(void *u, int fd, void *buf, size_t n, int flags)
{
	(void)u;
	pd_enter();
	struct receiving r = {.sock = pd_fd_sock(fd), .buf = buf, .n = n, .flags = flags};
	if (r.sock < 0)
		return pd_leave(r.sock);
	return pd_leave(pd_block(try_recv, &r, pd_fd_nonblocking(fd) || flags & MSG_DONTWAIT));
}

static ssize_t call_read(void *u, int fd, void *buf, size_t n)
{
	return call_recv(u, fd, buf, n, 0);
}

static ssize_t call_recvfrom(void *u, int fd, void *buf, size_t n, int flags, struct sockaddr *a, socklen_t *an)
{
	(void)a;
	(void)an;
	return call_recv(u, fd, buf, n, flags);
}

static size_t iov_bytes(const struct iovec *v, size_t count)
{
	size_t n = 0;
	for (size_t i = 0; i < count; i++)
		n += v[i].iov_len;
	return n;
}

static ssize_t recv_iov(void *u, int fd, const struct iovec *v, size_t count, int flags)
{
	size_t n = iov_bytes(v, count);
	char *buf = malloc(n + 1);
	if (!buf) {
		errno = ENOMEM;
		return -1;
	}
	ssize_t r = call_recv(u, fd, buf, n, flags);
	int e = errno;
	size_t done = 0;
	for (size_t i = 0; r > 0 && i < count && done < (size_t)r; i++) {
		size_t k = (size_t)r - done < v[i].iov_len ? (size_t)r - done : v[i].iov_len;
		if (k && v[i].iov_base)
			memcpy(v[i].iov_base, buf + done, k);
		done += k;
	}
	free(buf);
	errno = e;
	return r;
}

static ssize_t call_readv(void *u, int fd, const struct iovec *v, int count)
{
	return recv_iov(u, fd, v, (size_t)count, 0);
}

static ssize_t call_recvmsg(void *u, int fd, struct msghdr *m, int flags)
{
	m->msg_controllen = 0;
	m->msg_flags = 0;
	return recv_iov(u, fd, m->msg_iov, m->msg_iovlen, flags);
}

struct sending {
	int sock;
	const char *buf;
	size_t n, done;
	int flags;
	bool nonblocking;
};

static ssize_t try_send(void *arg)
{
	struct sending *t = arg;
	for (;;) {
		ssize_t r = pb_host_send(pd_host, t->sock, t->buf ? t->buf + t->done : NULL, t->n - t->done, t->flags);
		if (r < 0 && r != -EAGAIN)
			return t->done ? (ssize_t)t->done : r;
		if (r > 0)
			t->done += (size_t)r;
		if (t->done == t->n)
			return (ssize_t)t->done;
		if (r <= 0)
			return t->nonblocking && t->done ? (ssize_t)t->done : -EAGAIN;
	}
}

static ssize_t call_send(void *u, int fd, const void *buf, size_t n, int flags)
{
	(void)u;
	pd_enter();
	int s = pd_fd_sock(fd);
	if (s < 0)
		return pd_leave(s);
	bool nonblocking = pd_fd_nonblocking(fd) || flags & MSG_DONTWAIT;
	flags |= nonblocking ? MSG_DONTWAIT : 0;
	struct sending t = {.sock = s, .buf = buf, .n = n, .flags = flags, .nonblocking = nonblocking};
	return pd_leave(pd_block(try_send, &t, nonblocking));
}

static ssize_t call_write(void *u, int fd, const void *buf, size_t n)
{
	return call_send(u, fd, buf, n, 0);
}

static ssize_t call_sendto(void *u, int fd, const void *buf, size_t n, int flags, const struct sockaddr *a,
			   socklen_t an)
{
	(void)a;
	(void)an;
	return call_send(u, fd, buf, n, flags);
}

static ssize_t send_iov(void *u, int fd, const struct iovec *v, size_t count, int flags)
{
	size_t n = iov_bytes(v, count), done = 0;
	char *buf = malloc(n + 1);
	if (!buf) {
		errno = ENOMEM;
		return -1;
	}
	for (size_t i = 0; i < count; i++) {
		if (!v[i].iov_base && v[i].iov_len) {
			free(buf);
			errno = EFAULT;
			return -1;
		}
		if (v[i].iov_len)
			memcpy(buf + done, v[i].iov_base, v[i].iov_len);
		done += v[i].iov_len;
	}
	ssize_t r = call_send(u, fd, buf, n, flags);
	int e = errno;
	free(buf);
	errno = e;
	return r;
}

static ssize_t call_writev(void *u, int fd, const struct iovec *v, int count)
{
	return send_iov(u, fd, v, (size_t)count, 0);
}

static ssize_t call_sendmsg(void *u, int fd, const struct msghdr *m, int flags)
{
	return send_iov(u, fd, m->msg_iov, m->msg_iovlen, flags);
}

void pd_data(struct pd_interface *i)
{
	i->read = call_read;
	i->readv = call_readv;
	i->recv = call_recv;
	i->recvfrom = call_recvfrom;
	i->recvmsg = call_recvmsg;
	i->write = call_write;
	i->writev = call_writev;
	i->send = call_send;
	i->sendto = call_sendto;
	i->sendmsg = call_sendmsg;
}
