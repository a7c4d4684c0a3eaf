/* A connected UDP socket of the kernel's as a device: the baseline that the same loops are run over. Sends with
 * sendmmsg() and receives with recvmmsg(), as many in a call as the burst has, and never blocks.
 *
 * Frames look as on other devices: a header of hdr_bytes, which the kernel makes itself and which is skipped when a
 * frame is sent and zero when one is received, then the payload. */
#ifndef PB_DEV_KSOCK_H
#define PB_DEV_KSOCK_H
#include "dev/dev.h"

struct pb_dev_ksock_config {
	int fd;             /* connected, SOCK_DGRAM; the device closes it, unless it could not be opened */
	uint32_t hdr_bytes; /* Ethernet, IP and UDP: 14 to 128 */
	uint16_t mtu;
};

/* NULL and -errno in *err: -EINVAL, -ENOMEM, -ENOSPC (caches), -ENOBUFS (no frame to receive into). */
PB_API struct pb_dev *pb_dev_ksock_open(const struct pb_dev_ksock_config *cfg, struct pb_pool *pool, int *err);
#endif
