# cython: language_level=3
"""One queue of a device. One `with nogil` call per burst."""

import errno as _errno

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.string cimport memmove, memset

from pybypass._burst cimport Burst, Lender, new_burst
from pybypass._mem cimport Umem
from pybypass.c.dev cimport (
    PB_DEV_ABI,
    pb_dev,
    pb_dev_chains_again,
    pb_dev_fault_open,
    pb_dev_mem_config,
    pb_dev_mem_open,
    pb_dev_reap,
    pb_dev_rx,
    pb_dev_tx,
    pb_link_config,
    pb_tx_stamp,
)
from pybypass.c.drops cimport PB_DROP_COUNT, pb_drop_name
from pybypass.c.forks cimport pb_forks
from pybypass.c.flag cimport pb_flag_drop, pb_flag_take, pb_flag_try
from pybypass.c.path cimport pb_now_ns
from pybypass.c.pool cimport (
    PB_BURST_MAX,
    PB_OWN_APP,
    PB_OWN_RX,
    PB_OWN_TX,
    pb_desc,
    pb_pool_frame,
    pb_pool_get,
    pb_pool_move_descs,
    pb_pool_put,
)
from pybypass.c.types cimport uint32_t, uint64_t

from pybypass._burst import CSUM_PARTIAL, LAUNCH, TX_STAMP
from pybypass.errors import PybypassError

cdef const char *DEV_CAPSULE = b"pybypass.pb_dev.v1"

TX_OFFSET = 256
STAMP_DTYPE = np.dtype([("seq", "<u8"), ("addr", "<u8"), ("ns", "<u8"), ("source", "<u4"), ("pad", "<u4")])
cdef int ASKED = 2 | 32 | 64   # what a device must have granted
cdef int STAMPS = 4096


cdef int reap_all(pb_dev *dev, uint64_t now) noexcept nogil:
    """Completed frames go back to the pool: nobody else wants them."""
    cdef uint64_t addrs[64]
    cdef int n, i
    while True:
        n = pb_dev_reap(dev, addrs, 64, now)
        for i in range(n if n > 0 else 0):
            pb_pool_put(dev.cache, addrs[i], PB_OWN_TX)
        if n < 64:
            return 0


cdef dict stats_dict(pb_dev *dev):
    if dev.ops.stats != NULL:
        dev.ops.stats(dev)
    s = &dev.stats
    drops = {pb_drop_name(i).decode(): s.drops.n[i] for i in range(1, PB_DROP_COUNT) if s.drops.n[i]}
    return {
        "rx_pkts": s.rx_pkts, "rx_bytes": s.rx_bytes, "tx_pkts": s.tx_pkts, "tx_bytes": s.tx_bytes,
        "rx_wakeups": s.rx_wakeups, "tx_wakeups": s.tx_wakeups, "rx_fill_empty": s.rx_fill_empty,
        "tx_stamps_lost": s.tx_stamps_lost, "drops": drops,
    }


