/* AF_XDP test program: `serve` obeys lines on stdin and answers each with one line of JSON; `echo`, `flood`,
 * `reopen` and `threads` run by themselves and print one line. */
#define _GNU_SOURCE
#include "xsk_check.h"

#include "dev/netns.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

uint64_t xsk_now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int64_t tai_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_TAI, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int xsk_args_read(struct xsk_args *a, int argc, char **argv, const char *prefix)
{
	pb_xsk_config_init(&a->cfg);
	a->netns = -1;
	a->frames = 8192;
	a->frame_bytes = 2048;
	a->count = 1000;
	for (int i = 0; i < argc; i++) {
		const char *eq = strchr(argv[i], '=');
		const char *key = argv[i];
		if (!eq)
			return -EINVAL;
		/* "a.if=..." is for side a only; without a dot it is for both. */
		if (key[1] == '.') {
			if (key[0] != prefix[0])
				continue;
			key += 2;
		}
		size_t n = (size_t)(eq++ - key);
		uint32_t v = (uint32_t)strtoul(eq, NULL, 0);
#define KEY(s) (n == sizeof(s) - 1 && !memcmp(key, s, n))
		if (KEY("if"))
			snprintf(a->cfg.ifname, sizeof(a->cfg.ifname), "%s", eq);
		else if (KEY("dir"))
			a->cfg.obj_dir = eq;
		else if (KEY("queue"))
			a->cfg.queue = (uint16_t)v;
		else if (KEY("mode"))
			a->cfg.mode = (enum pb_xsk_mode)v;
		else if (KEY("copy"))
			a->cfg.copy = (enum pb_xsk_copy)v;
		else if (KEY("ring"))
			a->cfg.rx_ring = a->cfg.tx_ring = a->cfg.fill_ring = a->cfg.comp_ring = v;
		else if (KEY("fill"))
			a->cfg.fill_ring = v;
		else if (KEY("sg"))
			a->cfg.sg = (enum pb_xsk_sg)v;
		else if (KEY("sockets"))
			a->cfg.sockets = v;
		else if (KEY("headroom"))
			a->cfg.headroom = v;
		else if (KEY("unaligned"))
			a->cfg.unaligned = v;
		else if (KEY("tx_meta"))
			a->cfg.tx_meta = v;
		else if (KEY("busy_poll"))
			a->cfg.busy_poll_us = v;
		else if (KEY("netns"))
			a->netns = (int)v;
		else if (KEY("frames"))
			a->frames = v;
		else if (KEY("frame_bytes"))
			a->frame_bytes = v;
		else if (KEY("count"))
			a->count = v;
		else
			return -EINVAL;
#undef KEY
	}
	return 0;
}

struct pb_dev *xsk_open_at(const struct xsk_args *a, struct pb_pool *pool, struct pb_xsk_report *rep, int *err)
{
	int before = a->netns >= 0 ? pb_netns_enter(a->netns) : -1;
	struct pb_dev *dev = pb_dev_xsk_open(&a->cfg, pool, rep, err);
	if (before >= 0) {
		close(pb_netns_enter(before));
		close(before);
	}
	if (!dev)
		fprintf(stderr, "open %s: %s: %s\n", a->cfg.ifname, pb_xsk_stage_name(rep->fail.stage), rep->fail.text);
	return dev;
}

void xsk_steer_all(struct pb_dev *dev)
{
	struct pb_xsk_prog *p = pb_dev_xsk_prog(dev);
	pb_xsk_steer_add(p, 0, NULL, 0, 0);
	pb_xsk_prog_unref(p);
}

int xsk_reap_all(struct pb_dev *dev)
{
	uint64_t addrs[PB_BURST_MAX];
	int total = 0, n;
	while ((n = pb_dev_reap(dev, addrs, PB_BURST_MAX, 0)) > 0) {
		for (int i = 0; i < n; i++)
			pb_pool_put(dev->cache, addrs[i], PB_OWN_TX);
		total += n;
	}
	return total;
}

void xsk_print_pool(struct pb_pool *pool)
{
	struct pb_pool_info i;
	pb_pool_info(pool, &i);
	printf("\"own\":{");
	for (unsigned o = 0; o < PB_OWN_COUNT; o++)
		printf("%s\"%s\":%lld", o ? "," : "", pb_owner_name(o), (long long)i.own[o]);
	printf("},\"frames\":%llu,\"debug\":%u,\"violations\":%llu", (unsigned long long)i.frames, i.debug,
	       (unsigned long long)i.violations);
}

