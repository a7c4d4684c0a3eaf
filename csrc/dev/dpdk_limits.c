#include "dev/dpdk_impl.h"

#include <errno.h>
#include <rte_bus.h>

/* Checks what is asked for against what the port says of itself, before anything is touched, and makes of it the
 * configuration for rte_eth_dev_configure(). */

#define DEFAULT_DESC 512
/* What a driver or a cache may keep beyond the rings. */
#define SPARE_FRAMES 64

static int check_queues(const struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	uint32_t n = p->cfg.queues;
	rep->queues = n;
	uint32_t most = p->info.max_rx_queues < p->info.max_tx_queues ? p->info.max_rx_queues : p->info.max_tx_queues;
	if (!n || n > PB_DPDK_QUEUES || n > most)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_QUEUES, -EINVAL,
					"%u queues: the port has %u for receiving and %u for sending", n,
					p->info.max_rx_queues, p->info.max_tx_queues);
	return 0;
}

/* 0: what the driver prefers, within its limits. */
static int desc_count(const char *what, uint32_t asked, uint32_t preferred, const struct rte_eth_desc_lim *l,
		      uint32_t *out, struct pb_dpdk_fail *f)
{
	uint32_t low = l->nb_min ? l->nb_min : 1, high = l->nb_max ? l->nb_max : UINT16_MAX;
	uint32_t step = l->nb_align ? l->nb_align : 1;
	uint32_t n = asked ? asked : preferred ? preferred : DEFAULT_DESC;
	if (!asked) {
		n = n < low ? low : n > high ? high : n;
		n -= n % step;
	}
	if (n < low || n > high || n % step)
		return pb_dpdk_fail_set(f, PB_DPDK_STAGE_RINGS, -EINVAL,
					"%u %s descriptors: from %u to %u in steps of %u", n, what, low, high, step);
	*out = n;
	return 0;
}

static int check_rings(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	rep->rx_desc_min = p->info.rx_desc_lim.nb_min;
	rep->rx_desc_max = p->info.rx_desc_lim.nb_max;
	rep->tx_desc_min = p->info.tx_desc_lim.nb_min;
	rep->tx_desc_max = p->info.tx_desc_lim.nb_max;
	int rc = desc_count("receive", p->cfg.rx_desc, p->info.default_rxportconf.ring_size, &p->info.rx_desc_lim,
			    &p->rx_desc, &rep->fail);
	return rc ? rc
		  : desc_count("transmit", p->cfg.tx_desc, p->info.default_txportconf.ring_size, &p->info.tx_desc_lim,
			       &p->tx_desc, &rep->fail);
}

static int check_mtu(struct pb_dpdk_port *p, const struct pb_pool *pool, struct pb_dpdk_report *rep)
{
	uint16_t now = 1500;
	(void)rte_eth_dev_get_mtu(p->id, &now);
	uint32_t mtu = p->cfg.mtu ? p->cfg.mtu : now;
	uint32_t low = p->info.min_mtu ? p->info.min_mtu : 68, high = p->info.max_mtu ? p->info.max_mtu : UINT16_MAX;
	/* What rte_eth_dev_configure() looks at: the frame, by the driver's own measure of what is around a packet. */
	uint32_t around = p->info.max_mtu != UINT16_MAX && p->info.max_rx_pktlen > p->info.max_mtu
				  ? p->info.max_rx_pktlen - p->info.max_mtu
				  : PB_DPDK_L2;
	if (p->info.max_rx_pktlen && p->info.max_rx_pktlen - around < high)
		high = p->info.max_rx_pktlen - around;
	high = high < UINT16_MAX ? high : UINT16_MAX;
	rep->min_mtu = low;
	rep->max_mtu = high;
	if (mtu < low || mtu > high)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MTU, -EMSGSIZE, "MTU %u: the port has %u to %u", mtu,
					low, high);
	p->cfg.mtu = (uint16_t)mtu;
	p->frame_room = pool->frame_bytes - RTE_PKTMBUF_HEADROOM;
	/* The kernel keeps its own headroom (XDP_PACKET_HEADROOM), and this driver has no packets of several frames. */
	if (p->info.driver_name && !strcmp(p->info.driver_name, "net_af_xdp")) {
		p->frame_room -= 256;
		if (mtu + PB_DPDK_L2 > p->frame_room)
			return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MTU, -EMSGSIZE,
						"MTU %u: frames of %u bytes hold one of %u with net_af_xdp", mtu,
						pool->stride, p->frame_room - PB_DPDK_L2);
	}
	p->chain_max = (mtu + PB_DPDK_L2 + p->frame_room - 1) / p->frame_room;
	bool scatter = p->info.rx_offload_capa & RTE_ETH_RX_OFFLOAD_SCATTER;
	/* Software drivers chain without being asked to. */
	if (p->chain_max > 1 && scatter)
		p->rx_offloads |= RTE_ETH_RX_OFFLOAD_SCATTER;
	if (p->chain_max > PB_BURST_MAX / 2)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MTU, -EMSGSIZE,
					"MTU %u: frames of %u bytes hold one of %u", mtu, pool->stride,
					PB_BURST_MAX / 2 * p->frame_room);
	return 0;
}

