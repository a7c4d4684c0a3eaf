/* The loops of a packet benchmark over any device: send to a schedule, receive and judge, reflect. One thread each.
 *
 * Open loop: packet i is due at start + i * interval whatever became of the ones before, and its stamp says when it was
 * due, so a latency counts from there (Tene, "coordinated omission"). What the generator itself was late by is a
 * histogram of its own, `lag`: from when a packet was due, and the device was not full, to the first try to send it.
 * Times are CLOCK_MONOTONIC. */
#ifndef PB_APP_BENCH_H
#define PB_APP_BENCH_H
#include "app/seqtrack.h"
#include "app/template.h"
#include "base/hist.h"
#include "dev/dev.h"

#include <stdatomic.h>

#define PB_BENCH_SLICES 64
#define PB_INTERVAL_FRAC 16

struct pb_bench_config {
	struct pb_template *tmpl; /* NULL: receive only */
	uint64_t interval;        /* ns << PB_INTERVAL_FRAC between packets; 0: as fast as the device takes them */
	uint64_t packets;         /* to send at most */
	uint64_t duration_ns;     /* of sending; receive only: until *stop */
	uint64_t drain_ns;        /* how long to wait for packets under way after the last was sent, or after *stop */
	uint32_t burst;           /* 1 to PB_BURST_MAX */
	uint32_t slices;          /* 1 to PB_BENCH_SLICES, of duration_ns / slices each */
	uint16_t stamp_off, run;  /* of what is received; stamp_off 0: packets are only counted */
	bool rx;                  /* also receive */
	bool until_back;          /* the drain ends when as many came back as were sent */
	_Atomic uint32_t *stop;   /* not NULL: ends it, from any thread */
	_Atomic uint64_t *heard;  /* not NULL: told how many came, for a peer in another thread */
};

struct pb_bench_slice {
	uint64_t sent, received, bytes, ns;
};

struct pb_bench {
	struct pb_dev *dev;
	struct pb_bench_config cfg;
	/* results */
	uint64_t start_ns, end_ns; /* of sending (receiving, where nothing is sent): the drain is not in it */
	uint64_t offered, sent, sent_bytes, tx_calls, tx_full, no_frame;
	uint64_t received, rx_bytes, rx_calls, rx_empty, foreign, stamp_ahead;
	uint64_t busy_cycles;          /* of the time stamp counter, in looks that found something */
	uint64_t first_ns, last_ns;    /* when the first and the last packet came */
	uint64_t build_ns, build_pkts; /* sampled: what making packets costs */
	struct pb_seqtrack track;
	struct pb_hist lag;
	struct pb_bench_slice slice[PB_BENCH_SLICES];
	/* state */
	uint64_t unblocked_ns, reaped_ns;
	uint32_t chain;                   /* frames of a packet that is sent */
	bool inside, ours;                /* of a received packet: its first frame was judged, and how */
	uint32_t npending, first_pending; /* descriptors made, and not yet taken by the device */
	struct pb_desc pending[PB_BURST_MAX];
	uint8_t scratch[PB_TEMPLATE_MAX];
	struct pb_hist latency[PB_BENCH_SLICES]; /* last: only cfg.slices of them are touched */
};

/* 0 or -EINVAL (configuration), -EMSGSIZE (the packet does not fit the MTU, or a frame where the device
 * takes no packet of several). */
PB_API int pb_bench_init(struct pb_bench *b, struct pb_dev *dev, const struct pb_bench_config *cfg);
/* Runs to the end. 0, or -errno of the device. Frames that were not sent are FREE again. */
PB_API int pb_bench_run(struct pb_bench *b);

struct pb_reflect {
	uint64_t received, sent, refused; /* refused: not UDP over IP, or the device was full for a second */
};

/* Sends every UDP packet back to where it came from, with addresses and ports changed places (checksums stay right),
 * until *stop. `swap` false: the device has no headers (a kernel socket). 0 or -errno of the device. */
PB_API int pb_reflect_run(struct pb_dev *dev, bool swap, _Atomic uint32_t *stop, struct pb_reflect *r);

/* The machine's noise floor: how long a loop that only reads the clock was away from its core each time, into h (gaps
 * of 200 ns and more; below that is the clock itself). Returns the number of turns. */
PB_API uint64_t pb_noise_measure(struct pb_hist *h, uint64_t duration_ns);
#endif
