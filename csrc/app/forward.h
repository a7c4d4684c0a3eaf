/* The loops that packet frameworks are compared by: forward as it is, forward with MAC addresses changed places,
 * receive and drop, send. What testpmd calls io, macswap, rxonly and txonly. */
#ifndef PB_APP_FORWARD_H
#define PB_APP_FORWARD_H
#include "dev/dev.h"

#include <stdatomic.h>

enum pb_forward_how {
	PB_FORWARD_IO = 0,  /* frames from `in` to `out` as they are, without descriptors where the devices can */
	PB_FORWARD_MACSWAP, /* with source and destination MAC address changed places */
	PB_FORWARD_RX,      /* received and dropped; `out` may be NULL */
	PB_FORWARD_DESC,    /* as IO, always by descriptors, as an application that looks at them has it */
	PB_FORWARD_TX,      /* `frame` sent again and again, written anew each time; `in` may be NULL */
};

struct pb_forward {
	struct pb_dev *in, *out; /* on the same pool */
	enum pb_forward_how how;
	uint32_t burst; /* 1 to PB_BURST_MAX */
	const uint8_t *frame;
	uint32_t frame_len;
	uint64_t duration_ns;   /* 0: until *stop */
	_Atomic uint32_t *stop; /* not NULL: ends it, from any thread */
	/* results */
	uint64_t received, sent, dropped; /* dropped: not taken by `out`, or dropped on purpose */
	uint64_t rx_calls, rx_empty, tx_full, no_frame;
	uint64_t ns, busy_cycles; /* of the time stamp counter, in turns that moved something */
};

/* Runs to the end in the calling thread. 0; -EINVAL: out of range, or devices on different pools; -errno of a device.
 */
PB_API int pb_forward_run(struct pb_forward *f);
#endif
