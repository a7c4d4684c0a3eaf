#include "app/forward.h"

#include "path/loop.h"

#include <errno.h>

/* The clock is read once in so many turns. */
#define TURNS_PER_LOOK 64
#define TX_OFFSET 256

static void swap_macs(const struct pb_pool *pool, const struct pb_desc *d, int n)
{
	bool first = true;
	for (int i = 0; i < n; i++) {
		if (first && d[i].len >= 14) {
			uint8_t *p = pb_pool_data(pool, &d[i]), dst[6];
			memcpy(dst, p, 6);
			memcpy(p, p + 6, 6);
			memcpy(p + 6, dst, 6);
		}
		first = !(d[i].flags & PB_DESC_MORE);
	}
}

static uint64_t packets(const struct pb_dev *dev, const struct pb_desc *d, int n)
{
	uint64_t more = 0;
	if (dev->chain_max <= 1)
		return (uint64_t)n;
	for (int i = 0; i < n; i++)
		more += (d[i].flags & PB_DESC_MORE) != 0;
	return (uint64_t)n - more;
}

/* One turn: how many frames it moved, or -errno. */
static int forward(struct pb_forward *f, uint64_t now)
{
	struct pb_desc d[PB_BURST_MAX];
	int n = pb_dev_rx(f->in, d, (int)f->burst, now), taken = 0;
	f->rx_calls++;
	if (n <= 0) {
		f->rx_empty += n == 0;
		return n;
	}
	f->received += packets(f->in, d, n);
	if (f->how != PB_FORWARD_RX) {
		if (f->how == PB_FORWARD_MACSWAP)
			swap_macs(f->in->pool, d, n);
		pb_dev_reap_free(f->out, now);
		taken = pb_dev_tx(f->out, d, n, PB_OWN_RX, now);
		if (taken > 0)
			f->sent += packets(f->in, d, taken);
	}
	if (taken < n) {
		int from = taken > 0 ? taken : 0;
		f->tx_full += f->how != PB_FORWARD_RX;
		f->dropped += packets(f->in, d + from, n - from);
		pb_pool_put_descs(f->in->cache, d + from, (uint32_t)(n - from), PB_OWN_RX);
	}
	return taken < 0 ? taken : n;
}

static int pass(struct pb_forward *f)
{
	struct pb_passed p;
	int n = f->in->ops->pass(f->in, f->out, (int)f->burst, &p);
	f->rx_calls++;
	f->rx_empty += n == 0;
	f->received += p.received;
	f->sent += p.sent;
	f->dropped += p.received - p.sent;
	f->tx_full += p.sent < p.received;
	return n;
}

static int generate(struct pb_forward *f, uint64_t now)
{
	struct pb_desc d[PB_BURST_MAX];
	uint64_t addrs[PB_BURST_MAX];
	struct pb_dev *dev = f->out;
	pb_dev_reap_free(dev, now);
	uint32_t n = pb_pool_get(dev->cache, addrs, f->burst, 0, PB_OWN_APP);
	f->no_frame += n < f->burst;
	for (uint32_t i = 0; i < n; i++) {
		d[i] = (struct pb_desc){.addr = addrs[i], .off = TX_OFFSET, .len = (uint16_t)f->frame_len};
		memcpy(pb_pool_data(dev->pool, &d[i]), f->frame, f->frame_len);
	}
	int taken = n ? pb_dev_tx(dev, d, (int)n, PB_OWN_APP, now) : 0, from = taken > 0 ? taken : 0;
	f->sent += (uint64_t)from;
	if ((uint32_t)from < n) {
		f->tx_full++;
		pb_pool_put_descs(dev->cache, d + from, n - (uint32_t)from, PB_OWN_APP);
	}
	return taken;
}

static bool valid(const struct pb_forward *f)
{
	if (f->how > PB_FORWARD_TX || !f->burst || f->burst > PB_BURST_MAX || (!f->stop && !f->duration_ns))
		return false;
	if (f->how == PB_FORWARD_TX)
		return f->out && f->frame && f->frame_len >= 14 && f->frame_len <= f->out->mtu + 18u &&
		       f->frame_len + TX_OFFSET <= f->out->pool->frame_bytes;
	if (!f->in || f->burst < f->in->chain_max)
		return false;
	return f->how == PB_FORWARD_RX || (f->out && f->out->pool == f->in->pool);
}

int pb_forward_run(struct pb_forward *f)
{
	if (!valid(f))
		return -EINVAL;
	uint64_t start = pb_now_ns(), now = start, until = f->duration_ns ? start + f->duration_ns : UINT64_MAX;
	uint32_t turns = 0;
	int rc = 0;
	bool passes = f->how == PB_FORWARD_IO && f->in->ops == f->out->ops && f->in->ops->pass;
	uint64_t before = pb_cycles();
	while (rc >= 0) {
		rc = f->how == PB_FORWARD_TX ? generate(f, now) : passes ? pass(f) : forward(f, now);
		uint64_t after = pb_cycles();
		if (rc > 0)
			f->busy_cycles += after - before;
		before = after;
		if (++turns % TURNS_PER_LOOK)
			continue;
		now = pb_now_ns();
		if (now >= until || (f->stop && atomic_load_explicit(f->stop, memory_order_relaxed)))
			break;
	}
	f->ns = pb_now_ns() - start;
	if (f->out)
		pb_dev_reap_free(f->out, now);
	return rc < 0 ? rc : 0;
}
