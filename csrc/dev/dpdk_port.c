#include "dev/dpdk_flow.h"
#include "dev/dpdk_impl.h"

#include <errno.h>
#include <linux/membarrier.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Ports that this process has open, by DPDK's number. */
static pthread_mutex_t ports_lock = PTHREAD_MUTEX_INITIALIZER;
static struct pb_dpdk_port *ports[RTE_MAX_ETHPORTS];

/* ---- the data path and the control path ---- */

/* Every thread of this process has passed a full barrier when this returns: the one that pb_dpdk_enter() leaves out.
 * membarrier(2); where a sandbox forbids it, time enough for any store buffer to drain. */
static void barrier_everywhere(void)
{
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0) &&
	    syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		usleep(10000);
}

/* Nobody is in the data path of the port when this returns, and nobody enters it before resume(). */
static void pause_queues(struct pb_dpdk_port *p)
{
	atomic_store(&p->running, false);
	barrier_everywhere();
	for (uint32_t q = 0; q < p->cfg.queues; q++) {
		struct pb_dpdk_queue *x = p->queues[q];
		while (x && atomic_load_explicit(&x->inside, memory_order_acquire))
			sched_yield();
	}
}

/* ---- probing ---- */

/* The name of the device: what the arguments begin with. */
static void device_name(const char *devargs, char *out, size_t n)
{
	size_t len = strcspn(devargs, ",");
	snprintf(out, n, "%.*s", (int)(len < n ? len : n - 1), devargs);
}

static int probe(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	char name[64];
	device_name(p->cfg.devargs, name, sizeof(name));
	snprintf(rep->device, sizeof(rep->device), "%s", name);
	uint16_t id;
	/* One that was there when the EAL started. */
	if (rte_eth_dev_get_port_by_name(name, &id)) {
		int rc = rte_dev_probe(p->cfg.devargs);
		if (rc)
			return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_PROBE, rc < 0 ? rc : -ENODEV, "%s",
						p->cfg.devargs);
		p->probed = true;
		if (rte_eth_dev_get_port_by_name(name, &id)) {
			(void)rte_eal_hotplug_remove("vdev", name);
			return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_PROBE, -ENODEV, "%s is no Ethernet device",
						name);
		}
	}
	pthread_mutex_lock(&ports_lock);
	bool busy = ports[id];
	if (!busy)
		ports[id] = p;
	pthread_mutex_unlock(&ports_lock);
	if (busy)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_PROBE, -EBUSY, "%s is open", name);
	p->id = id;
	int rc = rte_eth_dev_info_get(id, &p->info);
	if (rc)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_PROBE, rc, "%s does not describe itself", name);
	p->device = p->info.device;
	rc = pb_dpdk_dev_begin(p);
	if (rc)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_PROBE, rc, "%s", name);
	rc = pb_dpdk_dma_map(p);
	if (rc)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_DMA, rc, "the frames, for %s", name);
	return 0;
}

static void unprobe(struct pb_dpdk_port *p)
{
	pthread_mutex_lock(&ports_lock);
	bool mine = ports[p->id] == p;
	if (mine)
		ports[p->id] = NULL;
	pthread_mutex_unlock(&ports_lock);
	if (!mine)
		return;
	bool removed = atomic_load(&p->removed);
	struct pb_dpdk_socks before = {.n = 0};
	if (p->socks.n)
		pb_dpdk_socks_look(&before);
	if (!removed) {
		pb_dpdk_dma_unmap(p);
		(void)pb_dpdk_dev_close(p);
	}
	if (p->stuck) { /* nobody may open it again */
		pthread_mutex_lock(&ports_lock);
		ports[p->id] = p;
		pthread_mutex_unlock(&ports_lock);
		return;
	}
	pb_dpdk_socks_close(&p->socks, &before);
	/* One that was pulled away goes in any case: the kernel waits until its files are closed. */
	if (p->device && !removed && (p->probed || atomic_load(&p->gone)))
		(void)rte_dev_remove(p->device);
}

/* net_ring's rings outlive its device, and the next one of that name finds what lies in them: frames of a pool that may
 * be gone by then. Nobody is in the data path. */
