# cython: language_level=3
"""DPDK: the EAL, ports and their settings. The data path stays in C, behind the device's ops."""

import errno as _errno
import os
from array import array

cimport cython
from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetName
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from pybypass._burst cimport Burst
from pybypass._dpdkrule cimport rss_bits, rss_names, rule_in
from pybypass._port cimport Queue
from pybypass.c cimport dpdk as c
from pybypass.c.dev cimport pb_dev
from pybypass.c.forks cimport pb_forks
from pybypass.c.flag cimport pb_flag_drop, pb_flag_take, pb_flag_try
from pybypass.c.pool cimport pb_desc

from pybypass import _burst
from pybypass._dpdkrule import RSS_TYPES
from pybypass.errors import PybypassError

# Capsules keep the pointer to their name, not a copy.
cdef const char *POOL_CAPSULE = b"pybypass.pb_pool.v1"
cdef const char *DEV_CAPSULE = b"pybypass.pb_dev.v1"
cdef const char *PORT_CAPSULE = b"pybypass.pb_dpdk_port.v1"
cdef const char *DEV_CLOSED = b"pybypass.pb_dev.v1.closed"
cdef unsigned ASKS = _burst.CSUM_PARTIAL | _burst.LAUNCH | _burst.TX_STAMP    # of the device, for a packet

LEAD = c.PB_DPDK_LEAD
QUEUES_MAX = c.PB_DPDK_QUEUES
LOG_ROOM = 65536

SETTINGS = {
    "promiscuous": c.PB_DPDK_PROMISCUOUS, "allmulticast": c.PB_DPDK_ALLMULTICAST, "link_up": c.PB_DPDK_LINK,
    "mtu": c.PB_DPDK_MTU,
}


cdef str text_of(const char *s):
    return (<bytes>s).decode("utf-8", "replace")


cdef object error_of(int rc):
    return OSError(-rc, os.strerror(-rc))


cdef int check(int rc) except -1:
    if rc < 0:
        raise error_of(rc)
    return rc


cdef object fail_error(const c.pb_dpdk_fail *f, report):
    e = OSError(-f.err, text_of(f.text))
    e.stage = text_of(c.pb_dpdk_stage_name(f.stage))
    e.report = report
    return e


def eal_start(args):
    cdef c.pb_dpdk_fail fail
    cdef int n = len(args), rc, i
    raw = [os.fsencode(a) for a in args]
    cdef const char **argv = <const char **>calloc(n + 1, sizeof(char *))
    if argv == NULL:
        raise MemoryError
    for i in range(n):
        argv[i] = <bytes>raw[i]
    with nogil:
        rc = c.pb_dpdk_eal_start(n, argv, &fail)
    free(argv)
    if rc < 0:
        raise fail_error(&fail, {})


def eal_stop():
    with nogil:
        c.pb_dpdk_eal_stop()


def eal_info():
    cdef c.pb_dpdk_eal_info i
    c.pb_dpdk_eal_get_info(&i)
    return {
        "version": text_of(i.version), "started": bool(i.started), "hugepages": bool(i.hugepages),
        "iova": "va" if i.iova_va else "pa", "lcores": i.lcores, "log_lost": i.log_lost,
    }


def log_take():
    cdef bytearray room = bytearray(LOG_ROOM)
    cdef char *at = room
    cdef size_t n = c.pb_dpdk_log_take(at, LOG_ROOM)
    return bytes(room[:n]).decode("utf-8", "replace")


def log_level(str pattern, int level):
    cdef bytes raw = pattern.encode()
    check(c.pb_dpdk_log_level(raw, <uint32_t>max(level, 0)))


cdef list offload_names(bint tx, uint64_t bits):
    return [text_of(c.pb_dpdk_offload_name(tx, <uint64_t>1 << i)).lower() for i in range(64) if bits >> i & 1]


