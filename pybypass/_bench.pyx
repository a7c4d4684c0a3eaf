# cython: language_level=3
"""The benchmark's loops in C: histograms, packet templates, devices under test, streams."""

import errno as _errno
import math
import os

import numpy as np

from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pybypass._mem cimport Umem
from pybypass._port cimport Queue
from pybypass._convert cimport ip_in
from pybypass.c.app cimport PB_SPIN_HARD, PB_SPIN_NOT, PB_SPIN_YIELD, pb_spin
from pybypass.c.bench cimport *
from pybypass.c.dev cimport pb_dev
from pybypass.c.drops cimport PB_DROP_COUNT, pb_drop_name
from pybypass.c.path cimport pb_app
from pybypass.c.types cimport uint16_t, uint32_t, uint64_t

from pybypass.errors import PybypassError, connection_error

SLICES_MAX = PB_BENCH_SLICES
FIELDS_MAX = PB_TEMPLATE_FIELDS
FORWARDS = {"io": PB_FORWARD_IO, "macswap": PB_FORWARD_MACSWAP, "rx": PB_FORWARD_RX, "desc": PB_FORWARD_DESC, "tx": PB_FORWARD_TX}
SPIN = {"block": PB_SPIN_NOT, "spin": PB_SPIN_HARD, "yield": PB_SPIN_YIELD}


cdef class Histogram:
    def __cinit__(self):
        self.h = <pb_hist *>malloc(sizeof(pb_hist))
        if self.h == NULL:
            raise MemoryError
        pb_hist_reset(self.h)

    def __dealloc__(self):
        free(self.h)

    def __len__(self):
        return self.h.n

    @property
    def min(self):
        return self.h.min if self.h.n else 0

    @property
    def max(self):
        return self.h.max

    @property
    def mean(self):
        return self.h.sum / self.h.n if self.h.n else 0.0

    @property
    def over(self):
        return self.h.over

    def percentile(self, double p):
        if not 0 <= p <= 100:
            raise ValueError(f"a percentile is 0 to 100, not {p}")
        # The product is exact for the p that are asked for; the small term undoes the rounding of p itself.
        rank = max(1, math.ceil(p * self.h.n / 100 - 1e-9 * self.h.n))
        return pb_hist_at_rank(self.h, min(rank, self.h.n))

    def record(self, values):
        cdef const uint64_t[::1] v = np.ascontiguousarray(values, dtype=np.uint64).reshape(-1)
        cdef Py_ssize_t i
        for i in range(v.shape[0]):
            pb_hist_record(self.h, v[i])

    def merge(self, Histogram other not None):
        pb_hist_merge(self.h, other.h)

    def buckets(self):
        cdef int i
        counts = np.empty(PB_HIST_COUNTS, dtype=np.uint64)
        lows = np.empty(PB_HIST_COUNTS, dtype=np.uint64)
        cdef uint64_t[::1] c = counts, low = lows
        for i in range(PB_HIST_COUNTS):
            c[i] = self.h.counts[i]
            low[i] = pb_hist_low(i)
        used = np.flatnonzero(counts)
        return lows[used], counts[used]


cdef class Stop:
    cdef atomic_u32 *address(self) noexcept:
        return <atomic_u32 *>&self.word

    def set(self):
        self.word = 1

    def is_set(self):
        return bool(self.word)


cdef class Template:
    cdef pb_template *t

    def __cinit__(self, bytes frame not None, fields, int stamp_off, int run, unsigned long long seed):
        cdef pb_field f[PB_TEMPLATE_FIELDS]
        cdef int n = len(fields), i, rc
        if n > PB_TEMPLATE_FIELDS:
            raise PybypassError.make("PB040", _errno.EINVAL, f"{n} fields: at most {PB_TEMPLATE_FIELDS} vary")
        memset(f, 0, sizeof(f))
        for i in range(n):
            f[i].off, f[i].bytes, f[i].how, f[i].lo, f[i].hi, f[i].step = fields[i]
        self.t = <pb_template *>malloc(sizeof(pb_template))
        if self.t == NULL:
            raise MemoryError
        rc = pb_template_init(self.t, frame, len(frame), f, n, stamp_off, run, seed)
        if rc:
            raise PybypassError.make("PB040", -rc, "packet template",
                                     hint="a field varies inside the packet, not over lengths, checksums, the stamp or another field")

    def __dealloc__(self):
        free(self.t)

    def __len__(self):
        return self.t.len

    @property
    def stamp_off(self):
        return self.t.stamp_off

    @property
    def run(self):
        return self.t.run

    def write(self, int seq, int stamp_ns):
        out = bytearray(self.t.len)
        cdef unsigned char[::1] view = out
        pb_template_write(self.t, &view[0], seq, stamp_ns)
        return bytes(out)


