/* Requests and answers of one size over a stream, to a schedule or one at a time, and bulk transfer. The peer of a
 * request is pb_stream_echo().
 *
 * To a schedule, request i is due at start + i * interval and its latency counts from there, however late it left; the
 * answers come in order, so the i-th answer is that of request i. One at a time (interval 0), the latency is the round
 * trip. */
#ifndef PB_APP_RR_H
#define PB_APP_RR_H
#include "app/bench.h"
#include "app/stream.h"

#define PB_RR_BYTES_MAX 65536u

struct pb_rr_config {
	uint64_t interval; /* ns << PB_INTERVAL_FRAC; 0: one at a time */
	uint64_t requests; /* at most */
	uint64_t duration_ns;
	uint32_t bytes; /* 1 to PB_RR_BYTES_MAX */
	uint32_t slices;
};

struct pb_rr {
	struct pb_rr_config cfg;
	uint64_t start_ns, end_ns;
	uint64_t sent, answered;
	uint64_t sent_part, answered_part; /* bytes of the request, of the answer under way */
	uint64_t due_last, unblocked_ns;
	struct pb_hist lag;
	struct pb_bench_slice slice[PB_BENCH_SLICES];
	uint8_t out[PB_RR_BYTES_MAX], in[PB_RR_BYTES_MAX];
	struct pb_hist latency[PB_BENCH_SLICES]; /* last: only cfg.slices of them are touched */
};

/* 0 or -EINVAL. */
PB_API int pb_rr_init(struct pb_rr *r, const struct pb_rr_config *cfg);
/* Runs to the end: every request is answered. 0; -EINTR: call again after the slow path's work; -ETIMEDOUT: nothing
 * came for 5 s; -ECONNRESET: the stream ended; or -errno. */
PB_API int pb_rr_run(struct pb_rr *r, struct pb_stream *s);

struct pb_bulk {
	uint64_t start_ns, end_ns, bytes;
	uint64_t duration_ns; /* of sending; receiving goes to the end of the stream */
	uint32_t slices;
	struct pb_bench_slice slice[PB_BENCH_SLICES];
};

/* Sends for duration_ns. As pb_rr_run(). */
PB_API int pb_bulk_send(struct pb_bulk *b, struct pb_stream *s);
/* Receives to the end of the stream. 0, -EINTR, -ETIMEDOUT, -errno. */
PB_API int pb_bulk_recv(struct pb_bulk *b, struct pb_stream *s);
/* Sends back what comes, to the end of the stream or *stop. 0, -EINTR (call again), or -errno. */
PB_API int pb_stream_echo(struct pb_stream *s, _Atomic uint32_t *stop);
#endif
