/* What passes between the loop that owns an engine and the application: four rings, each with one producer and one
 * consumer.
 *
 *   cmd  application -> loop   what to do         ev   loop -> application   what happened, data in frames
 *   inj  application -> loop   whole L2 frames    exc  loop -> application   packets for the slow path, with a reason
 *
 * A frame that travels has owner APP. `cookie` is the application's number for a socket. */
#ifndef PB_PATH_CHAN_H
#define PB_PATH_CHAN_H
#include "mem/ring.h"
#include "tcp/tcp.h"

enum pb_cmd_op {
	PB_CMD_CONNECT,
	PB_CMD_LISTEN,
	PB_CMD_ACCEPT,
	PB_CMD_SEND,
	PB_CMD_CONSUMED,
	PB_CMD_SHUTDOWN,
	PB_CMD_CLOSE,
	PB_CMD_ABORT,
	PB_CMD_INFO,
	PB_CMD_STATS,
	PB_CMD_OPTION,
	PB_CMD_GET_OPTION,
	PB_CMD_CC,
	PB_CMD_TRACE,
	PB_CMD_NEIGH,
	PB_CMD_TAP,
	PB_CMD_ROUTES,
};

struct pb_frame_ref {
	uint64_t addr; /* frame base */
	uint16_t off, len;
	uint32_t sum; /* to send: pb_csum_partial() of the payload */
};
#define PB_REFS_MAX 3

struct pb_cmd {
	uint8_t op, n;
	uint16_t u16; /* SEND: enum pb_tcp_send_flag */
	uint32_t cookie;
	pb_tcp_handle h;
	union {
		struct pb_frame_ref refs[PB_REFS_MAX];
		struct {
			struct pb_ip laddr, raddr;
			uint16_t lport, rport;
			uint32_t backlog;
		} open;
		struct {
			struct pb_ip addr;
			uint8_t mac[6];
			bool valid;
		} neigh;
		struct {
			int64_t value;
			void *ptr; /* GET_OPTION: an int64_t; CC: a pb_cc_ops */
			uint32_t which;
		} option;
		uint32_t u32;
		void *ptr; /* where the answer goes; the application waits for the reply before it lets go */
	};
};
_Static_assert(sizeof(struct pb_cmd) == 64, "one cache line");

/* What PB_CMD_TRACE takes and gives. */
struct pb_trace_want {
	struct pb_tcp_trace *records;
	int room, n;
	uint64_t lost;
};

enum pb_ev_op {
	PB_EV_STATE, /* mask, error, acked */
	PB_EV_DATA,
	PB_EV_OPENED, /* answer to CONNECT, LISTEN, ACCEPT: rc, handle */
	PB_EV_REPLY,  /* answer to the other calls that want one: rc */
};

struct pb_ev {
	uint8_t op, n;
	uint16_t u16; /* DATA: frames that may be kept for long */
	uint32_t cookie;
	pb_tcp_handle h;
	union {
		struct pb_frame_ref refs[PB_REFS_MAX];
		struct {
			uint32_t mask;
			int32_t error;
			uint32_t acked;
			uint32_t mss;
		} state;
		struct {
			int32_t rc;
			uint32_t mss;
			struct pb_ip laddr, raddr;
			uint16_t lport, rport;
		} opened;
		int32_t rc;
	};
};
_Static_assert(sizeof(struct pb_ev) == 64, "one cache line");

struct pb_exc {
	struct pb_desc d; /* starts at the Ethernet header */
	uint32_t reason;  /* enum pb_exc_reason */
	uint32_t pad;
	struct pb_ip addr; /* NEIGH, DOUBT: the next hop (d.len is 0) */
	uint64_t pad2;
};
_Static_assert(sizeof(struct pb_exc) == 64, "one cache line");

enum pb_exc_reason {
	PB_EXC_ARP = 1,
	PB_EXC_ICMP,
	PB_EXC_UDP,
	PB_EXC_IP_OTHER,
	PB_EXC_L2_OTHER,
	PB_EXC_NEIGH,    /* no packet: a next hop's MAC address is wanted */
	PB_EXC_ACCEPT,   /* a SYN for the accept policy: pb_app_judged() */
	PB_EXC_DOUBT,    /* no packet: TCP hears nothing from behind this next hop: is it there still? */
	PB_EXC_NOT_OURS, /* IP for another address, where somebody else wants it: pb_app_hand_over() */
};

/* Where threads of the application sleep: a futex that costs the loop nothing while nobody does. */
struct pb_waitq {
	_Atomic uint32_t seq, sleepers;
};

struct pb_chan {
	struct pb_ring cmd, ev, inj, exc;
	/* The loop says that it sleeps, reads its rings once more, and then polls loop_fd. */
	_Atomic uint32_t loop_sleeps PB_ALIGNED(PB_CACHE_LINE);
	struct pb_waitq app PB_ALIGNED(PB_CACHE_LINE); /* for ev */
	struct pb_waitq slow;                          /* for exc */
	int loop_fd;
};

/* Ring sizes are powers of two. 0, -EINVAL, -ENOMEM, -EMFILE. */
PB_API int pb_chan_init(struct pb_chan *ch, uint32_t slots);
PB_API void pb_chan_fini(struct pb_chan *ch);
PB_API void pb_chan_wake_loop(struct pb_chan *ch);
/* Whether it says that it sleeps or not: its next sleep ends at once. */
PB_API void pb_chan_wake_loop_always(struct pb_chan *ch);

/* A sleeper enters, looks at what it waits for, and then waits with the number that entering gave; a wake between the
 * two ends the wait at once. */
PB_API uint32_t pb_waitq_enter(struct pb_waitq *q);
PB_API void pb_waitq_wait(struct pb_waitq *q, uint32_t seq, uint64_t max_ns);
PB_API void pb_waitq_leave(struct pb_waitq *q);
PB_API void pb_waitq_wake(struct pb_waitq *q);
PB_API void pb_waitq_wake_always(struct pb_waitq *q);
#endif