/* Each of the ports that share a pool needs its own part of it; what the others have is seen when the rings fill. */
static int check_pool(const struct pb_dpdk_port *p, const struct pb_pool *pool, struct pb_dpdk_report *rep)
{
	uint32_t most = 0;
	rep->frames_needed = p->cfg.queues * (p->rx_desc + p->tx_desc + SPARE_FRAMES + pb_dpdk_cache_most(pool));
	most = pool->nframes;
	if (most < rep->frames_needed)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MEMORY, -ENOBUFS,
					"%u frames: %u queue(s) of %u receive and %u transmit descriptors need %u",
					most, p->cfg.queues, p->rx_desc, p->tx_desc, rep->frames_needed);
	return 0;
}

static void choose_rx(struct pb_dpdk_port *p, struct rte_eth_conf *conf)
{
	const struct pb_dpdk_config *c = &p->cfg;
	uint64_t want = 0;
	if (c->rx_csum)
		want |= RTE_ETH_RX_OFFLOAD_CHECKSUM;
	if (c->vlan_strip)
		want |= RTE_ETH_RX_OFFLOAD_VLAN_STRIP;
	/* mlx5 gives cycles of its clock, whose rate nobody tells: not handed up as nanoseconds. */
	if (c->rx_stamp && strncmp(p->info.driver_name, "mlx5", 4))
		want |= RTE_ETH_RX_OFFLOAD_TIMESTAMP;
	if (c->rss_types && c->queues >= 1)
		want |= RTE_ETH_RX_OFFLOAD_RSS_HASH;
	p->rx_offloads |= want & p->info.rx_offload_capa;
	conf->rxmode.offloads = p->rx_offloads;
	conf->rxmode.mtu = c->mtu;
	p->rss_types = c->rss_types & p->info.flow_type_rss_offloads;
	if (p->rss_types && (c->queues > 1 || (p->rx_offloads & RTE_ETH_RX_OFFLOAD_RSS_HASH))) {
		conf->rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf->rx_adv_conf.rss_conf.rss_hf = p->rss_types;
		if (c->key_len) {
			conf->rx_adv_conf.rss_conf.rss_key = p->cfg.key;
			conf->rx_adv_conf.rss_conf.rss_key_len = (uint8_t)c->key_len;
		}
	} else {
		p->rss_types = 0;
		p->rx_offloads &= ~(uint64_t)RTE_ETH_RX_OFFLOAD_RSS_HASH;
		conf->rxmode.offloads = p->rx_offloads;
	}
}

