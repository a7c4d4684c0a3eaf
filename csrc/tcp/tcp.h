/* The TCP engine: IP packets in, IP packets out. No system call, no clock, no thread, no global: time is an argument
 * (ns, never going backwards), randomness is the caller's secret, memory is taken at creation.
 *
 *   pb_tcp_input    packets that came in               pb_tcp_expire         fire the timers that are due
 *   pb_tcp_output   packets that want to go out        pb_tcp_next_deadline  when to call it next
 *   pb_tcp_tx_done  frames that the device gave back   pb_tcp_events         what the application should know
 *
 * Frames: input takes a descriptor whose frame has owner RX. Verdict TAKEN: the engine has it (owner ENGINE). DONE and
 * EXC: it is still the caller's. STRAY likewise: its flow is another engine's (pb_tcp_share()), which should get it.
 * output hands out frames with owner ENGINE; the caller moves them to the device (TX) and gives every one of them back
 * by tx_done when the device is done with it. With cfg.tx_chains a segment that is sent again while the device holds
 * it comes as two descriptors: a header in a frame of its own (PB_DESC_MORE), and the payload where it lies, with
 * PB_DESC_AGAIN: that frame is TX already, and is given back once more. A caller that drops such a packet drops both.
 *
 * Errors are -errno: -EBADF stale handle, -ENOTCONN, -EPIPE sending side closed, -EAGAIN no room or no data now,
 * -ENOBUFS table or pool full, -EADDRINUSE, -EINVAL. RFC 9293 unless another is named. */
#ifndef PB_TCP_TCP_H
#define PB_TCP_TCP_H
#include "base/drops.h"
#include "base/types.h"
#include "mem/desc.h"
#include "mem/pool.h"
#include "tcp/config.h"
#include "tcp/info.h"

struct pb_tcp;

/* A connection or a listener: generation << 32 | index. 0 is never valid. */
typedef uint64_t pb_tcp_handle;

/* Payload that is to be sent starts at this offset of its frame or later: room for the headers before it. */
#define PB_TCP_HEADROOM 128

enum pb_tcp_state {
	PB_TCP_CLOSED,
	PB_TCP_LISTEN,
	PB_TCP_SYN_SENT,
	PB_TCP_SYN_RCVD,
	PB_TCP_ESTABLISHED,
	PB_TCP_FIN_WAIT_1,
	PB_TCP_FIN_WAIT_2,
	PB_TCP_CLOSE_WAIT,
	PB_TCP_CLOSING,
	PB_TCP_LAST_ACK,
	PB_TCP_TIME_WAIT,
	PB_TCP_STATE_COUNT
};

enum pb_verdict { PB_VERDICT_DONE = 0, PB_VERDICT_TAKEN = 1, PB_VERDICT_EXC = 2, PB_VERDICT_STRAY = 3 };

struct pb_tcp_verdict {
	uint8_t what;   /* enum pb_verdict */
	uint8_t reason; /* enum pb_drop; NONE when the packet did what it was sent for; STRAY: the engine's number */
};

enum pb_tcp_event_bit {
	PB_TCP_EV_CONNECTED = 1u << 0, /* handshake complete (both directions of opening) */
	PB_TCP_EV_ACCEPT = 1u << 1,    /* listener: a connection waits for accept */
	PB_TCP_EV_READABLE = 1u << 2,
	PB_TCP_EV_WRITABLE = 1u << 3, /* acknowledged data left the send buffer */
	PB_TCP_EV_FIN = 1u << 4,      /* the peer will send no more */
	PB_TCP_EV_CLOSED = 1u << 5,   /* no more segments will be exchanged; error says why (0: in order) */
	PB_TCP_EV_GONE = 1u << 6,     /* the handle is void now; the local port may be let go */
	PB_TCP_EV_DOUBT = 1u << 7,    /* R1: the next hop may be gone; whoever knows it should look (RFC 9293 3.8.3) */
};

struct pb_tcp_event {
	pb_tcp_handle conn;
	uint32_t mask;
	int32_t error;   /* positive errno with CLOSED */
	uint32_t acked;  /* payload bytes that left the send buffer since the last event */
	uint32_t cookie; /* the application's, see pb_tcp_set_cookie */
};

struct pb_tcp_stats {
	uint64_t n[PB_TCP_COUNTER_COUNT];
	uint64_t resets_in;
	uint64_t conns;                      /* now, listeners and TIME_WAIT included */
	uint64_t states[PB_TCP_STATE_COUNT]; /* now, by state */
	struct pb_drops drops;
};