cdef dict report_dict(const c.pb_dpdk_report *r):
    return {
        "driver": text_of(r.driver), "device": text_of(r.device), "port_id": r.port_id,
        "numa_node": r.socket if r.socket >= 0 else None,
        "mac": (<bytes>(<const char *>r.mac)[:6]).hex(":"),
        "mtu": r.mtu, "min_mtu": r.min_mtu, "max_mtu": r.max_mtu,
        "queues": r.queues, "max_rx_queues": r.max_rx_queues, "max_tx_queues": r.max_tx_queues,
        "rx_desc": r.rx_desc, "tx_desc": r.tx_desc,
        "rx_desc_limits": (r.rx_desc_min, r.rx_desc_max), "tx_desc_limits": (r.tx_desc_min, r.tx_desc_max),
        "rx_offloads_known": offload_names(False, r.rx_capa), "tx_offloads_known": offload_names(True, r.tx_capa),
        "rx_offloads": offload_names(False, r.rx_offloads), "tx_offloads": offload_names(True, r.tx_offloads),
        "rss_known": rss_names(r.rss_capa), "rss": rss_names(r.rss_types),
        "rss_table_size": r.reta_size, "rss_key_bytes": r.key_size,
        "frame_room": r.frame_room, "chain_max": r.chain_max, "sg": r.chain_max > 1, "filled": r.filled,
        "frames_needed": r.frames_needed, "timesync": bool(r.timesync), "link_up": bool(r.link_up),
        "speed_mbps": r.speed_mbps if r.speed_mbps not in (0, 0xffffffff) else None,
        "full_duplex": bool(r.full_duplex),
    }


ctypedef int (*control_fn)(c.pb_dpdk_port *) noexcept nogil


