#include "dev/fault.h"

#include "base/handles.h"

#include <errno.h>
#include <stdlib.h>

#define DONE_MAX 4096 /* completions kept for reap(); then tx takes no more */
#define PULL_BURSTS 4 /* bursts taken from the inner device per rx */
#define RETRY_NS 1000 /* when to try again what the inner device did not take */

struct fault {
	struct pb_dev dev;
	struct pb_dev *inner;
	struct pb_link *rx, *tx; /* NULL: direct */
	struct pb_drops drops;
	uint64_t now_ns;
	uint32_t n_done;
	uint32_t n_due;
	uint32_t n_begun;
	uint64_t *done;  /* frames to be given to reap() that the inner device never had */
	uint8_t *ours;   /* bit per frame: a copy made here, not to be given to the caller */
	uint8_t *inside; /* by frame: references that the inner device has. A link may bring a frame's second
			    reference (PB_DESC_AGAIN) there before the first. NULL without a tx link */
	struct pb_desc due[PB_BURST_MAX];  /* through the tx link, not yet taken by the inner device */
	struct pb_desc pull[PB_BURST_MAX]; /* just received; n_begun of a packet whose end is still to come */
};

static struct fault *of(struct pb_dev *dev)
{
	return (struct fault *)dev;
}

static void flip(struct fault *f, struct pb_desc *d, uint32_t n, uint32_t bit)
{
	for (uint32_t i = 0; i < n; i++) {
		d[i].flags &= (uint16_t)~PB_DESC_CSUM_GOOD;
		if (bit < d[i].len * 8u) {
			pb_pool_data(f->dev.pool, &d[i])[bit / 8] ^= (uint8_t)(1u << bit % 8);
			bit = UINT32_MAX;
		} else if (bit != UINT32_MAX) {
			bit -= d[i].len * 8u;
		}
	}
}

/* A copy of the packet in frames that `to` owns, with the same offset in the frame. */
static bool copy_packet(struct fault *f, const struct pb_desc *d, uint32_t n, enum pb_owner to, struct pb_desc *out)
{
	struct pb_pool *p = f->dev.pool;
	uint64_t addrs[PB_BURST_MAX];
	uint32_t got = pb_pool_get(f->dev.cache, addrs, n, 0, to);
	if (got < n) {
		while (got)
			pb_pool_put(f->dev.cache, addrs[--got], to);
		f->drops.n[PB_DROP_NO_FRAME]++;
		return false;
	}
	for (uint32_t i = 0; i < n; i++) {
		out[i] = d[i];
		out[i].flags &= (uint16_t)~PB_DESC_AGAIN;
		out[i].addr = addrs[i] + (d[i].addr - pb_pool_frame(p, d[i].addr));
		memcpy(pb_pool_data(p, &out[i]), pb_pool_data(p, &d[i]), d[i].len);
	}
	return true;
}

static uint8_t ours_bit(uint64_t index)
{
	return (uint8_t)(1u << index % 8);
}

/* A copy to be sent. The way from FREE to TX leads through ENGINE: towards the inner device we are the engine. */
static bool copy_for_tx(struct fault *f, const struct pb_desc *d, uint32_t n, struct pb_desc *out)
{
	if (!copy_packet(f, d, n, PB_OWN_ENGINE, out))
		return false;
	for (uint32_t i = 0; i < n; i++) {
		uint64_t frame = pb_pool_frame(f->dev.pool, out[i].addr);
		uint32_t index = pb_pool_index(f->dev.pool, frame);
		pb_pool_move(f->dev.cache, frame, PB_OWN_ENGINE, PB_OWN_TX);
		f->ours[index / 8] |= ours_bit(index);
	}
	return true;
}

/* For the call of the inner device: its first reference to a frame is one to a frame of ENGINE. */
static void lend(struct fault *f, struct pb_desc *d, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t frame = pb_pool_frame(f->dev.pool, d[i].addr);
		d[i].flags &= (uint16_t)~PB_DESC_AGAIN;
		if (f->inside[pb_pool_index(f->dev.pool, frame)]++)
			d[i].flags |= PB_DESC_AGAIN;
		else
			pb_pool_move(f->dev.cache, frame, PB_OWN_TX, PB_OWN_ENGINE);
	}
}