/* The cache is the caller's and must outlive the engine. NULL and -errno in *err: -EINVAL, -ENOMEM. */
PB_API struct pb_tcp *pb_tcp_create(const struct pb_tcp_config *cfg, struct pb_pool_cache *cache, int *err);
/* Frees every frame that the engine owns. Frames still with the device must have come back by tx_done before. */
PB_API void pb_tcp_destroy(struct pb_tcp *e);

struct pb_tcp_owners;
/* Engine `who` of those that share the table, which outlives it; before it has a flow. From then on a segment that
 * belongs to no flow here, but to one of another engine, is given back with PB_VERDICT_STRAY; with PB_DESC_STRAY it has
 * been handed on already and is treated as it would be without the table. 0, -EINVAL, -EBUSY: it has flows. */
PB_API int pb_tcp_share(struct pb_tcp *e, struct pb_tcp_owners *owners, uint32_t who);
/* The engine that a flow belongs to, -1: to none, or to this one. */
PB_API int pb_tcp_owner(const struct pb_tcp *e, const struct pb_tcp_endpoint *local,
			const struct pb_tcp_endpoint *remote);

/* Packets start at the IP header (addr + off). n <= PB_BURST_MAX. */
PB_API void pb_tcp_input(struct pb_tcp *e, const struct pb_desc *d, int n, uint64_t now_ns, struct pb_tcp_verdict *v);
/* Fills up to room descriptors (checksums done; DESC_MORE only with cfg.tx_chains, two to a packet, which wait until
 * there is room for both); returns how many. */
PB_API int pb_tcp_output(struct pb_tcp *e, struct pb_desc *d, int room, uint64_t now_ns);
PB_API bool pb_tcp_has_output(const struct pb_tcp *e);
/* Frames whose transmission is complete (owner TX), each once for each descriptor that named it; also those that are
 * not the engine's: they become FREE. */
PB_API void pb_tcp_tx_done(struct pb_tcp *e, const uint64_t *addrs, int n);
/* Descriptors from output (or frames of owner ENGINE that are not the engine's) that no device took and none will. The
 * second reference to a frame may be dropped while the first still waits for a device, and the other way round: then
 * the second is the only one, PB_DESC_AGAIN or not. */
PB_API void pb_tcp_tx_drop(struct pb_tcp *e, const struct pb_desc *d, uint32_t n);
PB_API void pb_tcp_expire(struct pb_tcp *e, uint64_t now_ns);
/* UINT64_MAX: nothing is due. May be early, never late. */
PB_API uint64_t pb_tcp_next_deadline(const struct pb_tcp *e);
PB_API int pb_tcp_events(struct pb_tcp *e, struct pb_tcp_event *ev, int n);

/* With backlog | PB_TCP_ASK every SYN that would be answered is given back first (PB_VERDICT_EXC): the caller has it
 * judged and hands it in again with PB_DESC_ADMITTED, or with PB_DESC_REFUSED, which answers with RST. */
#define PB_TCP_ASK (1u << 31)
PB_API int pb_tcp_listen(struct pb_tcp *e, const struct pb_tcp_endpoint *local, uint32_t backlog, pb_tcp_handle *h);
/* -EAGAIN when none waits. */
PB_API int pb_tcp_accept(struct pb_tcp *e, pb_tcp_handle listener, pb_tcp_handle *h);
PB_API int pb_tcp_connect(struct pb_tcp *e, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote,
			  uint64_t now_ns, pb_tcp_handle *h);
/* A call for this connection comes soon: with many of them, fetching it takes longer than the call. */
PB_API void pb_tcp_prefetch(const struct pb_tcp *e, pb_tcp_handle h);
/* The peer, also of a connection that the application has closed. -EBADF. */
PB_API int pb_tcp_remote(const struct pb_tcp *e, pb_tcp_handle h, struct pb_tcp_endpoint *remote);
/* An application's number that comes back in every event of this handle. */
PB_API int pb_tcp_set_cookie(struct pb_tcp *e, pb_tcp_handle h, uint32_t cookie);
/* Copies; returns bytes taken (0 < n <= len) or -errno. flags: enum pb_tcp_send_flag. */
PB_API int64_t pb_tcp_send(struct pb_tcp *e, pb_tcp_handle h, const void *buf, size_t len, unsigned flags);
/* Without a copy: frames of owner APP with payload at off >= PB_TCP_HEADROOM; sums[i] is pb_csum_partial() of each
 * payload; PB_DESC_MORE: no PSH, more follows at once; PB_DESC_EOR as PB_TCP_EOR. Returns how many were taken (0..n;
 * the rest stay the caller's) or -errno. The send buffer is not checked. */
