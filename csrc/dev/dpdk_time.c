#include "dev/dpdk_impl.h"

#include <errno.h>
#include <rte_errno.h>

/* The NIC's time: when packets came in and are to go out, in fields of their mbufs; its clock; and when they went. */

static uint64_t ns_of(const struct timespec *t)
{
	return (uint64_t)t->tv_sec * 1000000000u + (uint64_t)t->tv_nsec;
}

/* ---- fields of mbufs ---- */

/* 0, or -errno of a field that could not be had. */
static int registered(int rc)
{
	return rc >= 0 ? 0 : rte_errno ? -rte_errno : -ENOSPC;
}

int pb_dpdk_time_fields(struct pb_dpdk_port *p)
{
	int rc = 0;
	p->ts_field = -1;
	p->launch_field = -1;
	/* Times are in the device's own unit (rte_mbuf_dyn.h); net_pcap's are microseconds. */
	p->ts_scale = strcmp(p->info.driver_name, "net_pcap") ? 1 : 1000;
	/* Some drivers (net_pcap) give times without being asked to. */
	int flag = rte_mbuf_dynflag_lookup(RTE_MBUF_DYNFLAG_RX_TIMESTAMP_NAME, NULL);
	int field = rte_mbuf_dynfield_lookup(RTE_MBUF_DYNFIELD_TIMESTAMP_NAME, NULL);
	if (p->rx_offloads & RTE_ETH_RX_OFFLOAD_TIMESTAMP) {
		rc = registered(rte_mbuf_dyn_rx_timestamp_register(&p->ts_field, &p->ts_flag));
	} else if (flag >= 0 && field >= 0) {
		p->ts_field = field;
		p->ts_flag = UINT64_C(1) << flag;
	}
	if (!rc && (p->tx_offloads & RTE_ETH_TX_OFFLOAD_SEND_ON_TIMESTAMP))
		rc = registered(rte_mbuf_dyn_tx_timestamp_register(&p->launch_field, &p->launch_flag));
	return rc;
}

/* ---- the NIC's clock ---- */

int pb_dpdk_clock_read(struct pb_dpdk_port *p, uint64_t *ns, int *cycles)
{
	struct timespec t;
	if (atomic_load(&p->gone))
		return -ENODEV;
	*cycles = 0;
	if (p->timesync && !rte_eth_timesync_read_time(p->id, &t)) {
		*ns = ns_of(&t);
		return 0;
	}
	*cycles = 1;
	return rte_eth_read_clock(p->id, ns);
}

int pb_dpdk_timesync_rx(struct pb_dpdk_port *p, uint64_t *ns)
{
	struct timespec t;
	if (atomic_load(&p->gone))
		return -ENODEV;
	int rc = p->timesync ? rte_eth_timesync_read_rx_timestamp(p->id, &t, 0) : -ENOTSUP;
	if (!rc)
		*ns = ns_of(&t);
	return rc;
}

/* ---- times of packets that were sent ---- */

/* By timesync (DPDK Programmer's Guide, "IEEE 1588"; rte_eth_timesync_read_tx_timestamp()).
 *
 * A NIC holds one such time for the whole port, and does not say whose: so one packet of the port is asked for at a
 * time, whatever queue it is sent on, and the next when its time was read. What is asked for meanwhile is counted and
 * sent without. All of it, the queues' stamps too, is under the port's lock: it is taken only by those who ask.
 *
 * One that never comes (the packet was lost with the link, its queue was closed) is given up when its queue has sent so
 * many more packets that it has left the ring for sure, or when any queue finds that so long has passed. What the
 * register holds with nobody waiting is of such a one: it is thrown away before the next is asked for. What cannot be
 * told apart is a time that comes after that, while the next is waited for: it is given to that one, whose own is then
 * the one thrown away or given to the one behind. For that a packet must leave the NIC later than the times below allow
 * for, and another must have been asked for since; an asker that waits that long after a stamp was lost never meets
 * it. */

/* Rings of packets behind it. */
#define PATIENCE_RINGS 4
#define PATIENCE_NS UINT64_C(100000000)
/* And as much longer as its launch time is ahead, up to this: NICs take those of less than a second (igb, igc). */
#define LAUNCH_NS_MAX UINT64_C(1000000000)

static void lock(struct pb_dpdk_port *p)
{
	while (atomic_exchange_explicit(&p->stamp_lock, 1, memory_order_acquire))
		pb_cpu_relax();
}

static void unlock(struct pb_dpdk_port *p)
{
	atomic_store_explicit(&p->stamp_lock, 0, memory_order_release);
}

