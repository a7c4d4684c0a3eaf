/* One core's share of the work: a device queue, the network layer, the engines, and the rings to the application.
 * pb_path_step() is one pass: receive a burst, classify, engines, commands, timers, transmit a burst, tell the
 * application. No thread, no clock, no system call of its own but those of the device. */
#ifndef PB_PATH_PATH_H
#define PB_PATH_PATH_H
#include "dev/dev.h"
#include "net/net.h"
#include "path/chan.h"
#include "path/tap.h"
#include "tcp/tcp.h"

#define PB_PATH_BACKLOG 256
#define PB_PATH_PARKED 64
#define PB_PATH_DOWN_NS 10000000ull /* between two looks at an interface that was set down */

struct pb_path_stats {
	uint64_t steps, idle_steps, rx_pkts, tx_pkts, exceptions, injected, parked;
	uint64_t tap_dropped;
	/* Packets of flows that another engine of the group has: handed to it; and those that came here so. */
	uint64_t stray_out, stray_in;
	struct pb_drops drops;
};

struct pb_group;

/* Descriptors of the longest packet that an engine sends: a header and its payload. */
#define PB_PATH_CHAIN 2

struct pb_parked {
	struct pb_desc d[PB_PATH_CHAIN]; /* an IP packet that waits for a MAC address */
	uint32_t n;
	uint64_t until_ns;
};

struct pb_path {
	struct pb_dev *dev;
	struct pb_tcp *tcp;
	struct pb_chan *chan;
	_Atomic bool hand_over; /* what is for other addresses goes up instead of being dropped */
	struct pb_tap *tap;
	struct pb_group *group; /* of several cores; NULL: alone */
	uint32_t member;
	struct pb_net net;
	uint64_t now_ns;   /* of the last step: several threads may drive it in turn, and time must not run backwards */
	uint32_t nbacklog; /* descriptors of L2 frames that the device has not taken yet: whole packets */
	uint32_t nheads;   /* of them such as another one follows, in packets of several */
	uint32_t nparked;
	uint32_t net_seen;      /* net.changes when all that is parked was last looked at */
	uint64_t down_until_ns; /* 0, or when a device that was set down is tried again */
	bool have_event;        /* an event is half told: the ring was full */
	struct pb_tcp_event event;
	struct pb_desc backlog[PB_PATH_BACKLOG];
	struct pb_parked parked[PB_PATH_PARKED];
	struct pb_path_stats stats;
};

/* What pb_path_stats is for the application: everything that was counted, of all layers. */
struct pb_path_report {
	struct pb_path_stats path;
	struct pb_tcp_stats tcp;
	struct pb_dev_stats dev;
};

/* Takes the device over: pb_path_destroy() closes it. On failure the device is still the caller's. chan may be NULL (a
 * simulation that calls the engine itself). tcp.mtu 0: the device's. NULL and -errno in *err. */
PB_API struct pb_path *pb_path_create(struct pb_dev *dev, const struct pb_tcp_config *tcp, struct pb_chan *chan,
				      int *err);
PB_API void pb_path_destroy(struct pb_path *p);
/* Returns how much was done (packets, commands, events): 0 when idle. -errno: the device is gone. One that says
 * -ENETDOWN is only down: what is sent meanwhile is dropped (PB_DROP_LINK_DOWN), and it is tried again. */
PB_API int pb_path_step(struct pb_path *p, uint64_t now_ns);
/* Only the way out: what the application asked for, and what there is to send. For an application that drives the path
 * itself and has just sent: its data need not wait for the next step. As pb_path_step(). */
PB_API int pb_path_push(struct pb_path *p, uint64_t now_ns);
/* When something happens by itself, at the latest. UINT64_MAX: never. */
PB_API uint64_t pb_path_next_ns(const struct pb_path *p);
PB_API void pb_path_report(struct pb_path *p, struct pb_path_report *r);

/* Parts of the step; private to csrc/path. */
int pb_path_receive(struct pb_path *p, uint64_t now_ns);
/* Classifies and processes n <= PB_BURST_MAX packets of owner RX, each from its Ethernet header on. */
void pb_path_input(struct pb_path *p, struct pb_desc *d, int n, uint64_t now_ns);
int pb_path_transmit(struct pb_path *p, uint64_t now_ns);
int pb_path_flush(struct pb_path *p, uint64_t now_ns);
int pb_path_commands(struct pb_path *p, uint64_t now_ns);
int pb_path_tell(struct pb_path *p);
void pb_path_wake_slow(struct pb_path *p);
void pb_path_except(struct pb_path *p, const struct pb_desc *d, enum pb_exc_reason reason);
/* A SYN that the accept policy has judged; d is owned by APP and given back. */
void pb_path_judged(struct pb_path *p, struct pb_desc *d, uint64_t now_ns);
void pb_path_want_neigh(struct pb_path *p, const struct pb_ip *addr);
/* The slow path should look whether the next hop to dst is there still. */
void pb_path_doubt_neigh(struct pb_path *p, const struct pb_ip *dst);
/* A neighbour became known, perhaps: what waited for it goes as far as there is room, the rest by later steps. */
void pb_path_unpark(struct pb_path *p, uint64_t now_ns);
#endif