cdef class Queue(Lender):
    def __init__(self, *args, **kwargs):
        raise TypeError("a Queue comes from pybypass.open()")

    def __dealloc__(self):
        # A forked child has the parent's socket and program: closing them there would take them from the parent.
        if self.dev != NULL and pb_forks == self.forks:
            self.dev.ops.close(self.dev)

    cdef pb_dev *device(self) except NULL:
        if self.closed:
            raise PybypassError.make("PB012", _errno.EBADF)
        if self.user is not None:
            raise PybypassError.make("PB013", _errno.EBUSY)
        if pb_forks != self.forks:
            raise PybypassError.make("PB015", _errno.EBADF)
        return self.dev

    cdef pb_dev *take(self, object user) except NULL:
        """Hands the device to an engine, which closes it."""
        cdef pb_dev *dev = self.device()
        if self.held:
            raise BufferError(f"{self.held} frames of this queue are in bursts: release them first")
        self.user = user
        self.dev = NULL
        return dev

    cdef int untake(self, pb_dev *dev) except -1:
        """The engine could not be made: the device is the queue's again."""
        self.dev = dev
        self.user = None
        return 0

    cdef int abandon(self) except -1:
        """The engine could not be made and has closed the device."""
        self.user = None
        self.closed = True
        return 0

    cdef int give_back(self, Burst b) except -1:
        """The frames of a burst return to the pool, also when the device is gone."""
        cdef int i
        if not b.n:
            return 0
        self.held -= b.n
        pb_flag_take(&self.lock)
        if self.dev != NULL:
            for i in range(b.n):
                pb_pool_put(self.dev.cache, b.frames[i], PB_OWN_APP)
            pb_flag_drop(&self.lock)
            return 0
        pb_flag_drop(&self.lock)
        return Lender.give_back(self, b)

    @property
    def port(self):
        return self.port_ref() if self.port_ref is not None else None

    @property
    def frame_room(self):
        return self.umem.handle().frame_bytes - TX_OFFSET

    @property
    def link_up(self):
        return bool(self.device().link_up)

    @property
    def held_frames(self):
        return self.held

    @property
    def live_views(self):
        return self.holds

    def fileno(self):
        cdef pb_dev *dev = self.device()
        return dev.ops.fd(dev) if dev.ops.fd != NULL else -1

    def stats(self):
        cdef pb_dev *dev = self.device()
        pb_flag_take(&self.lock)
        try:
            return stats_dict(dev)
        finally:
            pb_flag_drop(&self.lock)

    def rx_burst(self, int n=64):
        cdef pb_dev *dev = self.device()
        cdef int got = 0, i
        cdef Burst b
        if not 1 <= n <= PB_BURST_MAX:
            raise ValueError(f"a burst has 1 to {PB_BURST_MAX} frames, not {n}")
        if self.held + n > self.max_held:
            raise PybypassError.make("PB003", _errno.ENOBUFS, f"{self.held} frames are held in bursts")
        b = new_burst(self, n)
        if not pb_flag_try(&self.busy):
            raise PybypassError.make("PB014", _errno.EBUSY)
        with nogil:
            pb_flag_take(&self.lock)
            got = pb_dev_rx(dev, b.d, n, pb_now_ns())
            if got > 0:
                pb_pool_move_descs(dev.cache, b.d, <uint32_t>got, PB_OWN_RX, PB_OWN_APP)
            for i in range(got):
                b.frames[i] = pb_pool_frame(dev.pool, b.d[i].addr)
            pb_flag_drop(&self.lock)
        pb_flag_drop(&self.busy)
        if got == -_errno.EMSGSIZE:
            raise PybypassError.make("PB063", -got, f"{n} frames are too few for the next packet: it has up to {self.chain_max}")
        if got < 0:
            raise PybypassError.make("PB033", -got)
        b.n = got
        self.held += got
        return b

    def alloc_burst(self, int n, int length=0):
        cdef pb_dev *dev = self.device()
        cdef uint64_t addrs[64]
        cdef int got, i
        if not 1 <= n <= PB_BURST_MAX:
            raise ValueError(f"a burst has 1 to {PB_BURST_MAX} frames, not {n}")
        if not 0 <= length <= <int>dev.pool.frame_bytes - TX_OFFSET:
            raise ValueError(f"length must be 0 to {dev.pool.frame_bytes - TX_OFFSET}, not {length}")
        cdef Burst b = new_burst(self, n)
        if not pb_flag_try(&self.busy):
            raise PybypassError.make("PB014", _errno.EBUSY)
        with nogil:
            pb_flag_take(&self.lock)
            reap_all(dev, pb_now_ns())
            got = <int>pb_pool_get(dev.cache, addrs, n, 0, PB_OWN_APP)
            pb_flag_drop(&self.lock)
        pb_flag_drop(&self.busy)
        for i in range(got):
            b.frames[i] = addrs[i]
            memset(&b.d[i], 0, sizeof(pb_desc))
            b.d[i].addr = addrs[i]
            b.d[i].off = TX_OFFSET
            b.d[i].len = length
        b.n = got
        self.held += got
        if got < n:
            b.release()
            raise PybypassError.make("PB003", _errno.ENOBUFS, f"{got} of {n} frames are free")
        return b

    def tx_burst(self, Burst burst not None):
        cdef pb_dev *dev = self.device()
        cdef int sent, i
        cdef uint64_t now
        burst.alive()
        if burst.holds:
            raise BufferError(f"{burst.holds} views of this burst are alive: drop them before it is sent")
        if burst.queue.umem is not self.umem:
            raise PybypassError.make("PB010", _errno.EINVAL, "the burst's frames are of another Umem",
                                     hint="open both ports with the same umem=, or copy the data")
        for i in range(burst.n):
            if (pb_pool_frame(dev.pool, burst.d[i].addr) != burst.frames[i]
                    or burst.d[i].addr - burst.frames[i] + burst.d[i].off + burst.d[i].len > dev.pool.frame_bytes):
                raise ValueError(f"descriptor {i} leaves its frame: addr {burst.d[i].addr}, off {burst.d[i].off}, "
                                 f"len {burst.d[i].len}")
            if burst.d[i].flags & ASKED & ~self.tx_flags:
                raise self.not_granted(burst.d[i].flags & ASKED & ~self.tx_flags)
        if not pb_flag_try(&self.busy):
            raise PybypassError.make("PB014", _errno.EBUSY)
        with nogil:
            pb_flag_take(&self.lock)
            now = pb_now_ns()
            reap_all(dev, now)
            sent = pb_dev_tx(dev, burst.d, burst.n, PB_OWN_APP, now)
            pb_flag_drop(&self.lock)
        pb_flag_drop(&self.busy)
        if sent < 0:
            raise PybypassError.make("PB033", -sent)
        burst.sent_first(sent)
        return sent

    def not_granted(self, int flags):
        names = [name for bit, name in ((CSUM_PARTIAL, "CSUM_PARTIAL"), (TX_STAMP, "TX_STAMP"), (LAUNCH, "LAUNCH")) if flags & bit]
        return PybypassError.make("PB064", _errno.EOPNOTSUPP, " and ".join(names))

    def tx_timestamps(self):
        cdef pb_dev *dev = self.device()
        cdef int n = 0
        out = np.empty(STAMPS, dtype=STAMP_DTYPE)
        cdef unsigned char[::1] raw = out.view(np.uint8)
        if not self.tx_flags & TX_STAMP:
            raise self.not_granted(TX_STAMP)
        pb_flag_take(&self.lock)
        reap_all(dev, pb_now_ns())
        n = dev.ops.stamps(dev, <pb_tx_stamp *>&raw[0], STAMPS)
        pb_flag_drop(&self.lock)
        return out[:n].copy()

    def reap(self):
        """Completed transmissions go back to the pool."""
        cdef pb_dev *dev = self.device()
        pb_flag_take(&self.lock)
        reap_all(dev, pb_now_ns())
        pb_flag_drop(&self.lock)

    def close(self, bint force=False):
        cdef pb_dev *dev
        if self.closed:
            return
        if self.holds and not force:
            raise BufferError(f"{self.holds} views of frames are alive: drop them before the port is closed")
        if not pb_flag_try(&self.busy):
            raise PybypassError.make("PB014", _errno.EBUSY)
        dev = self.dev
        pb_flag_take(&self.lock)
        self.dev = NULL
        self.closed = True
        self.user = None
        pb_flag_drop(&self.lock)
        pb_flag_drop(&self.busy)
        if dev != NULL and pb_forks == self.forks:
            with nogil:
                dev.ops.close(dev)

    def look(self):
        self.mtu = self.device().mtu

    @property
    def is_closed(self):
        return self.closed


