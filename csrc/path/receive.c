/* Classification: TCP for an address of ours goes to the engine, ICMP errors about its segments too; what is left is
 * for the slow path, with a reason. */
#include "path/group.h"
#include "path/path.h"

#include "wire/eth.h"
#include "wire/icmp.h"
#include "wire/ip.h"

#include <errno.h>

static void count_drop(struct pb_path *p, const struct pb_desc *d, enum pb_drop why)
{
	p->stats.drops.n[why]++;
	pb_pool_put(p->dev->cache, d->addr, PB_OWN_RX);
}

void pb_path_except(struct pb_path *p, const struct pb_desc *d, enum pb_exc_reason reason)
{
	if (!p->chan || !pb_ring_room(&p->chan->exc, 1)) {
		count_drop(p, d, PB_DROP_EXC_FULL);
		return;
	}
	pb_pool_move(p->dev->cache, d->addr, PB_OWN_RX, PB_OWN_APP);
	*(struct pb_exc *)pb_ring_prod_slot(&p->chan->exc, 0) = (struct pb_exc){.d = *d, .reason = reason};
	pb_ring_submit(&p->chan->exc, 1);
	p->stats.exceptions++;
	pb_path_wake_slow(p);
}

/* What an ICMP error means to a connection being opened, as errno. */
static int icmp_errno(uint8_t version, const struct pb_icmp_view *v)
{
	if (v->kind != PB_ICMP_UNREACH)
		return v->kind == PB_ICMP_PARAM ? EPROTO : EHOSTUNREACH;
	if (version == 4)
		return v->code == 3 ? ECONNREFUSED : v->code == 0 ? ENETUNREACH : EHOSTUNREACH;
	return v->code == 4 ? ECONNREFUSED : v->code == 0 ? ENETUNREACH : EHOSTUNREACH;
}

/* What becomes of a frame. */
struct fate {
	enum { FATE_ENGINE, FATE_DROP, FATE_EXCEPTION, FATE_STRAY } what;
	unsigned reason; /* enum pb_drop, enum pb_exc_reason, or the member of the group whose it is */
};

static struct fate dropped(enum pb_drop why)
{
	return (struct fate){FATE_DROP, why};
}

static struct fate exception(enum pb_exc_reason why)
{
	return (struct fate){FATE_EXCEPTION, why};
}

/* An error about a segment of ours is dealt with, or refused (RFC 5927): dropped either way. NICs spread ICMP by
 * addresses alone, so it may be about a flow of another engine's. */
static struct fate fate_of_icmp(struct pb_path *p, const uint8_t *ip, uint32_t len, bool stray, uint64_t now_ns)
{
	struct pb_ip_view v;
	struct pb_icmp_view m;
	enum pb_drop why = pb_ip_parse(ip, len, &v);
	if (why == PB_DROP_IP_SRC)
		return exception(PB_EXC_ICMP); /* duplicate address detection comes from :: */
	if (!why)
		why = pb_icmp_parse(&v, ip + v.hdr_len, v.total_len - v.hdr_len, &m);
	if (why)
		return dropped(why);
	bool error = m.kind == PB_ICMP_UNREACH || m.kind == PB_ICMP_TOO_BIG || m.kind == PB_ICMP_TIME_EXCEEDED ||
		     m.kind == PB_ICMP_PARAM;
	if (!error || m.quote.proto != PB_IPPROTO_TCP || !m.quote.has_seq)
		return exception(PB_EXC_ICMP);
	struct pb_tcp_endpoint local = {m.quote.src, m.quote.sport}, remote = {m.quote.dst, m.quote.dport};
	/* RFC 1191 5: a router that does not say gets the next lower plateau; the smallest we use is 576. */
	uint32_t mtu = m.kind != PB_ICMP_TOO_BIG ? 0 : m.mtu ? m.mtu : 576;
	int rc = pb_tcp_icmp(p->tcp, &local, &remote, m.quote.seq, icmp_errno(v.version, &m), mtu, now_ns);
	int who = rc == -ENOENT && !stray ? pb_tcp_owner(p->tcp, &local, &remote) : -1;
	return who >= 0 ? (struct fate){FATE_STRAY, (unsigned)who} : dropped(rc ? PB_DROP_ICMP_BAD : PB_DROP_NONE);
}