void xsk_print_stats(struct pb_dev *dev)
{
	dev->ops->stats(dev);
	const struct pb_dev_stats *s = &dev->stats;
	printf("\"rx_pkts\":%llu,\"rx_bytes\":%llu,\"tx_pkts\":%llu,\"tx_bytes\":%llu,\"tx_wakeups\":%llu,"
	       "\"fill_empty\":%llu,\"link_up\":%d,\"tx_pending\":%d,\"drops\":{",
	       (unsigned long long)s->rx_pkts, (unsigned long long)s->rx_bytes, (unsigned long long)s->tx_pkts,
	       (unsigned long long)s->tx_bytes, (unsigned long long)s->tx_wakeups, (unsigned long long)s->rx_fill_empty,
	       dev->link_up, dev->tx_pending);
	const char *sep = "";
	for (unsigned r = 0; r < PB_DROP_COUNT; r++)
		if (s->drops.n[r]) {
			printf("%s\"%s\":%llu", sep, pb_drop_name(r), (unsigned long long)s->drops.n[r]);
			sep = ",";
		}
	struct pb_xsk_info i;
	pb_dev_xsk_info(dev, &i);
	printf("},\"fill_target\":%u,\"fill_posted\":%u,\"fill_low\":%u,\"pool_empty\":%llu,\"meta_missing\":%llu,"
	       "\"tx_eagain\":%llu,\"tx_outstanding\":%u",
	       i.fill_target, i.fill_posted, i.fill_low, (unsigned long long)i.pool_empty,
	       (unsigned long long)i.meta_missing, (unsigned long long)i.tx_eagain, i.tx_outstanding);
}

static void print_frame(struct pb_dev *dev, const struct pb_desc *d)
{
	const uint8_t *p = pb_pool_data(dev->pool, d);
	printf("{\"len\":%u,\"off\":%u,\"hash\":%u,\"hash_type\":%u,\"ts_source\":%u,\"age_ns\":%lld,\"vlan\":%u,"
	       "\"flags\":%u,\"queue\":%u,\"hex\":\"",
	       d->len, d->off, d->hash, d->hash_type, d->ts_source, (long long)(tai_ns() - (int64_t)d->ts_ns), d->vlan,
	       d->flags, d->queue);
	for (unsigned i = 0; i < d->len; i++)
		printf("%02x", p[i]);
	printf("\"}");
}

/* rx N MS [NAP]: up to N frames within MS milliseconds; after each receive of nothing it waits for a packet, 1 ms at
 * most, or sleeps for NAP ms whatever comes. */
static void do_rx(struct pb_dev *dev, const char *line)
{
	int want = 0, ms = 0, nap = 0, got = 0, ret = 0;
	sscanf(line, "%d %d %d", &want, &ms, &nap);
	uint64_t deadline = xsk_now_ns() + (uint64_t)ms * 1000000u;
	printf("{\"frames\":[");
	do {
		struct pb_desc d[PB_BURST_MAX];
		int room = want - got < PB_BURST_MAX ? want - got : PB_BURST_MAX;
		ret = pb_dev_rx(dev, d, room, xsk_now_ns());
		for (int i = 0; i < ret; i++) {
			printf("%s", got++ ? "," : "");
			print_frame(dev, &d[i]);
			pb_pool_put(dev->cache, d[i].addr, PB_OWN_RX);
		}
		if (!ret) {
			struct pollfd p = {.fd = dev->ops->fd(dev), .events = POLLIN};
			poll(&p, !nap, nap ? nap : 1);
		}
	} while (ret >= 0 && got < want && xsk_now_ns() < deadline);
	printf("],\"ret\":%d}\n", ret);
}

/* tx COUNT OFF FLAGS HEX: that frame, COUNT times. */
static void do_tx(struct pb_dev *dev, const char *line)
{
	unsigned count = 1, off = 0, flags = 0;
	int at = 0;
	sscanf(line, "%u %u %x %n", &count, &off, &flags, &at);
	const char *hex = line + at;
	struct pb_desc d[PB_BURST_MAX];
	uint64_t addrs[PB_BURST_MAX];
	int ret = 0;
	unsigned sent = 0;
	while (sent < count && ret >= 0) {
		unsigned n = count - sent < PB_BURST_MAX ? count - sent : PB_BURST_MAX;
		n = pb_pool_get(dev->cache, addrs, n, 0, PB_OWN_APP);
		for (unsigned i = 0; i < n; i++) {
			d[i] = (struct pb_desc){.addr = addrs[i], .off = (uint16_t)off, .flags = (uint16_t)flags};
			uint8_t *p = pb_pool_data(dev->pool, &d[i]);
			unsigned byte;
			for (const char *h = hex; sscanf(h, "%2x", &byte) == 1; h += 2, d[i].len++)
				if (off + d[i].len < dev->pool->frame_bytes)
					p[d[i].len] = (uint8_t)byte;
		}
		ret = pb_dev_tx(dev, d, (int)n, PB_OWN_APP, 0);
		for (unsigned i = ret > 0 ? (unsigned)ret : 0; i < n; i++)
			pb_pool_put(dev->cache, addrs[i], PB_OWN_APP);
		if (ret <= 0)
			break;
		sent += (unsigned)ret;
	}
	printf("{\"sent\":%u,\"ret\":%d}\n", sent, ret);
}

