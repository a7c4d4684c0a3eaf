#define _GNU_SOURCE
#include "dev/xsk_if.h"

#include <errno.h>
#include <linux/ethtool.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

_Static_assert(IFNAMSIZ == 16, "interface names as in xsk.h");

int pb_xsk_if_open(void)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static int ask(int fd, unsigned long what, struct ifreq *r)
{
	return ioctl(fd, what, r) ? -errno : 0;
}

/* ETHTOOL_GCHANNELS: a combined channel is a receive and a transmit queue. */
static void read_queues(int fd, struct ifreq *r, struct pb_xsk_if *out)
{
	struct ethtool_channels c = {.cmd = ETHTOOL_GCHANNELS};
	r->ifr_data = (char *)&c;
	if (ask(fd, SIOCETHTOOL, r))
		return;
	out->rx_queues = c.combined_count + c.rx_count;
	out->tx_queues = c.combined_count + c.tx_count;
}

/* The Intel 1 Gbit/s family and ixgbe write the size of a receive buffer as a number of KiB (SRRCTL.BSIZEPKT), rounded
 * down, and their zero-copy path has no multi-buffer: a longer packet arrives as two that nothing joins. Seen on igb
 * with 2048-byte frames: 1024 and 490 bytes. */
static uint32_t zc_unit(int fd, struct ifreq *r)
{
	static const char drivers[][8] = {"igb", "igc", "ixgbe"};
	struct ethtool_drvinfo d = {.cmd = ETHTOOL_GDRVINFO};
	r->ifr_data = (char *)&d;
	if (!ask(fd, SIOCETHTOOL, r))
		for (size_t i = 0; i < PB_ARRAY_LEN(drivers); i++)
			if (!strncmp(d.driver, drivers[i], sizeof(d.driver)))
				return 1024;
	return 1;
}

/* ETHTOOL_GLINK is the carrier itself; IFF_RUNNING follows it by up to a second. */
static bool has_carrier(int fd, struct ifreq *r, bool running)
{
	struct ethtool_value link = {.cmd = ETHTOOL_GLINK};
	r->ifr_data = (char *)&link;
	return ask(fd, SIOCETHTOOL, r) ? running : link.data != 0;
}

int pb_xsk_if_read(int ctl_fd, const char *name, uint32_t ifindex, struct pb_xsk_if *out)
{
	struct ifreq r = {0};
	int err;
	*out = (struct pb_xsk_if){0};
	if (ifindex) {
		r.ifr_ifindex = (int)ifindex;
		err = ask(ctl_fd, SIOCGIFNAME, &r);
		if (err)
			return err == -ENXIO ? -ENODEV : err;
	} else {
		snprintf(r.ifr_name, sizeof(r.ifr_name), "%s", name);
		err = ask(ctl_fd, SIOCGIFINDEX, &r);
		if (err)
			return err == -ENXIO ? -ENODEV : err;
		ifindex = (uint32_t)r.ifr_ifindex;
	}
	out->ifindex = ifindex;
	memcpy(out->name, r.ifr_name, sizeof(out->name));
	err = ask(ctl_fd, SIOCGIFFLAGS, &r);
	if (err)
		return err;
	out->up = r.ifr_flags & IFF_UP;
	out->running = out->up && has_carrier(ctl_fd, &r, r.ifr_flags & IFF_RUNNING);
	err = ask(ctl_fd, SIOCGIFMTU, &r);
	if (err)
		return err;
	out->mtu = (uint32_t)r.ifr_mtu;
	err = ask(ctl_fd, SIOCGIFHWADDR, &r);
	if (err)
		return err;
	memcpy(out->mac, r.ifr_hwaddr.sa_data, sizeof(out->mac));
	read_queues(ctl_fd, &r, out);
	out->zc_unit_bytes = zc_unit(ctl_fd, &r);
	return 0;
}

bool pb_xsk_if_running(int ctl_fd, uint32_t ifindex)
{
	struct ifreq r = {.ifr_ifindex = (int)ifindex};
	if (ask(ctl_fd, SIOCGIFNAME, &r) || ask(ctl_fd, SIOCGIFFLAGS, &r))
		return false;
	return (r.ifr_flags & IFF_UP) && has_carrier(ctl_fd, &r, r.ifr_flags & IFF_RUNNING);
}