/* The VLAN that a frame came in: a tag in it, or one that the device stripped; 0 is none, and a mere priority. */
static uint16_t vlan_of(const struct pb_desc *d, const struct pb_eth_view *eth)
{
	uint16_t tci = eth->vlans ? eth->vlan : d->flags & PB_DESC_VLAN ? d->vlan : 0;
	return tci & 0xfff;
}

static struct fate fate_of_ip(struct pb_path *p, const struct pb_eth_view *eth, const uint8_t *ip, uint32_t len,
			      bool stray, uint64_t now_ns)
{
	bool v4 = eth->type == PB_ETH_IP4;
	if (len < (v4 ? PB_IP4_HLEN : PB_IP6_HLEN))
		return dropped(PB_DROP_IP_SHORT);
	uint8_t proto = v4 ? ip[offsetof(struct pb_ip4_hdr, proto)] : ip[offsetof(struct pb_ip6_hdr, next)];
	struct pb_ip dst = v4 ? pb_ip_from4(ip + offsetof(struct pb_ip4_hdr, dst))
			      : pb_ip_from6(ip + offsetof(struct pb_ip6_hdr, dst));
	bool local = pb_net_is_local(&p->net, &dst), group = pb_ip_is_multicast(&dst);
	if (!local && (!group || proto == PB_IPPROTO_TCP))
		return atomic_load_explicit(&p->hand_over, memory_order_relaxed) ? exception(PB_EXC_NOT_OURS)
										 : dropped(PB_DROP_IP_DST);
	if (proto == PB_IPPROTO_ICMP || proto == PB_IPPROTO_ICMP6)
		return fate_of_icmp(p, ip, len, stray, now_ns);
	/* Of what the engine does not parse; a fragment of ICMP is counted above. */
	if (v4 && proto != PB_IPPROTO_TCP && (pb_be16_get(((const struct pb_ip4_hdr *)ip)->frag) & 0x3fff))
		return dropped(PB_DROP_IP_FRAGMENT);
	if (proto == PB_IPPROTO_UDP)
		return exception(PB_EXC_UDP);
	/* IPv6 extension headers: the engine's parser walks them and finds out. */
	bool ext = !v4 && (proto == PB_IPPROTO_HOPOPTS || proto == PB_IPPROTO_ROUTING || proto == PB_IPPROTO_FRAGMENT ||
			   proto == PB_IPPROTO_DSTOPTS);
	if ((proto != PB_IPPROTO_TCP && !ext) || !local)
		return exception(PB_EXC_IP_OTHER);
	if (pb_eth_is_group(eth->dst))
		return dropped(PB_DROP_L2_DST); /* RFC 1122 3.3.6: unicast IP in a broadcast frame */
	return (struct fate){FATE_ENGINE, 0};
}

/* l2: bytes before the IP header, for the engine. */
static struct fate classify(struct pb_path *p, const struct pb_desc *d, uint16_t *l2, uint64_t now_ns)
{
	const uint8_t *frame = pb_pool_data(p->dev->pool, d);
	struct pb_eth_view eth;
	enum pb_drop why = pb_eth_parse(frame, d->len, &eth);
	if (why)
		return dropped(why);
	if (!pb_eth_is_group(eth.dst) && memcmp(eth.dst, p->dev->mac, 6))
		return dropped(PB_DROP_L2_DST);
	if (vlan_of(d, &eth) != (p->net.vlan & 0xfff))
		return dropped(PB_DROP_L2_VLAN);
	if (eth.type == PB_ETH_ARP)
		return exception(PB_EXC_ARP);
	if (eth.type != PB_ETH_IP4 && eth.type != PB_ETH_IP6)
		return exception(PB_EXC_L2_OTHER);
	uint32_t len = (uint32_t)d->len - eth.hdr_len;
	*l2 = (uint16_t)eth.hdr_len;
	return fate_of_ip(p, &eth, frame + eth.hdr_len, len, d->flags & PB_DESC_STRAY, now_ns);
}