/* A driver in software walks any chain for nothing; on a NIC the offload may cost it the fast way of sending. */
static bool is_virtual(const struct pb_dpdk_port *p)
{
	const struct rte_bus *bus = p->info.device ? rte_dev_bus(p->info.device) : NULL;
	return bus && !strcmp(rte_bus_name(bus), "vdev");
}

static void choose_tx(struct pb_dpdk_port *p, struct rte_eth_conf *conf)
{
	const struct pb_dpdk_config *c = &p->cfg;
	uint64_t want = 0;
	if (c->tx_csum)
		want |= RTE_ETH_TX_OFFLOAD_IPV4_CKSUM | RTE_ETH_TX_OFFLOAD_TCP_CKSUM | RTE_ETH_TX_OFFLOAD_UDP_CKSUM;
	if (c->multi_segs || p->chain_max > 1 || is_virtual(p))
		want |= RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
	if (c->launch)
		want |= RTE_ETH_TX_OFFLOAD_SEND_ON_TIMESTAMP;
	/* Not MBUF_FAST_FREE: engines keep a reference to what they sent. */
	p->tx_offloads = want & p->info.tx_offload_capa;
	conf->txmode.offloads = p->tx_offloads;
}

static int check_key(const struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	rep->key_size = p->info.hash_key_size;
	rep->rss_capa = p->info.flow_type_rss_offloads;
	rep->reta_size = p->info.reta_size;
	if (p->cfg.key_len && p->info.hash_key_size && p->cfg.key_len != p->info.hash_key_size)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_CONFIG, -EINVAL,
					"an RSS key of %u bytes: the port's has %u", p->cfg.key_len,
					p->info.hash_key_size);
	return 0;
}

int pb_dpdk_limits(struct pb_dpdk_port *p, const struct pb_pool *pool, struct rte_eth_conf *conf,
		   struct pb_dpdk_report *rep)
{
	int rc = check_queues(p, rep);
	if (!rc)
		rc = check_rings(p, rep);
	if (!rc)
		rc = check_mtu(p, pool, rep);
	if (!rc)
		rc = check_key(p, rep);
	if (!rc)
		rc = check_pool(p, pool, rep);
	if (rc)
		return rc;
	memset(conf, 0, sizeof(*conf));
	choose_rx(p, conf);
	choose_tx(p, conf);
	return 0;
}

void pb_dpdk_report_fill(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	struct rte_eth_link link = {0};
	struct rte_ether_addr mac;
	snprintf(rep->driver, sizeof(rep->driver), "%s", p->info.driver_name ? p->info.driver_name : "?");
	rep->port_id = p->id;
	rep->socket = rte_eth_dev_socket_id(p->id);
	if (!rte_eth_macaddr_get(p->id, &mac))
		memcpy(rep->mac, mac.addr_bytes, 6);
	rep->mtu = p->cfg.mtu;
	rep->queues = p->cfg.queues;
	rep->max_rx_queues = p->info.max_rx_queues;
	rep->max_tx_queues = p->info.max_tx_queues;
	rep->rx_desc = p->rx_desc;
	rep->tx_desc = p->tx_desc;
	rep->rx_capa = p->info.rx_offload_capa;
	rep->tx_capa = p->info.tx_offload_capa;
	rep->rx_offloads = p->rx_offloads;
	rep->tx_offloads = p->tx_offloads;
	rep->rss_capa = p->info.flow_type_rss_offloads;
	rep->rss_types = p->rss_types;
	rep->reta_size = p->info.reta_size;
	rep->key_size = p->info.hash_key_size;
	rep->frame_room = p->frame_room;
	rep->chain_max = p->chain_max;
	rep->filled = p->rx_desc * p->cfg.queues;
	rep->timesync = p->timesync;
	if (!rte_eth_link_get_nowait(p->id, &link)) {
		rep->link_up = link.link_status == RTE_ETH_LINK_UP;
		rep->speed_mbps = link.link_speed;
		rep->full_duplex = link.link_duplex;
	}
}
