#include "app/bench.h"

#include "base/flag.h"
#include "path/loop.h"

#include <errno.h>

#define TX_OFFSET 256
#define BUILD_SAMPLE 16 /* one burst of so many is timed */
#define REAP_EVERY_NS 20000
#define NOISE_MIN_NS 200
#define RELAX 8

int pb_bench_init(struct pb_bench *b, struct pb_dev *dev, const struct pb_bench_config *cfg)
{
	memset(b, 0, offsetof(struct pb_bench, latency));
	b->dev = dev;
	b->cfg = *cfg;
	if (!cfg->burst || cfg->burst > PB_BURST_MAX || !cfg->slices || cfg->slices > PB_BENCH_SLICES ||
	    (!cfg->tmpl && !cfg->rx) || (!cfg->tmpl && !cfg->stop) || cfg->duration_ns < cfg->slices)
		return -EINVAL;
	uint32_t room = dev->pool->frame_bytes - TX_OFFSET, most = dev->chain_max > 1 ? dev->chain_max : 1;
	b->chain = cfg->tmpl ? (cfg->tmpl->len + room - 1) / room : 1;
	if (cfg->tmpl && (cfg->tmpl->len > dev->mtu + 18u || b->chain > most))
		return -EMSGSIZE;
	pb_hist_reset(&b->lag);
	for (uint32_t i = 0; i < cfg->slices; i++)
		pb_hist_reset(&b->latency[i]);
	return 0;
}

/* The slice of a moment; what comes after the last one (`late`) is of no slice, but its latency counts with the last.
 */
static uint32_t slice_at(const struct pb_bench *b, uint64_t now, bool *late)
{
	uint64_t i = (now - b->start_ns) / (b->cfg.duration_ns / b->cfg.slices);
	*late = i >= b->cfg.slices;
	return *late ? b->cfg.slices - 1 : (uint32_t)i;
}

static uint64_t due_ns(const struct pb_bench *b, uint64_t seq)
{
	unsigned __int128 t = (unsigned __int128)seq * b->cfg.interval;
	return b->start_ns + (uint64_t)(t >> PB_INTERVAL_FRAC);
}

/* Packets that are due now, at most a burst. */
static uint32_t due_now(const struct pb_bench *b, uint64_t now)
{
	uint64_t left = b->cfg.packets - b->offered;
	uint32_t most = left < b->cfg.burst ? (uint32_t)left : b->cfg.burst;
	most = most < PB_BURST_MAX / b->chain ? most : PB_BURST_MAX / b->chain;
	if (!b->cfg.interval)
		return most;
	uint32_t n = 0;
	while (n < most && due_ns(b, b->offered + n) <= now)
		n++;
	return n;
}

/* A packet over as many frames as it needs. */
static void put_packet(struct pb_bench *b, struct pb_desc *d, const uint64_t *addrs, uint64_t seq, uint64_t due)
{
	const struct pb_pool *pool = b->dev->pool;
	uint32_t left = b->cfg.tmpl->len, room = pool->frame_bytes - TX_OFFSET;
	uint8_t *from = b->scratch;
	if (b->chain > 1)
		pb_template_write(b->cfg.tmpl, from, seq, due);
	for (uint32_t i = 0; i < b->chain; i++, left -= d[i - 1].len, from += d[i - 1].len) {
		d[i] = (struct pb_desc){.addr = addrs[i], .off = TX_OFFSET};
		d[i].len = (uint16_t)(left < room ? left : room);
		d[i].flags = i + 1 < b->chain ? PB_DESC_MORE : 0;
		if (b->chain > 1)
			memcpy(pb_pool_data(pool, &d[i]), from, d[i].len);
		else
			pb_template_write(b->cfg.tmpl, pb_pool_data(pool, d), seq, due);
	}
}

