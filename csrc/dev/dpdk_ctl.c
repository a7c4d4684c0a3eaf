#include "dev/dpdk_impl.h"

#include <errno.h>
#include <stdlib.h>

static bool here(struct pb_dpdk_port *p)
{
	return !atomic_load(&p->gone);
}

/* ---- counters ---- */

int pb_dpdk_port_stats(struct pb_dpdk_port *p, struct pb_dpdk_stats *out)
{
	struct rte_eth_stats st;
	int rc = here(p) ? rte_eth_stats_get(p->id, &st) : -ENODEV;
	if (rc)
		return rc;
	*out = (struct pb_dpdk_stats){st.ipackets, st.opackets, st.ibytes,  st.obytes,
				      st.imissed,  st.ierrors,  st.oerrors, st.rx_nombuf};
	return 0;
}

int pb_dpdk_port_xstats(struct pb_dpdk_port *p, struct pb_dpdk_xstat *out, int n)
{
	int have = here(p) ? rte_eth_xstats_get_names(p->id, NULL, 0) : -ENODEV;
	if (have <= 0)
		return have;
	struct rte_eth_xstat_name *names = calloc((size_t)have, sizeof(*names));
	struct rte_eth_xstat *values = calloc((size_t)have, sizeof(*values));
	int rc = -ENOMEM;
	if (!names || !values)
		goto out;
	rc = rte_eth_xstats_get_names(p->id, names, (unsigned)have);
	int got = rc >= 0 ? rte_eth_xstats_get(p->id, values, (unsigned)have) : rc;
	rc = got < have ? got : have;
	for (int i = 0; i < rc && i < n; i++) {
		uint64_t id = values[i].id < (uint64_t)have ? values[i].id : (uint64_t)i;
		snprintf(out[i].name, sizeof(out[i].name), "%s", names[id].name);
		out[i].value = values[i].value;
	}
out:
	free(names);
	free(values);
	return rc;
}

int pb_dpdk_port_stats_reset(struct pb_dpdk_port *p)
{
	int rc = here(p) ? rte_eth_stats_reset(p->id) : -ENODEV;
	if (!rc)
		(void)rte_eth_xstats_reset(p->id);
	return rc;
}

/* ---- settings ---- */

int pb_dpdk_port_set(struct pb_dpdk_port *p, enum pb_dpdk_setting what, uint32_t value)
{
	if (!here(p))
		return -ENODEV;
	switch (what) {
	case PB_DPDK_PROMISCUOUS:
		return value ? rte_eth_promiscuous_enable(p->id) : rte_eth_promiscuous_disable(p->id);
	case PB_DPDK_ALLMULTICAST:
		return value ? rte_eth_allmulticast_enable(p->id) : rte_eth_allmulticast_disable(p->id);
	case PB_DPDK_LINK:
		return value ? rte_eth_dev_set_link_up(p->id) : rte_eth_dev_set_link_down(p->id);
	case PB_DPDK_MTU: {
		/* Frames and rings were chosen for the MTU at open: less is always possible. */
		if (!value || value > p->cfg.mtu)
			return -EMSGSIZE;
		int rc = rte_eth_dev_set_mtu(p->id, (uint16_t)value);
		for (uint32_t q = 0; q < p->cfg.queues && !rc; q++)
			if (p->queues[q])
				p->queues[q]->dev.mtu = (uint16_t)value;
		return rc;
	}
	}
	return -EINVAL;
}

int pb_dpdk_port_get(struct pb_dpdk_port *p, enum pb_dpdk_setting what)
{
	struct rte_eth_link link = {0};
	uint16_t mtu = 0;
	int rc;
	if (!here(p))
		return -ENODEV;
	switch (what) {
	case PB_DPDK_PROMISCUOUS:
		return rte_eth_promiscuous_get(p->id);
	case PB_DPDK_ALLMULTICAST:
		return rte_eth_allmulticast_get(p->id);
	case PB_DPDK_LINK:
		rc = rte_eth_link_get_nowait(p->id, &link);
		return rc ? rc : link.link_status == RTE_ETH_LINK_UP;
	case PB_DPDK_MTU:
		rc = rte_eth_dev_get_mtu(p->id, &mtu);
		return rc ? rc : mtu;
	}
	return -EINVAL;
}

