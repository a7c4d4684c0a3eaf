# csrc/base/hist.h, csrc/app/{template,seqtrack,bench,stream,rr}.h, csrc/dev/ksock.h
from pybypass.c.app cimport pb_spin
from pybypass.c.dev cimport pb_dev
from pybypass.c.path cimport pb_app
from pybypass.c.pool cimport pb_pool
from pybypass.c.types cimport int64_t, pb_ip, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "base/hist.h" nogil:
    enum: PB_HIST_COUNTS
    cdef struct pb_hist:
        uint64_t n, sum, min, max, over
        uint64_t counts[]
    void pb_hist_reset(pb_hist *h)
    void pb_hist_merge(pb_hist *h, const pb_hist *frm)
    uint64_t pb_hist_at_rank(const pb_hist *h, uint64_t rank)
    uint64_t pb_hist_low(uint32_t index)
    void pb_hist_record(pb_hist *h, uint64_t v)

cdef extern from "app/template.h" nogil:
    enum: PB_TEMPLATE_FIELDS
    cdef enum pb_vary:
        PB_VARY_STEP
        PB_VARY_RANDOM
    cdef struct pb_field:
        uint16_t off
        uint8_t bytes, how
        uint32_t lo, hi, step
    cdef struct pb_template:
        uint16_t len, stamp_off, run
    int pb_template_init(pb_template *t, const uint8_t *frame, uint32_t len, const pb_field *fields, uint32_t nfields,
                         uint32_t stamp_off, uint16_t run, uint64_t seed)
    void pb_template_write(pb_template *t, uint8_t *out, uint64_t seq, uint64_t stamp_ns)

cdef extern from "app/seqtrack.h" nogil:
    cdef struct pb_seqtrack:
        uint64_t next, unique, duplicates, reordered, old
    uint64_t pb_seqtrack_lost(const pb_seqtrack *t, uint64_t sent)

# _Atomic words are passed on as addresses only.
cdef extern from "app/bench.h" nogil:
    enum: PB_BENCH_SLICES
    enum: PB_INTERVAL_FRAC
    ctypedef uint32_t atomic_u32 "_Atomic uint32_t"
    ctypedef uint64_t atomic_u64 "_Atomic uint64_t"
    cdef struct pb_bench_config:
        pb_template *tmpl
        uint64_t interval, packets, duration_ns, drain_ns
        uint32_t burst, slices
        uint16_t stamp_off, run
        bint rx, until_back
        atomic_u32 *stop
        atomic_u64 *heard
    cdef struct pb_bench_slice:
        uint64_t sent, received, bytes, ns
    cdef struct pb_bench:
        uint64_t start_ns, end_ns
        uint64_t offered, sent, sent_bytes, tx_calls, tx_full, no_frame
        uint64_t received, rx_bytes, rx_calls, rx_empty, foreign, stamp_ahead
        uint64_t first_ns, last_ns, build_ns, build_pkts, busy_cycles
        pb_seqtrack track
        pb_hist lag
        pb_bench_slice slice[]
        pb_hist latency[]
    int pb_bench_init(pb_bench *b, pb_dev *dev, const pb_bench_config *cfg)
    int pb_bench_run(pb_bench *b)
    cdef struct pb_reflect:
        uint64_t received, sent, refused
    int pb_reflect_run(pb_dev *dev, bint swap, atomic_u32 *stop, pb_reflect *r)
    uint64_t pb_noise_measure(pb_hist *h, uint64_t duration_ns)

cdef extern from "app/stream.h" nogil:
    cdef struct pb_stream:
        pass
    void pb_stream_of_app(pb_stream *s, pb_app *app, int sock)
    void pb_stream_of_kernel(pb_stream *s, int fd, pb_spin how)

cdef extern from "app/rr.h" nogil:
    cdef struct pb_rr_config:
        uint64_t interval, requests, duration_ns
        uint32_t bytes, slices
    cdef struct pb_rr:
        uint64_t start_ns, end_ns, sent, answered
        pb_hist lag
        pb_bench_slice slice[]
        pb_hist latency[]
    int pb_rr_init(pb_rr *r, const pb_rr_config *cfg)
    int pb_rr_run(pb_rr *r, pb_stream *s)
    cdef struct pb_bulk:
        uint64_t start_ns, end_ns, bytes, duration_ns
        uint32_t slices
        pb_bench_slice slice[]
    int pb_bulk_send(pb_bulk *b, pb_stream *s)
    int pb_bulk_recv(pb_bulk *b, pb_stream *s)
    int pb_stream_echo(pb_stream *s, atomic_u32 *stop)

cdef extern from "dev/ksock.h" nogil:
    cdef struct pb_dev_ksock_config:
        int fd
        uint32_t hdr_bytes
        uint16_t mtu
    pb_dev *pb_dev_ksock_open(const pb_dev_ksock_config *cfg, pb_pool *pool, int *err)

cdef extern from "app/bare.h" nogil:
    cdef struct pb_bare:
        pb_dev *dev
        uint8_t dst_mac[6]
        pb_ip src, dst
        uint16_t sport, dport
        uint32_t seq, ack
    int pb_bare_connect(pb_bare *b)
    int pb_bare_pingpong(pb_bare *b, uint32_t n, uint32_t nbytes, uint32_t *samples_ns)
    void pb_bare_close(pb_bare *b)


cdef extern from "app/forward.h" nogil:
    enum pb_forward_how:
        PB_FORWARD_IO
        PB_FORWARD_MACSWAP
        PB_FORWARD_RX
        PB_FORWARD_DESC
        PB_FORWARD_TX
    struct pb_forward:
        pb_dev *in_ "in"
        pb_dev *out
        pb_forward_how how
        uint32_t burst
        const uint8_t *frame
        uint32_t frame_len
        uint64_t duration_ns
        atomic_u32 *stop
        uint64_t received, sent, dropped, rx_calls, rx_empty, tx_full, no_frame, ns, busy_cycles
    int pb_forward_run(pb_forward *f)
