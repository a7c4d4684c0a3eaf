/* Between the files that decide what goes out and those that write it. Private to csrc/tcp. */
#ifndef PB_TCP_OUT_H
#define PB_TCP_OUT_H
#include "tcp/tcb.h"

struct out {
	struct pb_desc *d;
	int n, room;
	bool stuck; /* no frame, or no room for both parts of a chain: try again at the next call */
	uint64_t now_ns;
};

struct ip_about {
	uint8_t ttl, tos;
	uint16_t id;
	bool df;
};

struct segment {
	uint32_t frame, seq, sum;
	uint16_t off, len; /* payload */
	uint8_t flags, ecn;
	const struct pb_tcp_opts *opts; /* NULL: the connection's timestamps, or none; they are added to others too */
};

void emit(struct pb_tcp *e, struct tcb *c, struct out *o, const struct segment *g);
/* What emit() wrote was sent before: it counts as that, and not among those that go out (RFC 4022, Linux). */
void emitted_again(struct pb_tcp *e);
/* A segment without payload. False: no frame. */
bool emit_control(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq, uint8_t flags,
		  const struct pb_tcp_opts *opts);
void send_syn(struct pb_tcp *e, struct tcb *c, struct out *o);
/* One of an established connection, with SACK blocks when there are any. */
bool send_bare(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq, uint8_t flags);
static inline bool send_ack(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t seq)
{
	return send_bare(e, c, o, seq, PB_TCP_ACK);
}
/* Sends the segment in `frame`: from its own frame if the device does not hold it, else with a header in another one.
 * False: no frame, or no room for two descriptors. */
bool send_seg(struct pb_tcp *e, struct tcb *c, struct out *o, uint32_t frame);
void send_replies(struct pb_tcp *e, struct out *o);
#endif
