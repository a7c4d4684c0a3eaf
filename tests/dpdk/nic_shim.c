/* A NIC with a clock, in front of DPDK's virtual drivers, none of which has one: loaded with LD_PRELOAD it stands
 * before the functions of librte_ethdev and librte_eal that the device calls (tests/dpdk/granted_cases.py drives it by
 * ctypes).
 *
 * It grants offloads, which the driver behind it is never told; packets are looked at as a driver sees them, by
 * ethdev's own callbacks. Its clock is CLOCK_MONOTONIC and a constant. Like Intel's it has one register for the time of
 * a packet that was sent, which keeps the first until it is read, and one for PTP packets that came in. One port at a
 * time is granted anything: that opened after nic_grant(). Threads: cases send from one at a time.
 *
 * What DPDK's interrupt thread would say of any port a case says itself, and may be held up in it. */
#include <dlfcn.h>
#include <errno.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf_dyn.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <time.h>

#define CLOCK_BASE UINT64_C(1700000000000000000)
#define LOG_MAX 65536
#define QUEUES 8
#define PTP 0x88F7

/* One packet, as a driver was given it (way 0) or gave it (1). */
struct seen {
	uint64_t flags;   /* ol_flags */
	uint64_t field;   /* "rte_dynfield_timestamp", where it is registered */
	uint64_t latched; /* the time that its register took, or 0 */
	uint64_t given;   /* the time of receiving that was put into the field, or 0 */
	uint32_t queue, len;
	uint16_t segs, way;
	uint32_t number; /* bytes 14 to 17 of the packet */
};

static struct {
	uint64_t rx, tx;   /* offloads granted to the next port */
	int timesync;      /* it has; -1: enabling fails */
	int not_ready;     /* reads of the register that answer -EINVAL after a packet; -1: no packet is ever stamped */
	int no_fields;     /* registering fields of mbufs fails */
	int refuse_stamps; /* as Intel's drivers do that were built without RTE_LIBRTE_IEEE1588 */
} asked;

static int port_id = -1;
static uint64_t rx_granted, tx_granted, rx_taken, tx_taken;
static const struct rte_eth_rxtx_callback *rx_callback[QUEUES], *tx_callback[QUEUES];
static uint64_t tx_register, rx_register;
static int tx_wait;
static struct seen seen[LOG_MAX];
static uint32_t nseen;
static uint32_t calls, enabled, tx_reads, overruns;

/* Who is told that a device was pulled away, by its driver and by the bus: one function each, whatever the port. */
static rte_eth_dev_cb_fn told_by_driver;
static rte_dev_event_cb_fn told_by_bus;
static atomic_bool held;
static atomic_uint inside, told, again;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name)
{
	calls++;
	return dlsym(RTLD_NEXT, name);
}

/* ---- what the cases call ---- */

void nic_grant(uint64_t rx, uint64_t tx, int timesync);
void nic_stamps(int not_ready, int refuse);
void nic_comes(void);
void nic_no_fields(int on);
uint32_t nic_take(struct seen *out, uint32_t n);
uint64_t nic_clock(void);
void nic_counters(uint32_t *out);
void nic_hold(int on);
int nic_pull(const char *device, int by_driver);
void nic_pulls(uint32_t *out);

void nic_grant(uint64_t rx, uint64_t tx, int timesync)
{
	asked.rx = rx;
	asked.tx = tx;
	asked.timesync = timesync;
	port_id = -1;
	rx_granted = tx_granted = rx_taken = tx_taken = 0;
	tx_register = rx_register = 0;
	nseen = 0;
	enabled = tx_reads = overruns = 0;
}

void nic_stamps(int not_ready, int refuse)
{
	asked.not_ready = not_ready;
	asked.refuse_stamps = refuse;
}

/* What is in the register is ready now, and what goes into it is at once. */
void nic_comes(void)
{
	tx_wait = asked.not_ready = 0;
}

void nic_no_fields(int on)
{
	asked.no_fields = on;
}

