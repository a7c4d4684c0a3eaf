/* What must be known of an interface before an AF_XDP socket is bound to it, asked by ioctl: /sys shows the namespace
 * of the mount, not that of the thread. */
#ifndef PB_DEV_XSK_IF_H
#define PB_DEV_XSK_IF_H
#include "base/types.h"

struct pb_xsk_if {
	char name[16];
	uint32_t ifindex;
	uint32_t mtu;
	uint32_t rx_queues; /* 0: the driver does not say */
	uint32_t tx_queues;
	uint32_t zc_unit_bytes; /* zero-copy receive buffers are rounded down to a multiple of this */
	uint8_t mac[6];
	bool up;      /* administratively */
	bool running; /* and with a carrier */
};

/* A descriptor to ask with, of the calling thread's network namespace, or -errno. */
int pb_xsk_if_open(void);
/* By ifindex, or by name when that is 0. 0, -ENODEV, ... */
int pb_xsk_if_read(int ctl_fd, const char *name, uint32_t ifindex, struct pb_xsk_if *out);
/* Whether it is up and has a carrier; false also when it is gone. */
bool pb_xsk_if_running(int ctl_fd, uint32_t ifindex);
#endif
