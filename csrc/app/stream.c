#define _GNU_SOURCE
#include "app/stream.h"

#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

static int64_t app_send(struct pb_stream *s, const void *buf, size_t len)
{
	return pb_sock_send(s->app, s->sock, buf, len, 0);
}

static int64_t app_recv(struct pb_stream *s, void *buf, size_t len)
{
	return pb_sock_recv(s->app, s->sock, buf, len);
}

static int app_wait(struct pb_stream *s, bool write, uint64_t until_ns)
{
	unsigned mask = PB_SOCK_READ | PB_SOCK_FIN | PB_SOCK_CLOSED | (write ? PB_SOCK_WRITE : 0u);
	int m = pb_app_wait(s->app, s->sock, mask, until_ns, UINT64_MAX);
	if (m == PB_SOCK_SLOWPATH)
		return -EINTR;
	return m < 0 ? m : 0;
}

void pb_stream_of_app(struct pb_stream *s, struct pb_app *app, int sock)
{
	*s = (struct pb_stream){
		.send = app_send, .recv = app_recv, .wait = app_wait, .app = app, .sock = sock, .fd = -1};
}

static int64_t kernel_send(struct pb_stream *s, const void *buf, size_t len)
{
	ssize_t n = send(s->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	return n < 0 ? -errno : n;
}

static int64_t kernel_recv(struct pb_stream *s, void *buf, size_t len)
{
	ssize_t n = recv(s->fd, buf, len, MSG_DONTWAIT);
	return n < 0 ? -errno : n;
}

static int kernel_wait(struct pb_stream *s, bool write, uint64_t until_ns)
{
	if (s->how == PB_SPIN_HARD)
		return 0;
	if (s->how == PB_SPIN_YIELD) {
		sched_yield();
		return 0;
	}
	uint64_t now = pb_now_ns(), left = until_ns > now ? until_ns - now : 0;
	struct pollfd p = {.fd = s->fd, .events = (short)(POLLIN | (write ? POLLOUT : 0))};
	struct timespec t = {.tv_sec = (time_t)(left / 1000000000), .tv_nsec = (long)(left % 1000000000)};
	return ppoll(&p, 1, &t, NULL) < 0 && errno != EINTR ? -errno : 0;
}

void pb_stream_of_kernel(struct pb_stream *s, int fd, enum pb_spin how)
{
	*s = (struct pb_stream){
		.send = kernel_send, .recv = kernel_recv, .wait = kernel_wait, .fd = fd, .how = how, .sock = -1};
}