const char *pb_dpdk_offload_name(bool tx, uint64_t bit)
{
	return tx ? rte_eth_dev_tx_offload_name(bit) : rte_eth_dev_rx_offload_name(bit);
}

/* ---- RSS ---- */

int pb_dpdk_rss_get(struct pb_dpdk_port *p, uint8_t *key, uint32_t *len, uint64_t *types)
{
	struct rte_eth_rss_conf conf = {0};
	uint8_t room[256];
	if (!here(p))
		return -ENODEV;
	conf.rss_key = room;
	conf.rss_key_len = p->info.hash_key_size;
	int rc = rte_eth_dev_rss_hash_conf_get(p->id, &conf);
	if (rc)
		return rc;
	uint32_t n = p->info.hash_key_size < *len ? p->info.hash_key_size : *len;
	memcpy(key, room, n);
	*len = n;
	*types = conf.rss_hf;
	return 0;
}

int pb_dpdk_rss_set(struct pb_dpdk_port *p, const uint8_t *key, uint32_t len, uint64_t types)
{
	uint8_t room[256];
	if (!here(p))
		return -ENODEV;
	if (key && (len != p->info.hash_key_size || len > sizeof(room)))
		return -EINVAL;
	if (types & ~p->info.flow_type_rss_offloads)
		return -EOPNOTSUPP;
	if (key)
		memcpy(room, key, len);
	struct rte_eth_rss_conf conf = {
		.rss_key = key ? room : NULL, .rss_key_len = (uint8_t)(key ? len : 0), .rss_hf = types};
	return rte_eth_dev_rss_hash_update(p->id, &conf);
}

#define GROUPS (PB_DPDK_RETA_MAX / RTE_ETH_RETA_GROUP_SIZE)

static int reta_room(struct pb_dpdk_port *p, uint32_t n)
{
	if (!here(p))
		return -ENODEV;
	if (!p->info.reta_size || p->info.reta_size > PB_DPDK_RETA_MAX)
		return -ENOTSUP;
	return n == p->info.reta_size ? 0 : -EINVAL;
}

int pb_dpdk_reta_get(struct pb_dpdk_port *p, uint16_t *table, uint32_t n)
{
	struct rte_eth_rss_reta_entry64 groups[GROUPS] = {0};
	int rc = reta_room(p, n);
	for (uint32_t i = 0; i < n && !rc; i++)
		groups[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << i % RTE_ETH_RETA_GROUP_SIZE;
	if (!rc)
		rc = rte_eth_dev_rss_reta_query(p->id, groups, (uint16_t)n);
	for (uint32_t i = 0; i < n && !rc; i++)
		table[i] = groups[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return rc;
}

int pb_dpdk_reta_set(struct pb_dpdk_port *p, const uint16_t *table, uint32_t n)
{
	struct rte_eth_rss_reta_entry64 groups[GROUPS] = {0};
	int rc = reta_room(p, n);
	for (uint32_t i = 0; i < n && !rc; i++) {
		struct rte_eth_rss_reta_entry64 *g = &groups[i / RTE_ETH_RETA_GROUP_SIZE];
		g->mask |= UINT64_C(1) << i % RTE_ETH_RETA_GROUP_SIZE;
		g->reta[i % RTE_ETH_RETA_GROUP_SIZE] = table[i];
		if (table[i] >= p->cfg.queues)
			return -EINVAL;
	}
	return rc ? rc : rte_eth_dev_rss_reta_update(p->id, groups, (uint16_t)n);
}