/* What it did not take, the newest first. */
static void take_back(struct fault *f, const struct pb_desc *d, uint32_t n)
{
	while (n--) {
		uint64_t frame = pb_pool_frame(f->dev.pool, d[n].addr);
		if (!--f->inside[pb_pool_index(f->dev.pool, frame)])
			pb_pool_move(f->dev.cache, frame, PB_OWN_ENGINE, PB_OWN_TX);
	}
}

/* A frame that is sent, or will never be: back to the caller by reap(), or to the pool if it is a copy. */
static bool is_ours(struct fault *f, uint64_t addr)
{
	uint32_t index = pb_pool_index(f->dev.pool, addr);
	if (!(f->ours[index / 8] & ours_bit(index)))
		return false;
	f->ours[index / 8] &= (uint8_t)~ours_bit(index);
	pb_pool_put(f->dev.cache, addr, PB_OWN_TX);
	return true;
}

static void complete(struct fault *f, const struct pb_desc *d, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		uint64_t frame = pb_pool_frame(f->dev.pool, d[i].addr);
		if (!is_ours(f, frame))
			f->done[f->n_done++] = frame;
	}
}

static void push_tx(struct fault *f, const struct pb_desc *d, uint32_t n)
{
	if (!pb_link_push(f->tx, d, n, f->now_ns))
		return;
	f->drops.n[PB_DROP_LINK_QUEUE]++;
	complete(f, d, n);
}

static bool sane(const struct fault *f, const struct pb_desc *d, uint32_t n)
{
	const struct pb_pool *p = f->dev.pool;
	for (uint32_t i = 0; i < n; i++)
		if (!pb_pool_has(p, d[i].addr) ||
		    d[i].addr - pb_pool_frame(p, d[i].addr) + d[i].off + d[i].len > p->frame_bytes)
			return false;
	return true;
}

/* One packet, owner TX, meets its fate. */
static void send_packet(struct fault *f, const struct pb_desc *d, uint32_t n, uint32_t bytes)
{
	struct pb_link_fate fate;
	struct pb_desc copy[PB_BURST_MAX];
	pb_link_fate(f->tx, bytes, f->now_ns, &fate);
	if (fate.drop) {
		f->drops.n[fate.drop]++;
		complete(f, d, n);
		return;
	}
	if (fate.dup && copy_for_tx(f, d, n, copy))
		push_tx(f, copy, n);
	if (!fate.corrupt) {
		push_tx(f, d, n);
		return;
	}
	if (copy_for_tx(f, d, n, copy)) {
		flip(f, copy, n, fate.corrupt_bit);
		push_tx(f, copy, n);
	}
	complete(f, d, n);
}

/* Hands the inner device what is due. It takes frames of ENGINE, not of TX, so they become that for the call. */
static void pump(struct fault *f)
{
	struct pb_dev *in = f->inner;
	if (!f->tx)
		return;
	for (;;) {
		int room = (int)(PB_BURST_MAX - f->n_due);
		f->n_due += (uint32_t)pb_link_pop(f->tx, f->due + f->n_due, room, f->now_ns);
		if (!f->n_due)
			return;
		lend(f, f->due, f->n_due);
		int rc = pb_dev_tx(in, f->due, (int)f->n_due, PB_OWN_ENGINE, f->now_ns);
		uint32_t took = rc > 0 ? (uint32_t)rc : 0;
		f->n_due -= took;
		memmove(f->due, f->due + took, f->n_due * sizeof(f->due[0]));
		take_back(f, f->due, f->n_due);
		if (!took)
			return;
	}
}

static void begin(struct fault *f, uint64_t now_ns)
{
	if (now_ns > f->now_ns)
		f->now_ns = now_ns;
	pump(f);
}

static void end(struct fault *f)
{
	f->dev.tx_pending = f->inner->tx_pending;
	f->dev.link_up = f->inner->link_up;
}

