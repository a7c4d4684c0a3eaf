/* Any device behind an impaired link in each direction (link/link.h): same pool, same cache, same interface.
 *
 * tx: a packet that is lost is completed as if it had been sent. Duplicates and corrupted packets are sent as copies in
 * frames of the pool, since the sender may send the same frame again; the original of a corrupted one is completed.
 * Without a free frame for it a duplicate is left out and a corrupted packet is lost (both NO_FRAME). rx: frames that
 * are delayed stay in owner RX; a corrupted packet loses PB_DESC_CSUM_GOOD; a stamp of PB_TS_USER is that of delivery,
 * others are kept. Stats are those of the inner device, which counts what lies before the rx link and behind the tx
 * link, with the drops of both links. */
#ifndef PB_DEV_FAULT_H
#define PB_DEV_FAULT_H
#include "dev/dev.h"
#include "link/link.h"

/* rx, tx: NULL leaves that direction alone. The device owns `inner` from now on and closes it. NULL and -EINVAL or
 * -ENOMEM in *err; then inner is still the caller's. */
PB_API struct pb_dev *pb_dev_fault_open(struct pb_dev *inner, const struct pb_link_config *rx,
					const struct pb_link_config *tx, int *err);
#endif