static void empty_rings(struct pb_dpdk_port *p)
{
	struct rte_mbuf *m[PB_BURST_MAX];
	uint16_t n;
	if (!p->started_once || !p->info.driver_name || strcmp(p->info.driver_name, "net_ring"))
		return;
	if (!atomic_load(&p->running) && rte_eth_dev_start(p->id))
		return;
	for (uint16_t q = 0; q < p->cfg.queues; q++)
		while ((n = rte_eth_rx_burst(p->id, q, m, PB_BURST_MAX)))
			for (uint16_t i = 0; i < n; i++)
				rte_pktmbuf_free(m[i]);
}

/* ---- setting up ---- */

static int set_up_queues(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	struct rte_eth_rxconf rx = p->info.default_rxconf;
	struct rte_eth_txconf tx = p->info.default_txconf;
	rx.offloads = p->rx_offloads;
	tx.offloads = p->tx_offloads;
	int socket = rte_eth_dev_socket_id(p->id);
	unsigned node = socket >= 0 ? (unsigned)socket : (unsigned)SOCKET_ID_ANY;
	for (uint16_t q = 0; q < p->cfg.queues; q++) {
		int rc = rte_eth_tx_queue_setup(p->id, q, (uint16_t)p->tx_desc, node, &tx);
		if (!rc)
			rc = rte_eth_rx_queue_setup(p->id, q, (uint16_t)p->rx_desc, node, &rx, p->dp->mp);
		if (rc)
			return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_SETUP, rc, "queue %u of %s", q, rep->device);
	}
	return 0;
}

static int configure(struct pb_dpdk_port *p, const struct rte_eth_conf *conf, struct pb_dpdk_report *rep)
{
	struct rte_eth_conf c = *conf;
	c.intr_conf.rmv = (*p->info.dev_flags & RTE_ETH_DEV_INTR_RMV) != 0;
	/* With the interrupt of a change DPDK shows the state of the last one. uio_pci_generic has only the line
	 * interrupt, which some bridges lead nowhere: there the driver looks whenever it is asked. */
	c.intr_conf.lsc = (*p->info.dev_flags & RTE_ETH_DEV_INTR_LSC) &&
			  !pb_dpdk_bound_to(rte_dev_name(p->device), "uio_pci_generic");
	int rc = rte_eth_dev_configure(p->id, p->cfg.queues, p->cfg.queues, &c);
	if (rc)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_CONFIGURE, rc, "%s", rep->device);
	uint16_t mtu = 0;
	/* Software drivers take no MTU by configuration, and some none at all. */
	if (!rte_eth_dev_get_mtu(p->id, &mtu) && mtu != p->cfg.mtu) {
		rc = rte_eth_dev_set_mtu(p->id, p->cfg.mtu);
		if (rc && rc != -ENOTSUP)
			return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MTU, rc, "MTU %u of %s", p->cfg.mtu,
						rep->device);
	}
	rc = pb_dpdk_time_fields(p);
	if (rc)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_CONFIGURE, rc, "no room in mbufs for times of %s",
					rep->device);
	return set_up_queues(p, rep);
}

static int start(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	int rc = rte_eth_dev_start(p->id);
	if (rc)
		return pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_START, rc, "%s", rep->device);
	p->started_once = true;
	if (p->cfg.promiscuous)
		(void)rte_eth_promiscuous_enable(p->id);
	if (p->cfg.allmulticast)
		(void)rte_eth_allmulticast_enable(p->id);
	if (p->cfg.timesync)
		pb_dpdk_stamp_begin(p);
	atomic_store(&p->running, true);
	return 0;
}

static struct pb_dpdk_port *port_new(const struct pb_dpdk_config *cfg, struct pb_pool *pool, struct pb_dpdk_report *rep)
{
	int err = 0;
	struct pb_dpdk_port *p = calloc(1, sizeof(*p));
	if (!p) {
		pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MEMORY, -ENOMEM, "port");
		return NULL;
	}
	atomic_init(&p->refs, 1);
	p->id = RTE_MAX_ETHPORTS;
	p->cfg = *cfg;
	p->dp = pb_dpdk_pool_get(pool, &err);
	if (!p->dp) {
		pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_MEMORY, err, "%s",
				 err == -EINVAL ? "the memory is not laid out for mbufs" : "mempool");
		free(p);
		return NULL;
	}
	return p;
}