cdef Queue wrap(pb_dev *dev, Umem umem, str kind):
    cdef Queue q = Queue.__new__(Queue)
    q.dev = dev
    q.umem = umem
    q.kind = kind
    q.index = dev.queue
    q.mtu = dev.mtu
    q.mac = dev.mac[:6]
    q.tx_flags = dev.tx_flags
    q.tx_chains = pb_dev_chains_again(dev)
    q.chain_max = dev.chain_max if dev.chain_max > 1 else 1
    q.report = {}
    q.forks = pb_forks
    q.max_held = umem.handle().nframes // 2
    return q


cdef int link_config(object im, unsigned long long salt, pb_link_config *out) except -1:
    memset(out, 0, sizeof(pb_link_config))
    out.rate_bps = im.rate_bps
    out.delay_ns = im.delay_ns
    out.jitter_ns = im.jitter_ns
    out.queue_bytes = im.queue_bytes
    out.loss_ppm = im.loss_ppm
    out.dup_ppm = im.dup_ppm
    out.corrupt_ppm = im.corrupt_ppm
    out.reorder_ppm = im.reorder_ppm
    out.reorder_ns = im.reorder_ns
    out.capacity = im.capacity
    out.seed = <unsigned long long>im.seed * 2 + salt
    return 0


cdef pb_dev *impaired(pb_dev *dev, object rx, object tx) except NULL:
    """The device behind links; on failure it is closed."""
    cdef pb_link_config c_rx, c_tx
    cdef pb_dev *out
    cdef int err = 0
    if rx is None and tx is None:
        return dev
    try:
        if rx is not None:
            link_config(rx, 0, &c_rx)
        if tx is not None:
            link_config(tx, 1, &c_tx)
    except BaseException:
        dev.ops.close(dev)
        raise
    out = pb_dev_fault_open(dev, &c_rx if rx is not None else NULL, &c_tx if tx is not None else NULL, &err)
    if out == NULL:
        dev.ops.close(dev)
        raise PybypassError.make("PB010", -err, "impairment refused", hint="see Impairment for the ranges")
    return out