cdef class Device:
    """A device that the loops drive: a port's queue for as long as this is open, or a kernel socket."""
    cdef pb_dev *dev
    cdef Queue queue
    cdef Umem umem
    cdef readonly bint headers
    cdef bint busy
    cdef int pid

    @staticmethod
    def of_queue(Queue queue not None):
        cdef Device d = Device.__new__(Device)
        d.dev = queue.take(d)
        d.queue = queue
        d.umem = queue.umem
        d.headers = True
        d.pid = os.getpid()
        return d

    @staticmethod
    def of_socket(int fd, Umem umem not None, int hdr_bytes, int mtu):
        cdef Device d = Device.__new__(Device)
        cdef pb_dev_ksock_config cfg
        cdef int err = 0
        cfg.fd = fd
        cfg.hdr_bytes = hdr_bytes
        cfg.mtu = mtu
        d.umem = umem
        d.pid = os.getpid()
        d.dev = pb_dev_ksock_open(&cfg, umem.handle(), &err)
        if d.dev == NULL:
            raise PybypassError.make("PB003" if -err == _errno.ENOBUFS else "PB001", -err, "kernel socket as a device")
        return d

    def __dealloc__(self):
        if self.dev != NULL and self.queue is None and os.getpid() == self.pid:
            self.dev.ops.close(self.dev)

    def close(self):
        if self.busy:
            raise PybypassError.make("PB014", _errno.EBUSY)
        if self.dev == NULL:
            return
        if self.queue is not None:
            self.queue.untake(self.dev)
        else:
            self.dev.ops.close(self.dev)
        self.dev = NULL

    cdef pb_dev *enter(self) except NULL:
        if self.dev == NULL:
            raise PybypassError.make("PB012", _errno.EBADF)
        if self.busy:
            raise PybypassError.make("PB014", _errno.EBUSY)
        self.busy = True
        return self.dev

    def stats(self):
        if self.dev == NULL:
            raise PybypassError.make("PB012", _errno.EBADF)
        if self.dev.ops.stats != NULL:
            self.dev.ops.stats(self.dev)
        s = &self.dev.stats
        drops = {pb_drop_name(i).decode(): s.drops.n[i] for i in range(1, PB_DROP_COUNT) if s.drops.n[i]}
        return {"rx_pkts": s.rx_pkts, "rx_bytes": s.rx_bytes, "tx_pkts": s.tx_pkts, "tx_bytes": s.tx_bytes,
                "rx_wakeups": s.rx_wakeups, "tx_wakeups": s.tx_wakeups, "rx_fill_empty": s.rx_fill_empty,
                "drops": drops}

    def reflect(self, Stop stop not None):
        cdef pb_dev *dev = self.enter()
        cdef pb_reflect r
        cdef int rc
        cdef bint swap = self.headers
        cdef atomic_u32 *word = stop.address()
        memset(&r, 0, sizeof(r))
        try:
            with nogil:
                rc = pb_reflect_run(dev, swap, word, &r)
        finally:
            self.busy = False
        if rc:
            raise PybypassError.make("PB033", -rc, os.strerror(-rc))
        return {"received": r.received, "sent": r.sent, "refused": r.refused}

    def run(self, Template template, *, double interval_ns=0.0, packets=None, double duration_s, double drain_s=0.2,
            int burst=64, int slices=20, int stamp_off=0, int run=0, bint rx=False, bint until_back=False,
            Stop stop=None):
        cdef pb_dev *dev
        cdef pb_bench_config cfg
        cdef pb_bench *b
        cdef int rc
        memset(&cfg, 0, sizeof(cfg))
        if template is not None:
            cfg.tmpl = template.t
            stamp_off, run = template.t.stamp_off, template.t.run
        cfg.interval = <uint64_t>(interval_ns * (1 << PB_INTERVAL_FRAC))
        cfg.packets = (1 << 48) - 1 if packets is None else packets
        cfg.duration_ns = <uint64_t>(duration_s * 1e9)
        cfg.drain_ns = <uint64_t>(drain_s * 1e9)
        cfg.burst = burst
        cfg.slices = slices
        cfg.stamp_off = stamp_off
        cfg.run = run
        cfg.rx = rx
        cfg.until_back = until_back
        cfg.stop = stop.address() if stop is not None else NULL
        b = <pb_bench *>malloc(sizeof(pb_bench))
        if b == NULL:
            raise MemoryError
        try:
            dev = self.enter()
            try:
                rc = pb_bench_init(b, dev, &cfg)
                if rc == -_errno.EMSGSIZE:
                    raise PybypassError.make("PB040", -rc, f"a packet of {template.t.len} bytes",
                                             hint="it must fit a frame and the MTU: --size, or frame=4096 in the URI")
                if rc:
                    raise PybypassError.make("PB040", -rc, "benchmark")
                with nogil:
                    rc = pb_bench_run(b)
            finally:
                self.busy = False
            if rc:
                raise PybypassError.make("PB033", -rc, os.strerror(-rc))
            return bench_result(b, slices)
        finally:
            free(b)


    def forward(self, Device out=None, *, str how="io", bytes frame=None, double duration_s=0.0, int burst=64, Stop stop=None):
        cdef pb_forward f
        cdef const unsigned char[::1] raw = frame if frame is not None else b"\0"
        cdef int rc
        if how not in FORWARDS:
            raise ValueError(f"how must be one of {', '.join(FORWARDS)}, not {how!r}")
        memset(&f, 0, sizeof(f))
        f.how = <pb_forward_how><int>FORWARDS[how]
        f.burst = burst
        f.duration_ns = <uint64_t>(duration_s * 1e9)
        f.stop = stop.address() if stop is not None else NULL
        f.frame, f.frame_len = &raw[0], <uint32_t>(raw.shape[0] if frame is not None else 0)
        if out is self:
            out = None
        if out is not None:
            f.out = out.enter()
        try:
            f.in_ = self.enter()
            if out is None:
                f.out = f.in_
            try:
                with nogil:
                    rc = pb_forward_run(&f)
            finally:
                self.busy = False
        finally:
            if out is not None:
                out.busy = False
        if rc == -_errno.EINVAL:
            raise PybypassError.make("PB040", -rc, f"forwarding ({how})", hint="both ends on one Umem; a frame that fits; an end: duration_s or stop")
        if rc:
            raise PybypassError.make("PB033", -rc, os.strerror(-rc))
        return {
            "received": f.received, "sent": f.sent, "dropped": f.dropped, "rx_calls": f.rx_calls, "rx_empty": f.rx_empty,
            "tx_full": f.tx_full, "no_frame": f.no_frame, "seconds": f.ns / 1e9, "busy_cycles": f.busy_cycles,
        }

    def bare(self, bytes dst_mac not None, bytes src not None, bytes dst not None, int sport, int dport):
        return Bare(self, dst_mac, src, dst, sport, dport)