struct pb_dpdk_port *pb_dpdk_port_open(const struct pb_dpdk_config *cfg, struct pb_pool *pool,
				       struct pb_dpdk_report *rep, int *err)
{
	struct rte_eth_conf conf;
	memset(rep, 0, sizeof(*rep));
	(void)syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0);
	struct pb_dpdk_port *p = port_new(cfg, pool, rep);
	if (!p) {
		*err = rep->fail.err;
		return NULL;
	}
	*err = probe(p, rep);
	if (*err)
		goto fail;
	*err = pb_dpdk_limits(p, pool, &conf, rep);
	struct pb_dpdk_socks before;
	pb_dpdk_socks_look(&before);
	if (!*err)
		*err = configure(p, &conf, rep);
	if (!strcmp(p->info.driver_name, "net_af_xdp"))
		pb_dpdk_socks_keep_new(&p->socks, &before);
	if (!*err)
		*err = pb_dpdk_watch(p, rep);
	if (!*err)
		*err = start(p, rep);
	if (*err)
		goto fail;
	pb_dpdk_report_fill(p, rep);
	return p;
fail:
	(void)pb_dpdk_port_unref(p);
	return NULL;
}

/* ---- the end ---- */

static int port_free(struct pb_dpdk_port *p)
{
	pb_dpdk_flows_free(p);
	p->stuck = false;
	if (p->id < RTE_MAX_ETHPORTS && !atomic_load(&p->removed)) {
		pb_dpdk_unwatch(p);
		if (!atomic_load(&p->gone))
			empty_rings(p);
		if (p->started_once)
			(void)pb_dpdk_dev_stop(p);
	}
	if (p->id < RTE_MAX_ETHPORTS && !p->stuck)
		unprobe(p);
	if (p->stuck)
		return -ETIMEDOUT; /* the driver still has all of it: nothing is freed, frames neither */
	pb_dpdk_unwatch_last(p);
	pb_dpdk_pool_put(p->dp);
	free(p);
	return 0;
}

void pb_dpdk_port_ref(struct pb_dpdk_port *port)
{
	atomic_fetch_add(&port->refs, 1);
}

int pb_dpdk_port_unref(struct pb_dpdk_port *port)
{
	return port && atomic_fetch_sub(&port->refs, 1) == 1 ? port_free(port) : 0;
}

uint16_t pb_dpdk_port_id(const struct pb_dpdk_port *port)
{
	return port->id;
}

/* ---- control ---- */

int pb_dpdk_port_stop(struct pb_dpdk_port *p)
{
	if (atomic_load(&p->gone))
		return -ENODEV;
	if (!atomic_load(&p->running))
		return 0;
	pause_queues(p);
	pb_dpdk_stamp_end(p, NULL);
	pb_dpdk_flows_stop(p);
	int rc = pb_dpdk_dev_stop(p);
	if (rc) {
		pb_dpdk_flows_start(p);
		atomic_store(&p->running, true);
	}
	return rc;
}

int pb_dpdk_port_start(struct pb_dpdk_port *p)
{
	struct pb_dpdk_report rep = {0};
	if (atomic_load(&p->gone))
		return -ENODEV;
	if (atomic_load(&p->running))
		return 0;
	int rc = start(p, &rep);
	if (!rc)
		pb_dpdk_flows_start(p);
	return rc;
}

int pb_dpdk_port_remove(struct pb_dpdk_port *p)
{
	if (atomic_load(&p->gone))
		return -ENODEV;
	pause_queues(p);
	pb_dpdk_unwatch(p);
	pb_dpdk_flows_lost(p);
	atomic_store(&p->gone, true);
	empty_rings(p);
	(void)pb_dpdk_dev_stop(p);
	if (p->stuck)
		return -ETIMEDOUT;
	pb_dpdk_dma_unmap(p);
	int rc = pb_dpdk_dev_close(p);
	if (p->stuck)
		return -ETIMEDOUT;
	if (p->device)
		rc = rte_dev_remove(p->device);
	atomic_store(&p->removed, true);
	return rc;
}

void pb_dpdk_port_report(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	memset(rep, 0, sizeof(*rep));
	if (!atomic_load(&p->gone))
		pb_dpdk_report_fill(p, rep);
}

void pb_dpdk_port_pool(struct pb_dpdk_port *p, struct pb_dpdk_pool_info *info)
{
	uint32_t cached, in_use = pb_dpdk_pool_in_use(p->dp, &cached);
	*info = (struct pb_dpdk_pool_info){
		.frames = p->dp->pool->nframes,
		.in_use = in_use,
		.cached = cached,
		.recovered = p->dp->recovered,
		.socket = p->dp->mp->socket_id,
		.iova_va = rte_eal_iova_mode() == RTE_IOVA_VA,
	};
}
