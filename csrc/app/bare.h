/* One TCP exchange over a bare device, by the numbers and without an engine: the floor below which no engine on that
 * device can come. It sends segments of one size and takes what comes back as the answer; nothing is retransmitted, no
 * option is used, and one lost packet ends it. Only for measuring. */
#ifndef PB_APP_BARE_H
#define PB_APP_BARE_H
#include "dev/dev.h"

struct pb_bare {
	struct pb_dev *dev;
	uint8_t dst_mac[6];
	struct pb_ip src, dst; /* IPv4 */
	uint16_t sport, dport;
	uint32_t seq, ack; /* what is sent next, what is expected next */
};

/* Opens the connection. 0, -ETIMEDOUT (2 s), -ECONNREFUSED, or -errno of the device. */
PB_API int pb_bare_connect(struct pb_bare *b);
/* n round trips of `bytes` (1 to 1400): ns each into samples. n, or -ETIMEDOUT, -ECONNRESET, -errno. */
PB_API int pb_bare_pingpong(struct pb_bare *b, uint32_t n, uint32_t bytes, uint32_t *samples_ns);
/* Resets it. */
PB_API void pb_bare_close(struct pb_bare *b);
#endif