/* Makes n packets into pending. */
static void build(struct pb_bench *b, uint32_t n, uint64_t now)
{
	struct pb_dev *dev = b->dev;
	uint64_t addrs[PB_BURST_MAX];
	if (now - b->reaped_ns > REAP_EVERY_NS || pb_pool_free_hint(dev->cache) < 2 * PB_BURST_MAX) {
		pb_dev_reap_free(dev, now);
		b->reaped_ns = now;
	}
	uint32_t have = pb_pool_get(dev->cache, addrs, n * b->chain, 0, PB_OWN_APP), got = have / b->chain;
	while (have > got * b->chain)
		pb_pool_put(dev->cache, addrs[--have], PB_OWN_APP);
	b->no_frame += !got;
	bool sample = b->tx_calls % BUILD_SAMPLE == 0 && got;
	uint64_t t0 = sample ? pb_now_ns() : 0;
	for (uint32_t i = 0; i < got; i++) {
		uint64_t seq = b->offered++, due = b->cfg.interval ? due_ns(b, seq) : now;
		put_packet(b, &b->pending[i * b->chain], &addrs[i * b->chain], seq, due);
		uint64_t from = due > b->unblocked_ns ? due : b->unblocked_ns;
		if (b->cfg.interval) /* without a schedule nothing is late */
			pb_hist_record(&b->lag, now > from ? now - from : 0);
	}
	if (sample) {
		b->build_ns += pb_now_ns() - t0;
		b->build_pkts += got;
	}
	b->first_pending = 0;
	b->npending = got * b->chain;
}

static int send_pending(struct pb_bench *b, uint64_t now)
{
	int k = pb_dev_tx(b->dev, b->pending + b->first_pending, (int)b->npending, PB_OWN_APP, now);
	if (k < 0)
		return k;
	b->tx_calls++;
	bool late;
	struct pb_bench_slice *s = &b->slice[slice_at(b, now, &late)];
	uint32_t pkts = (uint32_t)k / b->chain; /* the device takes whole packets */
	s->sent += pkts;
	b->sent += pkts;
	b->sent_bytes += (uint64_t)pkts * b->cfg.tmpl->len;
	b->first_pending += (uint32_t)k;
	b->npending -= (uint32_t)k;
	if (b->npending) {
		b->tx_full++;
		pb_dev_reap_free(b->dev, now);
		b->unblocked_ns = pb_now_ns();
	}
	return 0;
}

/* Whether it is one of ours, and where there is a stamp, what it tells. */
static bool judge(struct pb_bench *b, const struct pb_desc *d, struct pb_hist *latency, uint64_t now)
{
	if (!b->cfg.stamp_off)
		return true;
	struct pb_stamp s;
	if (d->len < b->cfg.stamp_off + PB_STAMP_LEN)
		return false;
	pb_stamp_read(pb_pool_data(b->dev->pool, d) + b->cfg.stamp_off, &s);
	if (s.run != b->cfg.run)
		return false;
	pb_seqtrack_see(&b->track, s.seq);
	b->stamp_ahead += s.ns > now;
	pb_hist_record(latency, s.ns > now ? 0 : now - s.ns);
	return true;
}

static int receive(struct pb_bench *b, uint64_t before)
{
	struct pb_desc d[PB_BURST_MAX];
	uint64_t started = pb_cycles();
	int n = pb_dev_rx(b->dev, d, PB_BURST_MAX, before);
	b->rx_calls++;
	if (n <= 0) {
		b->rx_empty++;
		return n;
	}
	uint64_t now = b->cfg.stamp_off ? pb_now_ns() : before; /* only a latency needs the moment itself */
	if (!b->received) {
		b->first_ns = now;
		if (!b->cfg.tmpl)
			b->start_ns = now; /* who only receives begins with the first packet */
	}
	b->last_ns = now;
	bool late;
	uint32_t at = slice_at(b, now, &late);
	struct pb_bench_slice *slice = &b->slice[at];
	for (int i = 0; i < n; i++) {
		if (i + 4 < n)
			__builtin_prefetch(pb_pool_data(b->dev->pool, &d[i + 4]));
		bool later = b->inside; /* the stamp lies in a packet's first frame */
		b->inside = d[i].flags & PB_DESC_MORE;
		if (!later)
			b->ours = judge(b, &d[i], &b->latency[at], now);
		b->foreign += !b->ours && !later;
		b->received += b->ours && !later;
		slice->received += b->ours && !later && !late;
		b->rx_bytes += b->ours ? d[i].len : 0;
		slice->bytes += b->ours && !late ? d[i].len : 0;
		pb_pool_put(b->dev->cache, d[i].addr, PB_OWN_RX);
	}
	b->busy_cycles += pb_cycles() - started;
	if (b->cfg.heard)
		atomic_store_explicit(b->cfg.heard, b->received, memory_order_release);
	return n;
}