uint64_t nic_clock(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return CLOCK_BASE + (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint32_t nic_take(struct seen *out, uint32_t n)
{
	n = n < nseen ? n : nseen;
	memcpy(out, seen, n * sizeof(*out));
	memmove(seen, seen + n, (nseen - n) * sizeof(*seen));
	nseen -= n;
	return n;
}

/* Calls that came through here; timesync enabled; the register read; times that it could not take; offloads of
 * receiving and of sending that the port was configured with. */
void nic_counters(uint32_t *out)
{
	out[0] = calls;
	out[1] = enabled;
	out[2] = tx_reads;
	out[3] = overruns;
	out[4] = (rx_taken & RTE_ETH_RX_OFFLOAD_TIMESTAMP) != 0;
	out[5] = (tx_taken & RTE_ETH_TX_OFFLOAD_SEND_ON_TIMESTAMP) != 0;
}

/* Those who are told wait before they are, until it is off. */
void nic_hold(int on)
{
	atomic_store(&held, on != 0);
}

/* Says that it was pulled away, in this thread. 0, or -1: there is no such port. */
int nic_pull(const char *device, int by_driver)
{
	if (!by_driver) {
		rte_dev_event_callback_process(device, RTE_DEV_EVENT_REMOVE);
		return 0;
	}
	/* Drivers' functions, which no header of an application has. */
	struct rte_eth_dev *(*find)(const char *) = (__typeof__(find))dlsym(RTLD_DEFAULT, "rte_eth_dev_get_by_name");
	int (*say)(struct rte_eth_dev *, enum rte_eth_event_type, void *) =
		(__typeof__(say))dlsym(RTLD_DEFAULT, "rte_eth_dev_callback_process");
	struct rte_eth_dev *dev = find && say ? find(device) : NULL;
	if (!dev)
		return -1;
	(void)say(dev, RTE_ETH_EVENT_INTR_RMV, NULL);
	return 0;
}

/* Who are being told now; who were; how often they could not be taken out for that. */
void nic_pulls(uint32_t *out)
{
	out[0] = atomic_load(&inside);
	out[1] = atomic_load(&told);
	out[2] = atomic_load(&again);
}

/* ---- packets ---- */

static struct seen *note(const struct rte_mbuf *m, uint16_t queue, uint16_t way)
{
	static struct seen none;
	struct seen *s = nseen < LOG_MAX ? &seen[nseen++] : &none;
	int field = rte_mbuf_dynfield_lookup(RTE_MBUF_DYNFIELD_TIMESTAMP_NAME, NULL);
	*s = (struct seen){.flags = m->ol_flags, .queue = queue, .len = m->pkt_len, .segs = m->nb_segs, .way = way};
	if (field >= 0)
		s->field = *RTE_MBUF_DYNFIELD(m, (size_t)field, uint64_t *);
	if (m->data_len >= 18)
		memcpy(&s->number, rte_pktmbuf_mtod_offset(m, const uint8_t *, 14), 4);
	return s;
}

static uint16_t on_tx(uint16_t port, uint16_t queue, struct rte_mbuf *m[], uint16_t n, void *arg)
{
	(void)port;
	(void)arg;
	for (uint16_t i = 0; i < n; i++) {
		struct seen *s = note(m[i], queue, 0);
		if (!(m[i]->ol_flags & RTE_MBUF_F_TX_IEEE1588_TMST) || asked.not_ready < 0)
			continue;
		if (tx_register) {
			overruns++;
			continue;
		}
		s->latched = tx_register = nic_clock();
		tx_wait = asked.not_ready;
	}
	return n;
}

static uint16_t on_rx(uint16_t port, uint16_t queue, struct rte_mbuf *m[], uint16_t n, uint16_t room, void *arg)
{
	(void)port;
	(void)room;
	(void)arg;
	for (uint16_t i = 0; i < n; i++) {
		struct seen *s = note(m[i], queue, 1);
		const uint8_t *p = rte_pktmbuf_mtod(m[i], const uint8_t *);
		if ((p[12] << 8 | p[13]) == PTP)
			rx_register = nic_clock();
		if (!(rx_granted & rx_taken & RTE_ETH_RX_OFFLOAD_TIMESTAMP))
			continue;
		int field = rte_mbuf_dynfield_lookup(RTE_MBUF_DYNFIELD_TIMESTAMP_NAME, NULL);
		int flag = rte_mbuf_dynflag_lookup(RTE_MBUF_DYNFLAG_RX_TIMESTAMP_NAME, NULL);
		if (field < 0 || flag < 0)
			continue;
		s->given = nic_clock();
		*RTE_MBUF_DYNFIELD(m[i], (size_t)field, uint64_t *) = s->given;
		m[i]->ol_flags |= UINT64_C(1) << flag;
	}
	return n;
}

static uint16_t prepare(void *queue, struct rte_mbuf **m, uint16_t n)
{
	(void)queue;
	for (uint16_t i = 0; i < n; i++)
		if (m[i]->ol_flags & RTE_MBUF_F_TX_IEEE1588_TMST) {
			rte_errno = ENOTSUP;
			return i;
		}
	return n;
}

/* ---- in front of librte_ethdev and librte_mbuf ---- */

int rte_eth_dev_info_get(uint16_t port, struct rte_eth_dev_info *info)
{
	int rc = REAL(rte_eth_dev_info_get)(port, info);
	if (port_id < 0 && (asked.rx || asked.tx || asked.timesync)) {
		port_id = port;
		rx_granted = asked.rx;
		tx_granted = asked.tx;
	}
	if (!rc && port == port_id) {
		info->rx_offload_capa |= rx_granted;
		info->tx_offload_capa |= tx_granted;
	}
	return rc;
}

int rte_eth_dev_configure(uint16_t port, uint16_t rx, uint16_t tx, const struct rte_eth_conf *conf)
{
	struct rte_eth_conf c = *conf;
	if (port == port_id) {
		rx_taken = c.rxmode.offloads;
		tx_taken = c.txmode.offloads;
		c.rxmode.offloads &= ~rx_granted;
		c.txmode.offloads &= ~tx_granted;
	}
	return REAL(rte_eth_dev_configure)(port, rx, tx, &c);
}

int rte_eth_rx_queue_setup(uint16_t port, uint16_t queue, uint16_t n, unsigned socket,
			   const struct rte_eth_rxconf *conf, struct rte_mempool *mp)
{
	struct rte_eth_rxconf c = *conf;
	if (port == port_id)
		c.offloads &= ~rx_granted;
	return REAL(rte_eth_rx_queue_setup)(port, queue, n, socket, &c, mp);
}

int rte_eth_tx_queue_setup(uint16_t port, uint16_t queue, uint16_t n, unsigned socket,
			   const struct rte_eth_txconf *conf)
{
	struct rte_eth_txconf c = *conf;
	if (port == port_id)
		c.offloads &= ~tx_granted;
	return REAL(rte_eth_tx_queue_setup)(port, queue, n, socket, &c);
}

int rte_eth_dev_start(uint16_t port)
{
	struct rte_eth_dev_info info;
	int rc = REAL(rte_eth_dev_start)(port);
	if (rc || port != port_id || rte_eth_dev_info_get(port, &info))
		return rc;
	for (uint16_t q = 0; q < info.nb_tx_queues && q < QUEUES; q++)
		if (!tx_callback[q]) {
			tx_callback[q] = rte_eth_add_tx_callback(port, q, on_tx, NULL);
			rx_callback[q] = rte_eth_add_first_rx_callback(port, q, on_rx, NULL);
		}
	if (asked.refuse_stamps)
		rte_eth_fp_ops[port].tx_pkt_prepare = prepare;
	return rc;
}

int rte_eth_dev_close(uint16_t port)
{
	for (uint16_t q = 0; port == port_id && q < QUEUES; q++)
		if (tx_callback[q]) {
			(void)rte_eth_remove_tx_callback(port, q, tx_callback[q]);
			(void)rte_eth_remove_rx_callback(port, q, rx_callback[q]);
			tx_callback[q] = rx_callback[q] = NULL;
		}
	return REAL(rte_eth_dev_close)(port);
}

int rte_eth_timesync_enable(uint16_t port)
{
	if (port != port_id || !asked.timesync)
		return REAL(rte_eth_timesync_enable)(port);
	enabled++;
	return asked.timesync < 0 ? -EIO : 0;
}

static int split(uint64_t ns, struct timespec *t)
{
	t->tv_sec = (time_t)(ns / 1000000000u);
	t->tv_nsec = (long)(ns % 1000000000u);
	return 0;
}

int rte_eth_timesync_read_tx_timestamp(uint16_t port, struct timespec *t)
{
	if (port != port_id || !asked.timesync)
		return REAL(rte_eth_timesync_read_tx_timestamp)(port, t);
	tx_reads++;
	if (!tx_register || tx_wait-- > 0)
		return -EINVAL;
	uint64_t ns = tx_register;
	tx_register = 0;
	return split(ns, t);
}

int rte_eth_timesync_read_rx_timestamp(uint16_t port, struct timespec *t, uint32_t flags)
{
	if (port != port_id || !asked.timesync)
		return REAL(rte_eth_timesync_read_rx_timestamp)(port, t, flags);
	if (!rx_register)
		return -EINVAL;
	uint64_t ns = rx_register;
	rx_register = 0;
	return split(ns, t);
}

int rte_eth_timesync_read_time(uint16_t port, struct timespec *t)
{
	return port == port_id && asked.timesync ? split(nic_clock(), t) : REAL(rte_eth_timesync_read_time)(port, t);
}

int rte_eth_read_clock(uint16_t port, uint64_t *clock)
{
	if (port != port_id || !tx_granted)
		return REAL(rte_eth_read_clock)(port, clock);
	*clock = nic_clock();
	return 0;
}

int rte_mbuf_dyn_rx_timestamp_register(int *field, uint64_t *flag)
{
	if (!asked.no_fields)
		return REAL(rte_mbuf_dyn_rx_timestamp_register)(field, flag);
	rte_errno = ENOSPC;
	return -1;
}

int rte_mbuf_dyn_tx_timestamp_register(int *field, uint64_t *flag)
{
	if (!asked.no_fields)
		return REAL(rte_mbuf_dyn_tx_timestamp_register)(field, flag);
	rte_errno = ENOSPC;
	return -1;
}

/* ---- in front of who is told of a device that is pulled away ---- */

static void wait_while_held(void)
{
	atomic_fetch_add(&inside, 1);
	while (atomic_load(&held))
		sched_yield();
}

static int by_driver(uint16_t port, enum rte_eth_event_type type, void *arg, void *ret)
{
	wait_while_held();
	int rc = told_by_driver(port, type, arg, ret);
	atomic_fetch_add(&told, 1);
	atomic_fetch_sub(&inside, 1);
	return rc;
}

static void by_bus(const char *device, enum rte_dev_event_type type, void *arg)
{
	wait_while_held();
	told_by_bus(device, type, arg);
	atomic_fetch_add(&told, 1);
	atomic_fetch_sub(&inside, 1);
}

static int counted(int rc)
{
	if (rc == -EAGAIN)
		atomic_fetch_add(&again, 1);
	return rc;
}

int rte_eth_dev_callback_register(uint16_t port, enum rte_eth_event_type event, rte_eth_dev_cb_fn f, void *arg)
{
	if (event == RTE_ETH_EVENT_INTR_RMV) {
		told_by_driver = f;
		f = by_driver;
	}
	return REAL(rte_eth_dev_callback_register)(port, event, f, arg);
}

int rte_eth_dev_callback_unregister(uint16_t port, enum rte_eth_event_type event, rte_eth_dev_cb_fn f, void *arg)
{
	if (f == told_by_driver)
		f = by_driver;
	return counted(REAL(rte_eth_dev_callback_unregister)(port, event, f, arg));
}

int rte_dev_event_callback_register(const char *device, rte_dev_event_cb_fn f, void *arg)
{
	told_by_bus = f;
	return REAL(rte_dev_event_callback_register)(device, by_bus, arg);
}

int rte_dev_event_callback_unregister(const char *device, rte_dev_event_cb_fn f, void *arg)
{
	return counted(REAL(rte_dev_event_callback_unregister)(device, f == told_by_bus ? by_bus : f, arg));
}
