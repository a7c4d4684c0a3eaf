/* Calls that make, name, set and end sockets, and wait for them. */
#include "pd.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <string.h>

#define ENTER(fd)                                                                                                      \
	(void)u;                                                                                                       \
	pd_enter();                                                                                                    \
	int s = pd_fd_sock(fd);                                                                                        \
	if (s < 0)                                                                                                     \
		return (int)pd_leave(s);

static int to_endpoint(const struct sockaddr *a, socklen_t n, struct pb_tcp_endpoint *e)
{
	if (!a)
		return -EFAULT;
	if (a->sa_family == AF_INET && n >= sizeof(struct sockaddr_in)) {
		const struct sockaddr_in *in = (const void *)a;
		e->addr = pb_ip_from4((const uint8_t *)&in->sin_addr);
		e->port = ntohs(in->sin_port);
		return 0;
	}
	if (a->sa_family == AF_INET6 && n >= sizeof(struct sockaddr_in6)) {
		const struct sockaddr_in6 *in = (const void *)a;
		e->addr = pb_ip_from6((const uint8_t *)&in->sin6_addr);
		e->port = ntohs(in->sin6_port);
		return 0;
	}
	return n < sizeof(struct sockaddr_in) ? -EINVAL : -EAFNOSUPPORT;
}

static void from_endpoint(const struct pb_tcp_endpoint *e, struct sockaddr *a, socklen_t *n)
{
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(e->port)};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(e->port)};
	bool v4 = pb_ip_is4(&e->addr);
	memcpy(&in.sin_addr, e->addr.b + 12, 4);
	memcpy(&in6.sin6_addr, e->addr.b, 16);
	socklen_t full = v4 ? sizeof(in) : sizeof(in6);
	memcpy(a, v4 ? (void *)&in : (void *)&in6, full < *n ? full : *n);
	*n = full;
}

static int call_socket(void *u, int domain, int type, int protocol)
{
	(void)u;
	pd_enter();
	pd_read_knobs();
	int family = domain == AF_INET ? 4 : domain == AF_INET6 ? 6 : 0;
	int s = pb_host_socket(pd_host, family, type & ~(SOCK_NONBLOCK | SOCK_CLOEXEC), protocol);
	int fd = s < 0 ? s : pd_fd_new(s);
	if (fd >= 0)
		pd_fd_set_nonblocking(fd, type & SOCK_NONBLOCK);
	return (int)pd_leave(fd);
}

static int call_bind(void *u, int fd, const struct sockaddr *a, socklen_t n)
{
	struct pb_tcp_endpoint e;
	ENTER(fd)
	int rc = to_endpoint(a, n, &e);
	return (int)pd_leave(rc ? rc : pb_host_bind(pd_host, s, &e));
}

static int call_listen(void *u, int fd, int backlog)
{
	ENTER(fd)
	pd_read_knobs();
	return (int)pd_leave(pb_host_listen(pd_host, s, backlog));
}

struct connecting {
	int sock;
	struct pb_tcp_endpoint e;
	bool nonblocking;
};

static ssize_t try_connect(void *arg)
{
	const struct connecting *c = arg;
	int rc = pb_host_connect(pd_host, c->sock, &c->e);
	return !c->nonblocking && (rc == -EINPROGRESS || rc == -EALREADY) ? -EAGAIN : rc;
}

static int call_connect(void *u, int fd, const struct sockaddr *a, socklen_t n)
{
	ENTER(fd)
	struct connecting c = {.sock = s, .nonblocking = pd_fd_nonblocking(fd)};
	pd_read_knobs();
	int rc = to_endpoint(a, n, &c.e);
	return (int)pd_leave(rc ? rc : pd_block(try_connect, &c, c.nonblocking));
}

struct accepting {
	int sock;
	struct pb_tcp_endpoint e;
};

static ssize_t try_accept(void *arg)
{
	struct accepting *a = arg;
	return pb_host_accept(pd_host, a->sock, &a->e);
}

static int call_accept(void *u, int fd, struct sockaddr *a, socklen_t *n)
{
	ENTER(fd)
	struct accepting w = {.sock = s};
	ssize_t r = pd_block(try_accept, &w, pd_fd_nonblocking(fd));
	if (r < 0)
		return (int)pd_leave(r);
	if (a && n)
		from_endpoint(&w.e, a, n);
	return (int)pd_leave(pd_fd_new((int)r));
}