/* The time of the packet that is waited for, where the NIC has it: to the queue that sent it. */
static void look(struct pb_dpdk_port *p)
{
	struct pb_dpdk_queue *x = p->stamp_owner;
	struct timespec t;
	if (!x || rte_eth_timesync_read_tx_timestamp(p->id, &t))
		return;
	p->stamp_owner = NULL;
	if (x->stamp_n == PB_DPDK_STAMPS) {
		x->stamp_head = (x->stamp_head + 1) % PB_DPDK_STAMPS;
		x->stamp_n--;
		x->dev.stats.tx_stamps_lost++;
	}
	x->stamps[(x->stamp_head + x->stamp_n++) % PB_DPDK_STAMPS] = (struct pb_tx_stamp){
		.seq = x->stamp_seq,
		.addr = x->stamp_addr,
		.ns = ns_of(&t),
		.source = PB_TS_HW,
	};
}

static void give_up(struct pb_dpdk_port *p)
{
	if (!p->stamp_owner)
		return;
	p->stamp_owner->dev.stats.tx_stamps_lost++;
	p->stamp_owner = NULL;
}

/* One that was given up may lie in the register, or one of before the port was started. */
static void discard(const struct pb_dpdk_port *p)
{
	struct timespec t;
	(void)rte_eth_timesync_read_tx_timestamp(p->id, &t);
}

/* By the thread of queue x, which counts what it sends and knows the time. */
static void look_again(struct pb_dpdk_queue *x)
{
	struct pb_dpdk_port *p = x->port;
	look(p);
	if (!p->stamp_owner)
		return;
	bool late = x->now_ns > p->stamp_asked_ns && x->now_ns - p->stamp_asked_ns > p->stamp_patience_ns;
	/* A packet of the burst that is being made may be ahead of tx_seq. */
	if (late || (p->stamp_owner == x && x->tx_seq > x->stamp_seq &&
		     x->tx_seq - x->stamp_seq > (uint64_t)PATIENCE_RINGS * p->tx_desc))
		give_up(p);
}

static uint64_t patience(const struct pb_dpdk_queue *x, const struct pb_desc *d)
{
	struct timespec t;
	if (!(d->flags & x->dev.tx_flags & PB_DESC_LAUNCH) || rte_eth_timesync_read_time(x->port->id, &t))
		return PATIENCE_NS;
	uint64_t now = ns_of(&t), ahead = d->ts_ns > now ? d->ts_ns - now : 0;
	return PATIENCE_NS + (ahead < LAUNCH_NS_MAX ? ahead : LAUNCH_NS_MAX);
}

void pb_dpdk_stamp_ask(struct pb_dpdk_queue *x, struct rte_mbuf *m, const struct pb_desc *d)
{
	struct pb_dpdk_port *p = x->port;
	lock(p);
	look_again(x);
	if (p->stamp_owner || !p->timesync) {
		x->dev.stats.tx_stamps_lost++;
	} else {
		discard(p);
		m->ol_flags |= RTE_MBUF_F_TX_IEEE1588_TMST;
		p->stamp_owner = x;
		p->stamp_asked_ns = x->now_ns;
		p->stamp_patience_ns = patience(x, d);
		x->stamp_seq = x->tx_seq + x->tx_built;
		x->stamp_addr = pb_pool_frame(x->dev.pool, d->addr);
	}
	unlock(p);
}

void pb_dpdk_stamp_unask(struct pb_dpdk_queue *x)
{
	lock(x->port);
	if (x->port->stamp_owner == x)
		x->port->stamp_owner = NULL;
	unlock(x->port);
}

int pb_dpdk_stamps(struct pb_dev *dev, struct pb_tx_stamp *out, int n)
{
	struct pb_dpdk_queue *x = pb_dpdk_of(dev);
	int k = 0;
	bool inside = pb_dpdk_enter(x); /* of a port that is stopped the driver is not asked */
	lock(x->port);
	if (inside)
		look_again(x);
	for (; k < n && x->stamp_n; k++, x->stamp_n--) {
		out[k] = x->stamps[x->stamp_head];
		x->stamp_head = (x->stamp_head + 1) % PB_DPDK_STAMPS;
	}
	unlock(x->port);
	if (inside)
		pb_dpdk_leave(x);
	return k;
}

void pb_dpdk_stamp_end(struct pb_dpdk_port *p, struct pb_dpdk_queue *x)
{
	bool inside = x && pb_dpdk_enter(x);
	lock(p);
	if (x ? inside && p->stamp_owner == x : !atomic_load(&p->gone))
		look(p);
	if (!x || p->stamp_owner == x)
		give_up(p);
	unlock(p);
	if (inside)
		pb_dpdk_leave(x);
}

void pb_dpdk_stamp_begin(struct pb_dpdk_port *p)
{
	p->timesync = !rte_eth_timesync_enable(p->id);
	if (p->timesync)
		discard(p);
}