def open_mem(str name, Umem umem not None, *, int ring=1024, int mtu=1500, unsigned long long completion_delay_ns=0,
             bint completion_reorder=False, unsigned long long seed=0, impair_rx=None, impair_tx=None):
    cdef pb_dev_mem_config cfg
    cdef int err = 0
    cdef bytes raw = name.encode()
    cdef pb_dev *dev
    memset(&cfg, 0, sizeof(cfg))
    cfg.ring_size = ring
    cfg.mtu = mtu
    cfg.completion_delay_ns = completion_delay_ns
    cfg.completion_reorder = completion_reorder
    cfg.seed = seed
    dev = pb_dev_mem_open(raw, umem.handle(), &cfg, &err)
    if dev == NULL:
        if -err == _errno.EBUSY:
            raise PybypassError.make("PB023", -err, f"both ends of mem:{name} are open",
                                     hint="a mem: name joins two ports: close one, or use another name")
        raise PybypassError.make("PB010", -err, f"mem:{name}", hint="see pybypass.open() for the ranges of the options")
    return wrap(impaired(dev, impair_rx, impair_tx), umem, "mem")


def adopt(capsule, Umem umem not None, str kind, *, int member=0, impair_rx=None, impair_tx=None):
    cdef Queue q
    cdef pb_dev *dev = <pb_dev *>PyCapsule_GetPointer(capsule, DEV_CAPSULE)
    if dev.ops.abi != PB_DEV_ABI:
        raise PybypassError.make("PB011", _errno.EINVAL, f"device interface {dev.ops.abi}, this package has {PB_DEV_ABI}")
    q = wrap(impaired(dev, impair_rx, impair_tx), umem, kind)
    q.member = member
    return q