static int call_fcntl(void *u, int fd, int command, ...)
{
	va_list ap;
	va_start(ap, command);
	int v = va_arg(ap, int);
	va_end(ap);
	ENTER(fd)
	if (command == F_GETFL)
		return (int)pd_leave(O_RDWR | (pd_fd_nonblocking(fd) ? O_NONBLOCK : 0));
	if (command == F_SETFL)
		pd_fd_set_nonblocking(fd, v & O_NONBLOCK);
	else if (command != F_SETFD && command != F_GETFD)
		return (int)pd_leave(-EINVAL);
	return (int)pd_leave(0);
}

static int call_ioctl(void *u, int fd, unsigned long request, ...)
{
	va_list ap;
	va_start(ap, request);
	int *v = va_arg(ap, int *);
	va_end(ap);
	ENTER(fd)
	return (int)pd_leave(v ? pb_host_ioctl(pd_host, s, request, v) : -EFAULT);
}

static ssize_t try_close(void *arg)
{
	const int *sock = arg;
	return pb_host_close(pd_host, *sock);
}

static int call_close(void *u, int fd)
{
	ENTER(fd)
	int rc = (int)pd_block(try_close, &s, false);
	pd_fd_close(fd);
	pd_retry();
	return (int)pd_leave(rc);
}

static int call_shutdown(void *u, int fd, int how)
{
	ENTER(fd)
	int rc = pb_host_shutdown(pd_host, s, how);
	pd_retry();
	return (int)pd_leave(rc);
}

static int call_getsockopt(void *u, int fd, int level, int name, void *v, socklen_t *n)
{
	ENTER(fd)
	return (int)pd_leave(pb_host_getsockopt(pd_host, s, level, name, v, n));
}

static int call_setsockopt(void *u, int fd, int level, int name, const void *v, socklen_t n)
{
	ENTER(fd)
	int rc = pb_host_setsockopt(pd_host, s, level, name, v, n);
	pd_retry();
	return (int)pd_leave(rc);
}

struct polling {
	struct pollfd *fds;
	nfds_t n;
	uint64_t until_us; /* UINT64_MAX: for ever */
};

static ssize_t try_poll(void *arg)
{
	struct polling *p = arg;
	ssize_t ready = 0;
	for (nfds_t i = 0; i < p->n; i++) {
		struct pollfd *f = &p->fds[i];
		int s = pd_fd_sock(f->fd);
		f->revents = POLLNVAL;
		if (s >= 0)
			f->revents = (short)(pb_host_events(pd_host, s) & (f->events | POLLERR | POLLHUP));
		ready += f->revents != 0;
	}
	return ready || pd_now_us() >= p->until_us ? ready : -EAGAIN;
}

static int call_poll(void *u, struct pollfd *fds, nfds_t n, int timeout_ms)
{
	(void)u;
	pd_enter();
	struct polling p = {fds, n, timeout_ms < 0 ? UINT64_MAX : pd_now_us() + (uint64_t)timeout_ms * 1000};
	return (int)pd_leave(pd_block_until(try_poll, &p, false, p.until_us));
}

/* Code blocks of scripts ask for TCP_INFO by getsockopt(2) on the descriptor itself: preloaded, this answers for ours.
 */
__attribute__((visibility("default"))) int getsockopt(int fd, int level, int name, void *v, socklen_t *n)
{
	static int (*real)(int, int, int, void *, socklen_t *);
	if (pd_host && pd_fd_sock(fd) >= 0)
		return call_getsockopt(NULL, fd, level, name, v, n);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "getsockopt");
	return real(fd, level, name, v, n);
}

void pd_calls(struct pd_interface *i)
{
	i->socket = call_socket;
	i->bind = call_bind;
	i->listen = call_listen;
	i->accept = call_accept;
	i->connect = call_connect;
	i->fcntl = call_fcntl;
	i->ioctl = call_ioctl;
	i->close = call_close;
	i->shutdown = call_shutdown;
	i->getsockopt = call_getsockopt;
	i->setsockopt = call_setsockopt;
	i->poll = call_poll;
}
