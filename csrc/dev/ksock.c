#define _GNU_SOURCE
#include "dev/ksock.h"

#include "base/handles.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEADROOM 256
#define BATCH PB_BURST_MAX
#define DONE_MAX 1024

struct ksock {
	struct pb_dev dev; /* first */
	int fd;
	uint32_t hdr_bytes;
	uint32_t nposted, ndone;
	struct mmsghdr rx_msgs[BATCH], tx_msgs[BATCH];
	struct iovec rx_iov[BATCH], tx_iov[BATCH];
	uint64_t posted[BATCH]; /* frames to receive into */
	uint64_t done[DONE_MAX];
};

static struct ksock *of(struct pb_dev *dev)
{
	return (struct ksock *)(void *)dev;
}

static uint32_t room(const struct ksock *k)
{
	return k->dev.pool->frame_bytes - HEADROOM - k->hdr_bytes;
}

static void post(struct ksock *k)
{
	uint32_t old = k->nposted;
	k->nposted += pb_pool_get(k->dev.cache, k->posted + old, BATCH - old, 0, PB_OWN_FILL);
	if (!k->nposted)
		k->dev.stats.rx_fill_empty++;
}

static int ksock_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct ksock *k = of(dev);
	if (k->nposted < BATCH)
		post(k);
	uint32_t want = (uint32_t)n < k->nposted ? (uint32_t)n : k->nposted;
	uint32_t first = k->nposted - want; /* the last posted go first: the rest stay in their places */
	for (uint32_t i = 0; i < want; i++) {
		uint8_t *p = dev->pool->base + k->posted[first + i] + HEADROOM;
		memset(p, 0, k->hdr_bytes);
		k->rx_iov[i] = (struct iovec){.iov_base = p + k->hdr_bytes, .iov_len = room(k)};
		k->rx_msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &k->rx_iov[i], .msg_iovlen = 1}};
	}
	int got = want ? recvmmsg(k->fd, k->rx_msgs, want, MSG_DONTWAIT, NULL) : 0;
	if (got < 0)
		return errno == EAGAIN || errno == ECONNREFUSED || errno == EINTR ? 0 : -errno;
	int out = 0;
	for (int i = 0; i < got; i++) {
		uint64_t addr = k->posted[first + (uint32_t)i];
		pb_pool_move(dev->cache, addr, PB_OWN_FILL, PB_OWN_RX);
		if (k->rx_msgs[i].msg_hdr.msg_flags & MSG_TRUNC) {
			dev->stats.drops.n[PB_DROP_TOO_LONG]++;
			pb_pool_put(dev->cache, addr, PB_OWN_RX);
			continue;
		}
		d[out++] = (struct pb_desc){
			.addr = addr,
			.ts_ns = now_ns,
			.off = HEADROOM,
			.len = (uint16_t)(k->hdr_bytes + k->rx_msgs[i].msg_len),
			.ts_source = PB_TS_USER,
		};
		dev->stats.rx_bytes += k->rx_msgs[i].msg_len;
	}
	dev->stats.rx_pkts += (uint32_t)out;
	/* Those that were not filled close the gap. */
	uint32_t left = want - (uint32_t)got;
	memmove(k->posted + first, k->posted + first + got, left * sizeof(*k->posted));
	k->nposted = first + left;
	return out;
}

static int ksock_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	struct ksock *k = of(dev);
	(void)now_ns;
	uint32_t free_done = DONE_MAX - k->ndone, want = (uint32_t)n < BATCH ? (uint32_t)n : BATCH;
	want = want < free_done ? want : free_done;
	for (uint32_t i = 0; i < want; i++) {
		uint32_t skip = d[i].len < k->hdr_bytes ? d[i].len : k->hdr_bytes;
		k->tx_iov[i] = (struct iovec){
			.iov_base = pb_pool_data(dev->pool, &d[i]) + skip,
			.iov_len = d[i].len - skip,
		};
		k->tx_msgs[i] = (struct mmsghdr){.msg_hdr = {.msg_iov = &k->tx_iov[i], .msg_iovlen = 1}};
	}
	int sent = want ? sendmmsg(k->fd, k->tx_msgs, want, MSG_DONTWAIT) : 0;
	if (sent < 0 && errno == EMSGSIZE) {
		dev->stats.drops.n[PB_DROP_TOO_LONG]++;
		sent = 1; /* completed, and not sent */
	} else if (sent < 0) {
		/* ECONNREFUSED is an ICMP error about an earlier packet; the kernel forgets it with this call. */
		bool again = errno == EAGAIN || errno == ENOBUFS || errno == ECONNREFUSED || errno == EINTR;
		return again ? 0 : -errno;
	} else {
		dev->stats.tx_pkts += (uint32_t)sent;
	}
	dev->stats.tx_wakeups++;
	for (int i = 0; i < sent; i++) {
		pb_pool_move(dev->cache, d[i].addr, from, PB_OWN_TX);
		k->done[k->ndone++] = pb_pool_frame(dev->pool, d[i].addr);
		dev->stats.tx_bytes += d[i].len;
	}
	return sent;
}

static int ksock_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	struct ksock *k = of(dev);
	(void)now_ns;
	int got = 0;
	while (got < n && k->ndone)
		addrs[got++] = k->done[--k->ndone];
	return got;
}

static int ksock_fd(struct pb_dev *dev)
{
	return of(dev)->fd;
}

static void take_back(struct ksock *k)
{
	while (k->ndone)
		pb_pool_put(k->dev.cache, k->done[--k->ndone], PB_OWN_TX);
	while (k->nposted)
		pb_pool_put(k->dev.cache, k->posted[--k->nposted], PB_OWN_FILL);
}

static void ksock_close(struct pb_dev *dev)
{
	struct ksock *k = of(dev);
	struct pb_pool *pool = dev->pool;
	close(k->fd);
	take_back(k);
	pb_pool_cache_destroy(dev->cache);
	pb_pool_unref(pool);
	free(k);
	pb_handle_closed(PB_HANDLE_DEV);
}

static const struct pb_dev_ops ksock_ops = {
	.abi = PB_DEV_ABI,
	.name = "kernel",
	.rx = ksock_rx,
	.tx = ksock_tx,
	.reap = ksock_reap,
	.fd = ksock_fd,
	.close = ksock_close,
};

struct pb_dev *pb_dev_ksock_open(const struct pb_dev_ksock_config *cfg, struct pb_pool *pool, int *err)
{
	*err = -EINVAL;
	if (cfg->fd < 0 || cfg->hdr_bytes < 14 || cfg->hdr_bytes > 128)
		return NULL;
	struct ksock *k = calloc(1, sizeof(*k));
	*err = -ENOMEM;
	if (!k)
		return NULL;
	k->fd = cfg->fd;
	k->hdr_bytes = cfg->hdr_bytes;
	k->dev.ops = &ksock_ops;
	k->dev.pool = pool;
	k->dev.mtu = cfg->mtu;
	k->dev.link_up = true;
	k->dev.cache = pb_pool_cache_create(pool, err);
	if (!k->dev.cache)
		goto fail;
	post(k);
	*err = -ENOBUFS;
	if (!k->nposted)
		goto fail;
	pb_pool_ref(pool);
	pb_handle_opened(PB_HANDLE_DEV);
	*err = 0;
	return &k->dev;
fail:
	pb_pool_cache_destroy(k->dev.cache);
	free(k);
	return NULL;
}
