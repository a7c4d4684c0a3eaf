#include "dev/dpdk_impl.h"

#include <errno.h>
#include <rte_dev.h>
#include <sched.h>

/* A device that is pulled away under its port. With vfio-pci the kernel asks for it and waits. With uio nobody asks:
 * the registers are gone, a uevent is sent to whoever listens, and a driver that is closed without knowing waits for
 * ever for what they will never say (seen with igb). DPDK can listen to uevents, and puts ordinary memory where the
 * registers were then, or at the SIGBUS of who touches them before ("Hotplug failure handling" in its guide); both are
 * on while there is a port by uio. Its handler of SIGBUS hands on what is not of a device to the one of before. */

/* From DPDK's interrupt thread. */
static int on_event(uint16_t id, enum rte_eth_event_type type, void *arg, void *ret)
{
	struct pb_dpdk_port *p = arg;
	(void)id;
	(void)ret;
	if (type == RTE_ETH_EVENT_INTR_RMV) {
		atomic_store(&p->gone, true);
		atomic_store(&p->running, false);
	}
	return 0;
}

/* The kernel asks for the device back: it is being unplugged, or unbound; or, with uio, it is gone. From DPDK's
 * interrupt thread, where it cannot be closed: its queues answer -ENODEV from now on, and closing the port lets it go.
 */
static void on_pulled(const char *name, enum rte_dev_event_type type, void *arg)
{
	(void)name;
	if (type == RTE_DEV_EVENT_REMOVE)
		on_event(0, RTE_ETH_EVENT_INTR_RMV, arg, NULL);
}

static bool by_uio(const struct pb_dpdk_port *p)
{
	const char *name = rte_dev_name(p->device);
	return pb_dpdk_bound_to(name, "uio") || pb_dpdk_bound_to(name, "igb_uio");
}

/* DPDK counts who wants them. */
static int listen_to_uevents(struct pb_dpdk_port *p)
{
	int rc = rte_dev_hotplug_handle_enable();
	if (rc)
		return rc < 0 ? rc : -EIO;
	rc = rte_dev_event_monitor_start();
	if (rc) {
		(void)rte_dev_hotplug_handle_disable();
		return rc < 0 ? rc : -EIO;
	}
	p->uevents = true;
	return 0;
}

int pb_dpdk_watch(struct pb_dpdk_port *p, struct pb_dpdk_report *rep)
{
	int rc = rte_eth_dev_callback_register(p->id, RTE_ETH_EVENT_INTR_RMV, on_event, p);
	if (!rc)
		rc = rte_dev_event_callback_register(rte_dev_name(p->device), on_pulled, p);
	p->watched = true;
	if (!rc && by_uio(p))
		rc = listen_to_uevents(p);
	return rc ? pb_dpdk_fail_set(&rep->fail, PB_DPDK_STAGE_START, rc, "%s: events", rep->device) : 0;
}

void pb_dpdk_unwatch(struct pb_dpdk_port *p)
{
	if (!p->watched)
		return;
	p->watched = false;
	/* -EAGAIN: it is running. What stayed registered would be called with a port that is freed. */
	while (rte_eth_dev_callback_unregister(p->id, RTE_ETH_EVENT_INTR_RMV, on_event, p) == -EAGAIN)
		sched_yield();
	while (rte_dev_event_callback_unregister(rte_dev_name(p->device), on_pulled, p) == -EAGAIN)
		sched_yield();
}

void pb_dpdk_unwatch_last(struct pb_dpdk_port *p)
{
	if (!p->uevents)
		return;
	p->uevents = false;
	(void)rte_dev_event_monitor_stop();
	(void)rte_dev_hotplug_handle_disable();
}