@cython.final
cdef class PortHandle:
    cdef c.pb_dpdk_port *p
    cdef unsigned int forks
    cdef readonly dict report

    def __init__(self, *args, **kwargs):
        raise TypeError("made by open_port()")

    def __dealloc__(self):
        self.release()

    cdef int release(self) noexcept:
        cdef c.pb_dpdk_port *p = self.p
        cdef int rc = 0
        self.p = NULL
        if pb_forks == self.forks:
            with nogil:
                rc = c.pb_dpdk_port_unref(p)
        return rc

    cdef c.pb_dpdk_port *handle(self) except NULL:
        if self.p == NULL:
            raise ValueError("the port was closed")
        if pb_forks != self.forks:
            raise PybypassError.make("PB015", _errno.EBADF)
        return self.p

    def close(self):
        check(self.release())

    def forget(self):
        """After a fork: the device is the parent's."""
        self.p = NULL

    def capsule(self):
        return PyCapsule_New(self.handle(), PORT_CAPSULE, NULL)

    def queue(self, int q):
        cdef int err = 0
        cdef c.pb_dev *dev = c.pb_dpdk_queue_open(self.handle(), <uint16_t>q, &err)
        if dev == NULL:
            raise error_of(err)
        return PyCapsule_New(dev, DEV_CAPSULE, NULL)

    cdef int control(self, control_fn call) except -1:
        """One that may take long."""
        cdef c.pb_dpdk_port *p = self.handle()
        cdef int rc
        with nogil:
            rc = call(p)
        check(rc)
        return 0

    def stop(self):
        self.control(c.pb_dpdk_port_stop)

    def start(self):
        self.control(c.pb_dpdk_port_start)

    def remove(self):
        self.control(c.pb_dpdk_port_remove)

    def look(self):
        cdef c.pb_dpdk_report r
        c.pb_dpdk_port_get_report(self.handle(), &r)
        return report_dict(&r)

    def stats(self):
        cdef c.pb_dpdk_stats s
        check(c.pb_dpdk_port_get_stats(self.handle(), &s))
        return {
            "rx_pkts": s.rx_pkts, "tx_pkts": s.tx_pkts, "rx_bytes": s.rx_bytes, "tx_bytes": s.tx_bytes,
            "rx_missed": s.rx_missed, "rx_errors": s.rx_errors, "tx_errors": s.tx_errors, "rx_no_frame": s.rx_nombuf,
        }

    def xstats(self):
        cdef int n = check(c.pb_dpdk_port_xstats(self.handle(), NULL, 0)), got, i
        cdef c.pb_dpdk_xstat *rows = <c.pb_dpdk_xstat *>calloc(n + 1, sizeof(c.pb_dpdk_xstat))
        if rows == NULL:
            raise MemoryError
        try:
            got = check(c.pb_dpdk_port_xstats(self.handle(), rows, n))
            return {text_of(rows[i].name): rows[i].value for i in range(min(got, n))}
        finally:
            free(rows)

    def stats_reset(self):
        check(c.pb_dpdk_port_stats_reset(self.handle()))

    def set(self, str what, int value):
        cdef c.pb_dpdk_port *p = self.handle()
        cdef c.pb_dpdk_setting which = <c.pb_dpdk_setting><int>SETTINGS[what]
        cdef int rc
        with nogil:
            rc = c.pb_dpdk_port_set(p, which, <uint32_t>value)
        check(rc)

    def get(self, str what):
        return check(c.pb_dpdk_port_get(self.handle(), <c.pb_dpdk_setting><int>SETTINGS[what]))

    def rss_get(self):
        cdef uint8_t key[256]
        cdef uint32_t n = 256
        cdef uint64_t types = 0
        check(c.pb_dpdk_rss_get(self.handle(), key, &n, &types))
        return (<bytes>(<const char *>key)[:n]), rss_names(types)

    def rss_set(self, key, types):
        cdef const unsigned char[::1] raw = key if key is not None else b"\0"
        check(c.pb_dpdk_rss_set(self.handle(), &raw[0] if key is not None else NULL,
                                <uint32_t>(raw.shape[0] if key is not None else 0), rss_bits(types)))

    def reta_get(self):
        cdef uint16_t table[512]
        cdef uint32_t n = self.report["rss_table_size"], i
        check(c.pb_dpdk_reta_get(self.handle(), table, n))
        return [table[i] for i in range(n)]

    def reta_set(self, table):
        cdef const uint16_t[::1] raw = array("H", table or [0])
        check(c.pb_dpdk_reta_set(self.handle(), &raw[0], <uint32_t>len(table)))

    def clock(self):
        cdef uint64_t ns = 0
        cdef int cycles = 0
        check(c.pb_dpdk_clock_read(self.handle(), &ns, &cycles))
        return ns, "cycles" if cycles else "nanoseconds"

    def timesync_rx(self):
        cdef uint64_t ns = 0
        check(c.pb_dpdk_timesync_rx(self.handle(), &ns))
        return ns

    def flow_validate(self, dict rule):
        cdef c.pb_flow_rule r
        cdef c.pb_dpdk_flow_fail f
        rule_in(rule, &r)
        flow_check(c.pb_dpdk_flow_validate(self.handle(), &r, &f), &f)

    def flow_create(self, dict rule):
        cdef c.pb_flow_rule r
        cdef c.pb_dpdk_flow_fail f
        rule_in(rule, &r)
        return flow_check(c.pb_dpdk_flow_create(self.handle(), &r, &f), &f)

    def flow_destroy(self, int id):
        cdef c.pb_dpdk_flow_fail f
        flow_check(c.pb_dpdk_flow_destroy(self.handle(), id, &f), &f)

    def flow_query(self, int id):
        cdef c.pb_dpdk_flow_fail f
        cdef uint64_t hits = 0, nbytes = 0, unknown = 0xffffffffffffffff
        flow_check(c.pb_dpdk_flow_query(self.handle(), id, &hits, &nbytes, &f), &f)
        return hits if hits != unknown else None, nbytes if nbytes != unknown else None

    def flow_state(self, int id):
        cdef c.pb_dpdk_flow_fail f
        cdef int rc = c.pb_dpdk_flow_state(self.handle(), id, &f)
        if rc == -2:
            raise flow_error(&f)
        return rc == 1, flow_error(&f) if rc < 0 else None

    def pool(self):
        cdef c.pb_dpdk_pool_info i
        c.pb_dpdk_port_pool(self.handle(), &i)
        return {"frames": i.frames, "in_use": i.in_use, "cached": i.cached, "recovered": i.recovered,
                "numa_node": i.socket if i.socket >= 0 else None, "iova": "va" if i.iova_va else "pa"}


