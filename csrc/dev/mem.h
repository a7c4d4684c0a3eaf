/* Two devices in one process, joined back to back: what one sends, the other receives as a copy in a frame of its own.
 * It can hold back completions and give them in another order, as NICs do, so that code which reuses a frame too early
 * is found out.
 *
 * The two ends may be driven by different threads, and either may close while the other runs. */
#ifndef PB_DEV_MEM_H
#define PB_DEV_MEM_H
#include "dev/dev.h"

/* 0 stands for the default everywhere. */
struct pb_dev_mem_config {
	uint32_t ring_size; /* frames sent and not yet reaped, at most; a power of two, 8 to 65,536; default 1024 */
	uint32_t mtu;       /* 68 to 65,517; default 1500 */
	uint64_t completion_delay_ns; /* between the copy and the completion */
	bool completion_reorder;      /* gives those that are ready in random order */
	uint64_t seed;
};

#define PB_DEV_MEM_NAME_MAX 31

/* Opens an end of the pair `name` (1 to 31 bytes): the first opener has end 0, the second end 1; an end that was closed
 * can be opened anew. cfg may be NULL. The device makes the cache dev->cache on pool, and destroys it at close. NULL
 * and in *err -EINVAL, -ENOMEM, -ENOSPC (caches), or -EBUSY when both ends are open.
 *
 * rx: frames have off 256; packets come whole, so n must have room for the longest chain. A chain that fits one frame
 * of the receiver comes in one, as NICs fill theirs; else it comes in as many as it was sent from. A packet of which a
 * part fits no frame of the receiver is dropped (TOO_LONG); without free frames packets wait on the wire
 * (rx_fill_empty). tx: completed and not sent are packets over mtu + 18 bytes (TOO_LONG), descriptors that leave their
 * frame (TX_BAD; an address outside the pool cannot be completed), and all packets while the other end is not open
 * (NO_PEER). A chain longer than ring_size is never taken. */
PB_API struct pb_dev *pb_dev_mem_open(const char *name, struct pb_pool *pool, const struct pb_dev_mem_config *cfg,
				      int *err);
/* Which end it is: 0 or 1. */
PB_API int pb_dev_mem_end(const struct pb_dev *dev);
#endif