static int send_some(struct pb_bench *b, uint64_t now)
{
	if (!b->npending) {
		uint32_t n = due_now(b, now);
		if (n)
			build(b, n, now);
	}
	return b->npending ? send_pending(b, now) : 0;
}

static bool stopped(const struct pb_bench *b)
{
	return b->cfg.stop && atomic_load_explicit(b->cfg.stop, memory_order_acquire);
}

/* Who only receives and looks at the ring without a pause keeps taking the line with the producer's index away from the
 * core that writes it, and slows it down. */
static void rest(void)
{
	for (int i = 0; i < RELAX; i++)
		pb_cpu_relax();
}

static int active_part(struct pb_bench *b)
{
	int rc = 0;
	uint64_t now = b->start_ns;
	while (rc >= 0 && !stopped(b)) {
		if (b->cfg.tmpl) {
			if (now - b->start_ns >= b->cfg.duration_ns)
				break;
			if (b->offered >= b->cfg.packets && !b->npending)
				break;
			rc = send_some(b, now);
		}
		if (rc >= 0 && b->cfg.rx)
			rc = receive(b, now);
		if (!b->cfg.tmpl && !rc)
			rest();
		now = pb_now_ns();
	}
	b->end_ns = now;
	return rc;
}

static int drain(struct pb_bench *b)
{
	int rc = 0;
	uint64_t quiet = pb_now_ns();
	while (rc >= 0 && b->cfg.rx) {
		if (b->cfg.tmpl && b->cfg.until_back && b->received >= b->sent)
			break;
		/* Looks before it gives up: this thread may have been away for longer than that. */
		uint64_t now = pb_now_ns();
		rc = receive(b, now);
		if (rc > 0)
			quiet = now;
		else if (now - quiet >= b->cfg.drain_ns)
			break;
		if (b->cfg.tmpl)
			pb_dev_reap_free(b->dev, now);
	}
	return rc;
}

int pb_bench_run(struct pb_bench *b)
{
	b->start_ns = b->unblocked_ns = pb_now_ns();
	int rc = active_part(b);
	/* What the device did not take was never sent: its number must not count as lost. */
	for (; b->npending; b->npending--, b->first_pending++)
		pb_pool_put(b->dev->cache, b->pending[b->first_pending].addr, PB_OWN_APP);
	if (rc >= 0)
		rc = drain(b);
	pb_dev_reap_free(b->dev, pb_now_ns());
	uint64_t each = b->cfg.duration_ns / b->cfg.slices, ran = b->end_ns - b->start_ns;
	for (uint32_t i = 0; i < b->cfg.slices; i++)
		b->slice[i].ns = ran > (i + 1) * each ? each : ran > i * each ? ran - i * each : 0;
	return rc < 0 ? rc : 0;
}

uint64_t pb_noise_measure(struct pb_hist *h, uint64_t duration_ns)
{
	uint64_t start = pb_now_ns(), last = start, turns = 0;
	while (last - start < duration_ns) {
		uint64_t now = pb_now_ns();
		if (now - last >= NOISE_MIN_NS)
			pb_hist_record(h, now - last);
		last = now;
		turns++;
	}
	return turns;
}