cdef class Bare:
    """One TCP connection by the numbers."""
    cdef pb_bare b
    cdef Device device

    def __cinit__(self, Device device not None, bytes dst_mac, bytes src, bytes dst, int sport, int dport):
        cdef int rc
        memset(&self.b, 0, sizeof(self.b))
        self.device = device
        self.b.dev = device.enter()
        for i in range(6):
            self.b.dst_mac[i] = dst_mac[i]
        ip_in(src, &self.b.src)
        ip_in(dst, &self.b.dst)
        self.b.sport, self.b.dport, self.b.seq = sport, dport, 1
        with nogil:
            rc = pb_bare_connect(&self.b)
        if rc:
            device.busy = False
            raise connection_error(-rc)

    def pingpong(self, uint32_t n, uint32_t nbytes):
        cdef int rc
        samples = np.zeros(max(n, 1), dtype=np.uint32)
        cdef uint32_t[::1] out = samples
        with nogil:
            rc = pb_bare_pingpong(&self.b, n, nbytes, &out[0])
        if rc < 0:
            raise connection_error(-rc)
        return samples

    def close(self):
        if self.device is not None:
            pb_bare_close(&self.b)
            self.device.busy = False
            self.device = None


cdef list slice_list(const pb_bench_slice *s, int n):
    return [{"sent": s[i].sent, "received": s[i].received, "bytes": s[i].bytes, "ns": s[i].ns} for i in range(n)]


cdef list hist_list(const pb_hist *h, int n):
    cdef Histogram one
    found = []
    for i in range(n):
        one = Histogram()
        pb_hist_merge(one.h, &h[i])
        found.append(one)
    return found


cdef Histogram hist_copy(const pb_hist *h):
    cdef Histogram one = Histogram()
    pb_hist_merge(one.h, h)
    return one


