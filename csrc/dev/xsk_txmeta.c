/* TX metadata (kernel: networking/xsk-tx-metadata). Its area lies directly before the data; requests go in before the
 * frame is sent, and the time stamp comes back in the same bytes. */
#define _GNU_SOURCE
#include "dev/xsk_impl.h"

#include <errno.h>
#include <stdlib.h>

int pb_xsk_txmeta_create(struct pb_xsk *x)
{
	x->stamp_seq = calloc(x->dev.pool->nframes, sizeof(*x->stamp_seq));
	x->stamps = calloc(PB_XSK_STAMPS, sizeof(*x->stamps));
	return x->stamp_seq && x->stamps ? 0 : -ENOMEM;
}

void pb_xsk_txmeta_destroy(struct pb_xsk *x)
{
	free(x->stamp_seq);
	free(x->stamps);
	x->stamp_seq = NULL;
	x->stamps = NULL;
}

bool pb_xsk_txmeta_ok(const struct pb_desc *d, uint32_t bytes)
{
	if (d->off < sizeof(struct pb_xsk_tx_meta))
		return false;
	return !(d->flags & PB_DESC_CSUM_PARTIAL) || (d->hash & 0xffff) + (d->hash >> 16) + 2 <= bytes;
}

void pb_xsk_txmeta_put(struct pb_xsk *x, const struct pb_desc *d, uint64_t data_addr)
{
	struct pb_xsk_tx_meta m = {0};
	uint16_t want = d->flags & x->dev.tx_flags;
	if (want & PB_DESC_CSUM_PARTIAL) {
		m.flags |= PB_TXMD_CHECKSUM;
		m.request.csum_start = (uint16_t)d->hash;
		m.request.csum_offset = (uint16_t)(d->hash >> 16);
	}
	if (want & PB_DESC_LAUNCH) {
		m.flags |= PB_TXMD_LAUNCH_TIME;
		m.request.launch_time = d->ts_ns;
	}
	if (want & PB_DESC_TX_STAMP) {
		m.flags |= PB_TXMD_TIMESTAMP;
		x->stamp_seq[pb_pool_index(x->dev.pool, d->addr)] = x->tx_seq + 1;
	}
	memcpy(x->dev.pool->base + data_addr - sizeof(m), &m, sizeof(m));
}

void pb_xsk_txmeta_done(struct pb_xsk *x, uint64_t data_addr, uint32_t frame)
{
	uint64_t seq = x->stamp_seq[frame];
	if (!seq)
		return;
	x->stamp_seq[frame] = 0;
	struct pb_xsk_tx_meta m;
	memcpy(&m, x->dev.pool->base + data_addr - sizeof(m), sizeof(m));
	if (x->stamp_head - x->stamp_tail == PB_XSK_STAMPS) {
		x->stamp_tail++;
		x->dev.stats.tx_stamps_lost++;
	}
	x->stamps[x->stamp_head++ % PB_XSK_STAMPS] = (struct pb_tx_stamp){
		.seq = seq - 1,
		.addr = pb_pool_addr(x->dev.pool, frame),
		.ns = m.completion.tx_timestamp,
		.source = x->copy ? PB_TS_KERNEL : PB_TS_HW,
	};
}

int pb_xsk_txmeta_stamps(struct pb_dev *dev, struct pb_tx_stamp *out, int n)
{
	struct pb_xsk *x = pb_xsk_of(dev);
	int k = 0;
	for (; k < n && x->stamp_tail != x->stamp_head; k++)
		out[k] = x->stamps[x->stamp_tail++ % PB_XSK_STAMPS];
	return k;
}