# ---- flow rules ----

cdef object flow_error(const c.pb_dpdk_flow_fail *f):
    e = OSError(-f.err, os.strerror(-f.err))
    e.item, e.words = text_of(f.item), text_of(f.text)
    return e


cdef int flow_check(int rc, const c.pb_dpdk_flow_fail *f) except -1:
    if rc < 0:
        raise flow_error(f)
    return rc


def flow_text(dict rule, bint conv=False):
    cdef c.pb_flow_rule r
    cdef char room[4096]
    cdef int n
    rule_in(rule, &r)
    n = check(c.pb_dpdk_flow_text(&r, conv, room, sizeof(room)))
    return room[:n].decode()


def open_port(str devargs, pool_capsule, *, int queues=1, int rx_desc=0, int tx_desc=0, int mtu=0, bint promiscuous=False,
              bint allmulticast=False, bint rx_csum=False, bint tx_csum=False, bint vlan_strip=False, bint rx_stamp=False,
              bint timesync=False, bint launch=False, bint multi_segs=False, rss=(), rss_key=None):
    cdef c.pb_dpdk_config cfg
    cdef c.pb_dpdk_report r
    cdef int err = 0
    cdef bytes raw = os.fsencode(devargs), key = rss_key or b""
    cdef c.pb_pool *pool = <c.pb_pool *>PyCapsule_GetPointer(pool_capsule, POOL_CAPSULE)
    cdef PortHandle h
    if not 0 < len(raw) < 256 or b"\0" in raw:
        raise ValueError(f"device arguments of {len(raw)} bytes: at most 255")
    if min(queues, rx_desc, tx_desc, mtu) < 0 or max(queues, rx_desc, tx_desc, mtu) > 65535:
        raise ValueError("queues, rx_desc, tx_desc and mtu are 0 to 65535")
    if len(key) > c.PB_DPDK_KEY_MAX:
        raise ValueError(f"an RSS key of {len(key)} bytes: at most {c.PB_DPDK_KEY_MAX}")
    memset(&cfg, 0, sizeof(cfg))
    memcpy(cfg.devargs, <const char *>raw, len(raw))
    cfg.queues, cfg.rx_desc, cfg.tx_desc, cfg.mtu = <uint16_t>queues, <uint16_t>rx_desc, <uint16_t>tx_desc, <uint16_t>mtu
    cfg.promiscuous, cfg.allmulticast, cfg.rx_csum, cfg.tx_csum = promiscuous, allmulticast, rx_csum, tx_csum
    cfg.vlan_strip, cfg.rx_stamp, cfg.timesync, cfg.launch = vlan_strip, rx_stamp, timesync, launch
    cfg.multi_segs = multi_segs
    cfg.rss_types = rss_bits(rss)
    cfg.key_len = <uint32_t>len(key)
    if key:
        memcpy(cfg.key, <const char *>key, len(key))
    cdef c.pb_dpdk_port *p
    with nogil:
        p = c.pb_dpdk_port_open(&cfg, pool, &r, &err)
    result = report_dict(&r)
    if p == NULL:
        raise fail_error(&r.fail, result)
    h = PortHandle.__new__(PortHandle)
    h.p = p
    h.forks = pb_forks
    h.report = result
    return h