static int fault_tx(struct pb_dev *dev, const struct pb_desc *d, int n, enum pb_owner from, uint64_t now_ns)
{
	struct fault *f = of(dev);
	uint32_t at = 0, len, bytes;
	begin(f, now_ns);
	if (!f->tx) {
		int rc = pb_dev_tx(f->inner, d, n, from, now_ns);
		end(f);
		return rc;
	}
	while (n > 0 && (len = pb_desc_packet(d + at, (uint32_t)n - at, &bytes)) && len <= PB_BURST_MAX &&
	       f->n_done + len <= DONE_MAX) {
		if (!sane(f, d + at, len)) {
			/* The inner device refuses it as it would without us. */
			if (pb_dev_tx(f->inner, d + at, (int)len, from, now_ns) < (int)len)
				break;
			for (uint32_t i = at; i < at + len; i++)
				if (pb_pool_has(dev->pool, d[i].addr))
					f->inside[pb_pool_index(dev->pool, d[i].addr)]++;
			at += len;
			continue;
		}
		for (uint32_t i = at; i < at + len; i++)
			pb_pool_send(dev->cache, &d[i], from);
		send_packet(f, d + at, len, bytes);
		at += len;
	}
	pump(f);
	end(f);
	return (int)at;
}

static int fault_reap(struct pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
{
	struct fault *f = of(dev);
	begin(f, now_ns);
	uint32_t got = n <= 0 ? 0 : f->n_done < (uint32_t)n ? f->n_done : (uint32_t)n;
	memcpy(addrs, f->done, got * sizeof(*addrs));
	f->n_done -= got;
	memmove(f->done, f->done + got, f->n_done * sizeof(*addrs));
	/* Copies fall out, so ask again for as many. */
	for (int k = 1; k > 0 && (int)got < n;) {
		k = pb_dev_reap(f->inner, addrs + got, n - (int)got, now_ns);
		uint32_t first = got;
		for (int i = 0; i < k; i++) {
			uint64_t frame = addrs[first + (uint32_t)i];
			if (f->inside)
				f->inside[pb_pool_index(dev->pool, frame)]--;
			if (!is_ours(f, frame))
				addrs[got++] = frame;
		}
	}
	pump(f);
	end(f);
	return (int)got;
}

static void free_rx(struct fault *f, const struct pb_desc *d, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		pb_pool_put(f->dev.cache, d[i].addr, PB_OWN_RX);
}

static void push_rx(struct fault *f, const struct pb_desc *d, uint32_t n)
{
	if (!pb_link_push(f->rx, d, n, f->now_ns))
		return;
	f->drops.n[PB_DROP_LINK_QUEUE]++;
	free_rx(f, d, n);
}

static void receive_packet(struct fault *f, struct pb_desc *d, uint32_t n, uint32_t bytes)
{
	struct pb_link_fate fate;
	struct pb_desc copy[PB_BURST_MAX];
	pb_link_fate(f->rx, bytes, f->now_ns, &fate);
	if (fate.drop) {
		f->drops.n[fate.drop]++;
		free_rx(f, d, n);
		return;
	}
	if (fate.dup && copy_packet(f, d, n, PB_OWN_RX, copy))
		push_rx(f, copy, n);
	if (fate.corrupt)
		flip(f, d, n, fate.corrupt_bit);
	push_rx(f, d, n);
}

/* Takes what the inner device has into the rx link. A device may split a chain over two bursts: the begun packet stays
 * at the front of `pull` until its end arrives. */
static int pull(struct fault *f)
{
	int room = (int)(PB_BURST_MAX - f->n_begun);
	int k = pb_dev_rx(f->inner, f->pull + f->n_begun, room, f->now_ns);
	if (k <= 0)
		return k;
	uint32_t n = f->n_begun + (uint32_t)k, at = 0, len, bytes;
	while ((len = pb_desc_packet(f->pull + at, n - at, &bytes))) {
		receive_packet(f, f->pull + at, len, bytes);
		at += len;
	}
	f->n_begun = n - at;
	memmove(f->pull, f->pull + at, f->n_begun * sizeof(f->pull[0]));
	if (f->n_begun == PB_BURST_MAX) {
		f->drops.n[PB_DROP_RX_BAD]++;
		free_rx(f, f->pull, f->n_begun);
		f->n_begun = 0;
	}
	return k;
}

static int fault_rx(struct pb_dev *dev, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct fault *f = of(dev);
	int rc = 0;
	begin(f, now_ns);
	if (!f->rx) {
		rc = pb_dev_rx(f->inner, d, n, now_ns);
		end(f);
		return rc;
	}
	for (int i = 0, k = 1; i < PULL_BURSTS && k > 0; i++) {
		k = pull(f);
		rc = k < 0 ? k : 0;
	}
	end(f);
	int got = pb_link_pop(f->rx, d, n, f->now_ns);
	for (int i = 0; i < got; i++)
		if (d[i].ts_source == PB_TS_USER)
			d[i].ts_ns = f->now_ns;
	return got ? got : rc;
}

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t fault_next_ns(struct pb_dev *dev)
{
	struct fault *f = of(dev);
	uint64_t next = pb_dev_next_ns(f->inner);
	if (f->rx)
		next = earlier(next, pb_link_next_ns(f->rx));
	if (f->tx)
		next = earlier(next, pb_link_next_ns(f->tx));
	return f->n_due ? earlier(next, f->now_ns + RETRY_NS) : next;
}

static int fault_fd(struct pb_dev *dev)
{
	struct fault *f = of(dev);
	return f->inner->ops->fd ? f->inner->ops->fd(f->inner) : -1;
}

static void fault_stats(struct pb_dev *dev)
{
	struct fault *f = of(dev);
	if (f->inner->ops->stats)
		f->inner->ops->stats(f->inner);
	dev->stats = f->inner->stats;
	for (unsigned i = 0; i < PB_DROP_COUNT; i++)
		dev->stats.drops.n[i] += f->drops.n[i];
}

static void free_fault(struct fault *f)
{
	pb_link_destroy(f->rx);
	pb_link_destroy(f->tx);
	free(f->ours);
	free(f->inside);
	free(f->done);
	free(f);
}

/* Of a frame that may be in several places here, and with the inner device, which frees it then. */
static void put_once(struct fault *f, uint64_t addr)
{
	uint8_t *inside = &f->inside[pb_pool_index(f->dev.pool, addr)];
	if (!*inside)
		pb_pool_put(f->dev.cache, addr, PB_OWN_TX);
	*inside = 1;
}

static void fault_close(struct pb_dev *dev)
{
	struct fault *f = of(dev);
	struct pb_desc d;
	free_rx(f, f->pull, f->n_begun);
	while (f->rx && pb_link_drain(f->rx, &d, 1))
		pb_pool_put(dev->cache, d.addr, PB_OWN_RX);
	while (f->tx && pb_link_drain(f->tx, &d, 1))
		put_once(f, d.addr);
	while (f->n_due)
		put_once(f, f->due[--f->n_due].addr);
	while (f->n_done)
		put_once(f, f->done[--f->n_done]);
	f->inner->ops->close(f->inner);
	free_fault(f);
	pb_handle_closed(PB_HANDLE_DEV);
}

static const struct pb_dev_ops fault_ops = {
	.abi = PB_DEV_ABI,
	.name = "fault",
	.rx = fault_rx,
	.tx = fault_tx,
	.reap = fault_reap,
	.next_ns = fault_next_ns,
	.fd = fault_fd,
	.stats = fault_stats,
	.close = fault_close,
};

struct pb_dev *pb_dev_fault_open(struct pb_dev *inner, const struct pb_link_config *rx, const struct pb_link_config *tx,
				 int *err)
{
	*err = -ENOMEM;
	struct fault *f = calloc(1, sizeof(*f));
	if (!f)
		return NULL;
	f->done = calloc(DONE_MAX, sizeof(*f->done));
	f->ours = calloc((inner->pool->nframes + 7) / 8, 1);
	if (!f->done || !f->ours)
		goto fail;
	if (rx && !(f->rx = pb_link_create(rx, err)))
		goto fail;
	if (tx && !(f->tx = pb_link_create(tx, err)))
		goto fail;
	*err = -ENOMEM;
	f->inside = tx ? calloc(inner->pool->nframes, 1) : NULL;
	if (tx && !f->inside)
		goto fail;
	f->dev = *inner;
	f->dev.ops = &fault_ops;
	/* A packet may be copied on its way: no requests that name its frame. */
	f->dev.tx_flags &= PB_DESC_MORE | PB_DESC_AGAIN;
	f->inner = inner;
	*err = 0;
	pb_handle_opened(PB_HANDLE_DEV);
	return &f->dev;
fail:
	free_fault(f);
	return NULL;
}