cdef dict bench_result(pb_bench *b, int slices):
    return {
        "seconds": (b.end_ns - b.start_ns) / 1e9, "offered": b.offered, "sent": b.sent, "sent_bytes": b.sent_bytes,
        "tx_calls": b.tx_calls, "tx_full": b.tx_full, "no_frame": b.no_frame, "received": b.received,
        "rx_bytes": b.rx_bytes, "rx_calls": b.rx_calls, "rx_empty": b.rx_empty, "foreign": b.foreign,
        "stamp_ahead": b.stamp_ahead, "rx_seconds": (b.last_ns - b.first_ns) / 1e9,
        "build_ns": b.build_ns / b.build_pkts if b.build_pkts else 0.0,
        "busy_cycles": b.busy_cycles, "highest": b.track.next, "unique": b.track.unique, "duplicates": b.track.duplicates,
        "reordered": b.track.reordered, "old": b.track.old,
        "lag": hist_copy(&b.lag), "latency": hist_list(b.latency, slices), "slices": slice_list(b.slice, slices),
    }


def noise(double seconds):
    cdef Histogram h = Histogram()
    cdef uint64_t turns, ns = <uint64_t>(seconds * 1e9)
    cdef pb_hist *out = h.h
    with nogil:
        turns = pb_noise_measure(out, ns)
    return h, turns


cdef class Stream:
    """One end of a connection: of an EngineCore, or of the kernel."""
    cdef pb_stream s
    cdef object core, keep

    @staticmethod
    def of_engine(core, int number):
        cdef Stream st = Stream.__new__(Stream)
        st.core = core
        st.keep = number
        return st

    @staticmethod
    def of_socket(sock, str how):
        cdef Stream st = Stream.__new__(Stream)
        st.keep = sock
        pb_stream_of_kernel(&st.s, sock.fileno(), <pb_spin><int>SPIN[how])
        return st

    cdef int call(self, int what, void *state) except *:
        """One of the loops, again after each piece of slow path."""
        cdef int rc = 0
        while True:
            if self.core is None:
                rc = self.go(what, state)
            else:
                with self.core.in_use() as pointer:
                    pb_stream_of_app(&self.s, <pb_app *><size_t>pointer, self.keep)
                    rc = self.go(what, state)
            if rc != -_errno.EINTR:
                return rc
            if self.core is not None and self.core.slowpath is not None:
                self.core.slowpath()

    cdef int go(self, int what, void *state) noexcept:
        cdef pb_stream *s = &self.s
        cdef int rc = 0
        with nogil:
            if what == 0:
                rc = pb_rr_run(<pb_rr *>state, s)
            elif what == 1:
                rc = pb_bulk_send(<pb_bulk *>state, s)
            elif what == 2:
                rc = pb_bulk_recv(<pb_bulk *>state, s)
            else:
                rc = pb_stream_echo(s, <atomic_u32 *>state)
        return rc

    def requests(self, *, double interval_ns=0.0, requests=None, double duration_s, int nbytes, int slices=20):
        cdef pb_rr_config cfg
        cdef pb_rr *r
        cdef int rc
        cfg.interval = <uint64_t>(interval_ns * (1 << PB_INTERVAL_FRAC))
        cfg.requests = (1 << 48) - 1 if requests is None else requests
        cfg.duration_ns = <uint64_t>(duration_s * 1e9)
        cfg.bytes = nbytes
        cfg.slices = slices
        r = <pb_rr *>malloc(sizeof(pb_rr))
        if r == NULL:
            raise MemoryError
        try:
            if pb_rr_init(r, &cfg):
                raise PybypassError.make("PB040", _errno.EINVAL, f"requests of {nbytes} bytes",
                                         hint="1 to 65536 bytes, a duration and at least one request")
            rc = self.call(0, r)
            if rc:
                raise connection_error(-rc)
            return {"seconds": (r.end_ns - r.start_ns) / 1e9, "sent": r.sent, "received": r.answered,
                    "lag": hist_copy(&r.lag), "latency": hist_list(r.latency, slices),
                    "slices": slice_list(r.slice, slices)}
        finally:
            free(r)

    def _bulk(self, int what, double duration_s, int slices):
        cdef pb_bulk *b = <pb_bulk *>malloc(sizeof(pb_bulk))
        cdef int rc
        if b == NULL:
            raise MemoryError
        try:
            memset(b, 0, sizeof(pb_bulk))
            b.duration_ns = <uint64_t>(duration_s * 1e9)
            b.slices = slices
            rc = self.call(what, b)
            if rc:
                raise connection_error(-rc)
            return {"seconds": (b.end_ns - b.start_ns) / 1e9, "bytes": b.bytes,
                    "slices": slice_list(b.slice, slices)}
        finally:
            free(b)

    def bulk_send(self, double duration_s, int slices=20):
        return self._bulk(1, duration_s, slices)

    def bulk_recv(self, double duration_s, int slices=20):
        return self._bulk(2, duration_s, slices)

    def echo(self, Stop stop not None):
        cdef int rc = self.call(3, <void *>stop.address())
        if rc and rc != -_errno.ECONNRESET and rc != -_errno.ECANCELED:
            raise connection_error(-rc)
