#define _GNU_SOURCE
#include "dev/xsk_umem.h"

#include "dev/xsk_uapi.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct pb_xsk_umem {
	struct pb_xsk_umem *next;
	struct pb_xsk_umem_kind kind;
	bool zerocopy;
	int refs;
	int *fds;
	size_t nfds, room;
};

static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pb_xsk_umem *list;

static bool same(const struct pb_xsk_umem_kind *a, const struct pb_xsk_umem_kind *b)
{
	return a->pool == b->pool && a->headroom == b->headroom && a->flags == b->flags &&
	       a->meta_bytes == b->meta_bytes && a->sg == b->sg;
}

struct pb_xsk_umem *pb_xsk_umem_find(const struct pb_xsk_umem_kind *kind, bool *zerocopy)
{
	pthread_mutex_lock(&list_lock);
	struct pb_xsk_umem *u = list;
	while (u && (!same(&u->kind, kind) || !u->nfds))
		u = u->next;
	if (u) {
		u->refs++;
		*zerocopy = u->zerocopy;
	}
	pthread_mutex_unlock(&list_lock);
	return u;
}

struct pb_xsk_umem *pb_xsk_umem_new(const struct pb_xsk_umem_kind *kind, bool zerocopy)
{
	struct pb_xsk_umem *u = calloc(1, sizeof(*u));
	if (!u)
		return NULL;
	u->kind = *kind;
	u->zerocopy = zerocopy;
	u->refs = 1;
	pthread_mutex_lock(&list_lock);
	u->next = list;
	list = u;
	pthread_mutex_unlock(&list_lock);
	return u;
}

int pb_xsk_umem_bind(struct pb_xsk_umem *u, int fd, uint32_t ifindex, uint32_t queue)
{
	int err = -EBADF;
	pthread_mutex_lock(&list_lock);
	/* One whose interface was removed is no longer bound: then the next. */
	for (size_t i = 0; i < u->nfds && err == -EBADF; i++) {
		struct sockaddr_xdp a = {
			.sxdp_family = AF_XDP,
			.sxdp_flags = XDP_SHARED_UMEM, /* no other flag goes with it: all is as with the first */
			.sxdp_ifindex = ifindex,
			.sxdp_queue_id = queue,
			.sxdp_shared_umem_fd = (uint32_t)u->fds[i],
		};
		err = bind(fd, (const struct sockaddr *)(const void *)&a, sizeof(a)) ? -errno : 0;
	}
	pthread_mutex_unlock(&list_lock);
	return err;
}

int pb_xsk_umem_enter(struct pb_xsk_umem *u, int fd)
{
	int err = 0;
	pthread_mutex_lock(&list_lock);
	if (u->nfds == u->room) {
		size_t room = u->room ? 2 * u->room : 8;
		int *more = realloc(u->fds, room * sizeof(*more));
		if (more) {
			u->fds = more;
			u->room = room;
		} else {
			err = -ENOMEM;
		}
	}
	if (!err)
		u->fds[u->nfds++] = fd;
	pthread_mutex_unlock(&list_lock);
	return err;
}

void pb_xsk_umem_leave(struct pb_xsk_umem *u, int fd)
{
	pthread_mutex_lock(&list_lock);
	for (size_t i = 0; i < u->nfds; i++)
		if (u->fds[i] == fd) {
			u->fds[i] = u->fds[--u->nfds];
			break;
		}
	pthread_mutex_unlock(&list_lock);
}

void pb_xsk_umem_unref(struct pb_xsk_umem *u)
{
	if (!u)
		return;
	pthread_mutex_lock(&list_lock);
	bool last = --u->refs == 0;
	if (last) {
		struct pb_xsk_umem **at = &list;
		while (*at != u)
			at = &(*at)->next;
		*at = u->next;
	}
	pthread_mutex_unlock(&list_lock);
	if (!last)
		return;
	free(u->fds);
	free(u);
}