/* Packets on their way to the engines that own their flows. */
struct strays {
	struct pb_desc d[PB_BURST_MAX];
	uint8_t who[PB_BURST_MAX];
	int n;
};

static void stray_add(struct strays *s, const struct pb_desc *d, unsigned who)
{
	s->d[s->n] = *d;
	s->who[s->n++] = (uint8_t)who;
}

void pb_path_input(struct pb_path *p, struct pb_desc *d, int n, uint64_t now_ns)
{
	struct pb_desc in[PB_BURST_MAX];
	struct pb_tcp_verdict v[PB_BURST_MAX];
	uint16_t l2[PB_BURST_MAX]; /* bytes before the IP header */
	struct strays strays;
	int k = 0;
	strays.n = 0;
	for (int i = 0; i < n; i++) {
		struct fate f =
			d[i].flags & PB_DESC_MORE ? dropped(PB_DROP_TOO_LONG) : classify(p, &d[i], &l2[k], now_ns);
		if (f.what == FATE_ENGINE) {
			in[k] = d[i];
			in[k].off = (uint16_t)(in[k].off + l2[k]);
			in[k].len = (uint16_t)(in[k].len - l2[k]);
			k++;
		} else if (f.what == FATE_DROP)
			count_drop(p, &d[i], f.reason);
		else if (f.what == FATE_STRAY)
			stray_add(&strays, &d[i], f.reason);
		else
			pb_path_except(p, &d[i], f.reason);
	}
	if (k)
		pb_tcp_input(p->tcp, in, k, now_ns, v);
	for (int i = 0; i < k; i++) {
		if (v[i].what == PB_VERDICT_EXC || v[i].what == PB_VERDICT_STRAY) {
			in[i].off = (uint16_t)(in[i].off - l2[i]);
			in[i].len = (uint16_t)(in[i].len + l2[i]);
		}
		if (v[i].what == PB_VERDICT_EXC)
			pb_path_except(p, &in[i], PB_EXC_ACCEPT);
		else if (v[i].what == PB_VERDICT_STRAY)
			stray_add(&strays, &in[i], v[i].reason);
		else if (v[i].what != PB_VERDICT_TAKEN)
			pb_pool_put(p->dev->cache, in[i].addr, PB_OWN_RX);
	}
	if (strays.n)
		pb_group_send(p, strays.d, strays.who, strays.n);
}

int pb_path_receive(struct pb_path *p, uint64_t now_ns)
{
	struct pb_desc d[PB_BURST_MAX];
	int n = pb_dev_rx(p->dev, d, PB_BURST_MAX, now_ns), k = 0;
	bool more = false;
	if (n <= 0)
		return n == -ENETDOWN ? 0 : n; /* down, not gone: nothing comes for a while */
	for (int i = 0; i < n; i++)
		__builtin_prefetch(pb_pool_data(p->dev->pool, &d[i]));
	for (int i = 0; i < n; i++) {
		if (p->tap)
			pb_tap_packet(p->tap, p->dev->pool, &d[i], 1, false, now_ns);
		/* No engine takes a packet of several frames: it counts once, and what follows is no header. */
		bool rest = more;
		more = d[i].flags & PB_DESC_MORE;
		if (rest)
			pb_pool_put(p->dev->cache, d[i].addr, PB_OWN_RX);
		else
			d[k++] = d[i];
	}
	p->stats.rx_pkts += (uint64_t)k;
	pb_path_input(p, d, k, now_ns);
	return n;
}

void pb_path_judged(struct pb_path *p, struct pb_desc *d, uint64_t now_ns)
{
	struct pb_eth_view eth;
	struct pb_tcp_verdict v = {0};
	if (!pb_eth_parse(pb_pool_data(p->dev->pool, d), d->len, &eth)) {
		d->off = (uint16_t)(d->off + eth.hdr_len);
		d->len = (uint16_t)(d->len - eth.hdr_len);
		pb_tcp_input(p->tcp, d, 1, now_ns, &v);
	}
	/* A SYN is never taken: what it carries comes again. */
	pb_pool_put(p->dev->cache, d->addr, PB_OWN_APP);
}
