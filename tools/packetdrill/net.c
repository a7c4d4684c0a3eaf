/* Packets, the clock, what is not offered, and the one symbol that packetdrill looks for. */
#include "pd.h"

#include <stdio.h>
#include <string.h>

static int net_send(void *u, const void *ip, size_t n)
{
	(void)u;
	pd_enter();
	pd_read_qdisc();
	pb_host_input(pd_host, ip, (uint32_t)n);
	pd_retry();
	return (int)pd_leave(0);
}

/* Waits by letting time pass. When nothing will ever come, an empty packet: an error here would be tried for ever. */
static int net_receive(void *u, void *ip, size_t *n, long long *us)
{
	(void)u;
	pd_enter();
	uint64_t at;
	int len;
	pd_read_qdisc();
	for (uint64_t limit = pd_now_us() + 400000000ull; !(len = pb_host_output(pd_host, ip, (uint32_t)*n, &at));) {
		uint64_t t = pd_next_us();
		if (t > limit) {
			fprintf(stderr, "pybypass: nothing more will be sent\n");
			at = pd_now_us() * 1000;
			memset(ip, 0, *n < 40 ? *n : 40);
			break;
		}
		pd_advance_us(t > pd_now_us() ? t : pd_now_us() + 1);
	}
	*n = len > 0 ? (size_t)len : 0;
	*us = (long long)(at / 1000);
	return (int)pd_leave(0);
}

static int no_epoll_create(void *u, int n)
{
	(void)u;
	(void)n;
	errno = ENOSYS;
	return -1;
}

static int no_epoll_ctl(void *u, int ep, int op, int fd, struct epoll_event *e)
{
	(void)op;
	(void)fd;
	(void)e;
	return no_epoll_create(u, ep);
}

static int no_epoll_wait(void *u, int ep, struct epoll_event *e, int n, int timeout_ms)
{
	(void)e;
	(void)n;
	(void)timeout_ms;
	return no_epoll_create(u, ep);
}

static int no_pipe(void *u, int fds[2])
{
	(void)fds;
	return no_epoll_create(u, 0);
}

static ssize_t no_splice(void *u, int in, loff_t *a, int out, loff_t *b, size_t n, unsigned flags)
{
	(void)a;
	(void)out;
	(void)b;
	(void)n;
	(void)flags;
	return no_epoll_create(u, in);
}

static void net_free(void *u)
{
	(void)u;
	pd_enter();
	pb_host_destroy(pd_host);
	pd_host = NULL;
	pd_leave(0);
}

void pd_net(struct pd_interface *i)
{
	i->userdata = NULL;
	i->free = net_free;
	i->netdev_send = net_send;
	i->netdev_receive = net_receive;
	i->usleep = pd_usleep;
	i->gettimeofday = pd_gettimeofday;
	i->epoll_create = no_epoll_create;
	i->epoll_ctl = no_epoll_ctl;
	i->epoll_wait = no_epoll_wait;
	i->pipe = no_pipe;
	i->splice = no_splice;
}