def queue_info(dev_capsule):
    cdef c.pb_dpdk_info i
    c.pb_dpdk_queue_info(<c.pb_dev *>PyCapsule_GetPointer(dev_capsule, DEV_CAPSULE), &i)
    return {"rx_copied": i.rx_copied, "tx_prepare_bad": i.tx_prepare_bad, "tx_outstanding": i.tx_outstanding}


def close_device(dev_capsule):
    cdef c.pb_dev *dev = <c.pb_dev *>PyCapsule_GetPointer(dev_capsule, DEV_CAPSULE)
    # A second use of the capsule fails instead of touching freed memory.
    PyCapsule_SetName(dev_capsule, DEV_CLOSED)
    with nogil:
        dev.ops.close(dev)


@cython.final
cdef class External:
    """Memory of the application that a port sends from. It holds the port, and the buffer."""
    cdef c.pb_dpdk_ext *x
    cdef const unsigned char[::1] data
    cdef unsigned int forks
    cdef int lock    # guards x between send() and close()

    def __init__(self, PortHandle port not None, buffer not None):
        cdef c.pb_dpdk_fail fail
        cdef c.pb_dpdk_port *p = port.handle()
        if self.x != NULL:
            raise ValueError("already registered")
        self.data = buffer
        self.forks = pb_forks
        if not self.data.shape[0]:
            raise error_of(-_errno.EINVAL)
        with nogil:
            self.x = c.pb_dpdk_ext_register(p, <void *>&self.data[0], self.data.shape[0], &fail)
        if self.x == NULL:
            raise fail_error(&fail, {})

    @property
    def in_flight(self):
        cdef uint64_t n = 0
        with nogil:
            pb_flag_take(&self.lock)
            if self.x != NULL:
                n = c.pb_dpdk_ext_in_flight(self.x)
            pb_flag_drop(&self.lock)
        return n

    def close(self):
        cdef int rc = 0
        if pb_forks != self.forks:
            raise PybypassError.make("PB015", _errno.EBADF)
        with nogil:
            pb_flag_take(&self.lock)
            if self.x != NULL:
                rc = c.pb_dpdk_ext_unregister(self.x)
                if rc == 0:
                    self.x = NULL
            pb_flag_drop(&self.lock)
        check(rc)
        self.data = None    # the buffer may be closed now

    def send(self, Queue queue not None, const uint64_t[::1] offsets, const uint32_t[::1] lengths, Burst heads=None):
        cdef c.pb_dev *dev = <c.pb_dev *>queue.device()
        cdef int n = <int>offsets.shape[0], sent = -_errno.EBADF
        cdef unsigned asked = 0
        cdef const pb_desc *first = NULL
        if self.x == NULL:
            raise ValueError("the memory was closed")
        if not 1 <= n <= 64 or lengths.shape[0] != n:
            raise ValueError(f"{n} offsets and {lengths.shape[0]} lengths: 1 to 64 of each")
        if heads is not None:
            heads.alive()
            if heads.holds or heads.queue is not queue or heads.n != n:
                raise ValueError("heads: a burst of this queue, without views, with a frame for each piece")
            first = heads.d
            for i in range(n):
                asked |= first[i].flags
            if asked & ASKS:
                raise PybypassError.make("PB064", _errno.EOPNOTSUPP, "heads ask for a checksum, a stamp or a time")
        if not pb_flag_try(&queue.busy):
            raise PybypassError.make("PB014", _errno.EBUSY)
        with nogil:
            pb_flag_take(&self.lock)
            pb_flag_take(&queue.lock)
            if self.x != NULL:
                sent = c.pb_dpdk_ext_tx(dev, self.x, <const c.pb_desc *>first, &offsets[0], &lengths[0], n)
            pb_flag_drop(&queue.lock)
            pb_flag_drop(&self.lock)
        pb_flag_drop(&queue.busy)
        check(sent)
        if heads is not None:
            heads.sent_first(sent)
        return sent