PB_API int pb_tcp_send_frames(struct pb_tcp *e, pb_tcp_handle h, const struct pb_desc *d, const uint32_t *sums, int n);
/* Copies up to len bytes out; 0 at the end of the stream; -EAGAIN. */
PB_API int64_t pb_tcp_recv(struct pb_tcp *e, pb_tcp_handle h, void *buf, size_t len, uint64_t now_ns);
/* Hands up to n in-order pieces up without a copy (owner ENGINE -> APP). They count against the window until
 * pb_tcp_consumed(); the caller frees them. 0: none now. When the application has three quarters of the receive buffer,
 * a frame that small segments can still share is kept back, until the end of the stream; READABLE is told when it need
 * not be any more. */
PB_API int pb_tcp_recv_frames(struct pb_tcp *e, pb_tcp_handle h, struct pb_desc *d, int n);
PB_API int pb_tcp_consumed(struct pb_tcp *e, pb_tcp_handle h, uint32_t frames);
/* How many of them an application may keep for long: half of what the receive buffer holds. */
PB_API uint32_t pb_tcp_keep_frames(struct pb_tcp *e, pb_tcp_handle h);
/* The values of SHUT_RD, SHUT_WR and SHUT_RDWR. */
enum pb_tcp_shut { PB_TCP_SHUT_RD = 0, PB_TCP_SHUT_WR = 1, PB_TCP_SHUT_RDWR = 2 };
PB_API int pb_tcp_shutdown(struct pb_tcp *e, pb_tcp_handle h, int how, uint64_t now_ns);
/* The handle is given up; with unread data the peer gets a RST (RFC 2525 2.17), else the FIN goes after the data. A
 * listener's waiting connections are reset. */
PB_API int pb_tcp_close(struct pb_tcp *e, pb_tcp_handle h, uint64_t now_ns);
/* RST; also of a connection whose handle was closed, until it is gone. */
PB_API int pb_tcp_abort(struct pb_tcp *e, pb_tcp_handle h, uint64_t now_ns);
PB_API int pb_tcp_get_info(struct pb_tcp *e, pb_tcp_handle h, struct pb_tcp_info *info);
/* enum pb_tcp_option. -EINVAL: value out of range, or not in this state; -ENOPROTOOPT: no such option. */
PB_API int pb_tcp_set_option(struct pb_tcp *e, pb_tcp_handle h, unsigned option, int64_t value, uint64_t now_ns);
PB_API int pb_tcp_get_option(struct pb_tcp *e, pb_tcp_handle h, unsigned option, int64_t *value);
/* Another algorithm, from now on: it starts from the window there is. -EINVAL: not of this ABI. */
PB_API int pb_tcp_set_cc(struct pb_tcp *e, pb_tcp_handle h, const struct pb_cc_ops *cc);
/* Takes up to n records of the trace, oldest first; *lost: how many were overwritten before they were read, since the
 * last call. 0 without trace_records. */
PB_API int pb_tcp_trace_read(struct pb_tcp *e, struct pb_tcp_trace *t, int n, uint64_t *lost);
PB_API const struct pb_tcp_stats *pb_tcp_get_stats(struct pb_tcp *e);
PB_API const char *pb_tcp_state_name(unsigned state);

/* An ICMP error that quotes a segment of ours: local and remote as we see them, seq as quoted. err: positive errno to
 * report (only a connection being opened gives up, RFC 5461); mtu > 0: packet too big (RFC 1191, RFC 8201), for every
 * connection to that address (of a large engine to some of them with the next outputs). The quoted seq must be in
 * flight (RFC 5927), else -EINVAL; -ENOENT: no such connection. */
PB_API int pb_tcp_icmp(struct pb_tcp *e, const struct pb_tcp_endpoint *local, const struct pb_tcp_endpoint *remote,
		       uint32_t seq, int err, uint32_t mtu, uint64_t now_ns);

/* Walks everything and checks what must hold at any quiet moment. 0, or the line of the first check that failed. */
PB_API int pb_tcp_check(struct pb_tcp *e);
#endif