/* steer add|del PROTO IP|- LO HI */
static void do_steer(struct pb_dev *dev, const char *line)
{
	char what[8], text[64];
	unsigned proto, lo, hi;
	int ret = -EINVAL;
	if (sscanf(line, "%7s %u %63s %u %u", what, &proto, text, &lo, &hi) == 5) {
		uint8_t raw[16];
		struct pb_ip ip, *at = NULL;
		if (inet_pton(AF_INET, text, raw) == 1)
			ip = pb_ip_from4(raw), at = &ip;
		else if (inet_pton(AF_INET6, text, raw) == 1)
			ip = pb_ip_from6(raw), at = &ip;
		struct pb_xsk_prog *p = pb_dev_xsk_prog(dev);
		ret = (what[0] == 'a' ? pb_xsk_steer_add : pb_xsk_steer_del)(p, (uint8_t)proto, at, (uint16_t)lo,
									     (uint16_t)hi);
		pb_xsk_prog_unref(p);
	}
	printf("{\"ret\":%d}\n", ret);
}

static void do_stats(struct pb_dev *dev)
{
	struct pb_steer_counters c = {0};
	struct pb_xsk_prog *p = pb_dev_xsk_prog(dev);
	pb_xsk_prog_counters(p, &c);
	pb_xsk_prog_unref(p);
	printf("{");
	xsk_print_stats(dev);
	printf(",\"redirected\":%llu,\"passed\":%llu,\"icmp_redirected\":%llu,\"meta_failed\":%llu,",
	       (unsigned long long)c.redirected, (unsigned long long)c.passed, (unsigned long long)c.icmp_redirected,
	       (unsigned long long)c.meta_failed);
	xsk_print_pool(dev->pool);
	printf("}\n");
}

static void print_report(const struct pb_xsk_report *r)
{
	printf("{\"stage\":\"%s\",\"errno\":%d,\"mode\":\"%s\",\"zerocopy\":%d,\"metadata\":%d,\"rungs\":[",
	       pb_xsk_stage_name(r->fail.stage), -r->fail.err, pb_xsk_mode_name(r->mode), r->zerocopy, r->metadata);
	for (uint32_t i = 0; i < r->nrungs; i++)
		printf("%s{\"mode\":\"%s\",\"copy\":%d,\"stage\":\"%s\",\"errno\":%d}", i ? "," : "",
		       pb_xsk_mode_name(r->rungs[i].mode), r->rungs[i].copy, pb_xsk_stage_name(r->rungs[i].fail.stage),
		       -r->rungs[i].fail.err);
	printf("],\"filled\":%u,\"tx_budget\":%u}\n", r->filled, r->tx_budget);
}

int xsk_serve(int argc, char **argv)
{
	static char line[1 << 16];
	struct xsk_args a;
	struct pb_xsk_report rep;
	int err = 0;
	if (xsk_args_read(&a, argc, argv, "a"))
		return 2;
	struct pb_pool *pool = pb_pool_create(a.frames, a.frame_bytes, PB_WANT_4K, &err);
	if (!pool)
		return 2;
	struct pb_dev *dev = xsk_open_at(&a, pool, &rep, &err);
	print_report(&rep);
	while (dev && fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "rx ", 3))
			do_rx(dev, line + 3);
		else if (!strncmp(line, "tx ", 3))
			do_tx(dev, line + 3);
		else if (!strncmp(line, "steer ", 6))
			do_steer(dev, line + 6);
		else if (!strncmp(line, "stats", 5))
			do_stats(dev);
		else if (!strncmp(line, "reap", 4))
			printf("{\"reaped\":%d}\n", xsk_reap_all(dev));
		else
			break;
	}
	if (dev)
		dev->ops->close(dev);
	printf("{");
	xsk_print_pool(pool);
	printf("}\n");
	pb_pool_unref(pool);
	return dev ? 0 : 1;
}

int main(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(int argc, char **argv);
	} commands[] = {{"serve", xsk_serve}, {"echo", xsk_echo},       {"flood", xsk_flood}, {"reopen", xsk_reopen},
			{"vlan", xsk_vlan},   {"threads", xsk_threads}, {"again", xsk_again}};
	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc > 1 && i < PB_ARRAY_LEN(commands); i++)
		if (!strcmp(argv[1], commands[i].name))
			return commands[i].run(argc - 2, argv + 2);
	return 2;
}
