# cython: language_level=3
"""AF_XDP: opening devices and steering frames to them. The data path stays in C, behind the device's ops."""

import os
import socket

from cpython.pycapsule cimport PyCapsule_GetPointer, PyCapsule_New, PyCapsule_SetName
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from pybypass.c cimport xsk as c

# Capsules keep the pointer to their name, not a copy.
cdef const char *POOL_CAPSULE = b"pybypass.pb_pool.v1"
cdef const char *DEV_CAPSULE = b"pybypass.pb_dev.v1"
cdef const char *DEV_CLOSED = b"pybypass.pb_dev.v1.closed"

MODES = {"auto": c.PB_XSK_AUTO, "native": c.PB_XSK_NATIVE, "generic": c.PB_XSK_GENERIC}
SGS = {"auto": c.PB_XSK_SG_AUTO, "on": c.PB_XSK_SG_ON, "off": c.PB_XSK_SG_OFF}
SOCKETS_MAX = c.PB_XSK_SOCKETS
RSS_TABLE = c.PB_RSS_TABLE
RSS_KEY_BYTES = c.PB_RSS_KEY_BYTES
COPIES = {"auto": c.PB_XSK_COPY_AUTO, "zerocopy": c.PB_XSK_ZEROCOPY, "copy": c.PB_XSK_COPY}


cdef int lookup(dict names, str what, value) except -1:
    if value not in names:
        raise ValueError(f"{what} must be one of {', '.join(names)}, not {value!r}")
    return names[value]


cdef bytes object_dir(objdir):
    if objdir is None:
        objdir = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bpf")
    return os.fsencode(objdir)


cdef str text_of(const char *s):
    return (<bytes>s).decode("utf-8", "replace")


cdef dict fail_dict(const c.pb_xsk_fail *f):
    return {"stage": text_of(c.pb_xsk_stage_name(f.stage)), "errno": -f.err, "text": text_of(f.text)}


cdef object fail_error(const c.pb_xsk_fail *f, report):
    e = OSError(-f.err, text_of(f.text))
    e.stage = text_of(c.pb_xsk_stage_name(f.stage))
    e.report = report
    return e


cdef int check(int rc) except -1:
    if rc < 0:
        raise OSError(-rc, os.strerror(-rc))
    return rc


cdef int parse_ip(object ip, c.pb_ip *out) except -1:
    """IPv4 becomes ::ffff:a.b.c.d."""
    cdef bytes raw
    if isinstance(ip, str):
        raw = socket.inet_pton(socket.AF_INET6 if ":" in ip else socket.AF_INET, ip)
    else:
        raw = getattr(ip, "packed", None) or bytes(ip)
    if len(raw) == 4:
        raw = b"\0" * 10 + b"\xff\xff" + raw
    if len(raw) != 16:
        raise ValueError(f"not an IPv4 or IPv6 address: {ip!r}")
    memcpy(out.b, <const char *>raw, 16)
    return 0


cdef str format_ip(const c.pb_ip *ip):
    cdef bytes raw = ip.b[:16]
    if raw[:12] == b"\0" * 10 + b"\xff\xff":
        return socket.inet_ntop(socket.AF_INET, raw[12:])
    return socket.inet_ntop(socket.AF_INET6, raw)


cdef class XdpProgram:
    cdef c.pb_xsk_prog *p

    def __init__(self, int ifindex, str mode="auto", objdir=None):
        cdef c.pb_xsk_prog_config cfg
        cdef c.pb_xsk_fail fail
        cdef int err = 0
        cdef bytes path = object_dir(objdir)
        if self.p != NULL:
            raise ValueError("already open")
        if ifindex <= 0:
            raise ValueError(f"ifindex must be positive, not {ifindex}")
        memset(&cfg, 0, sizeof(cfg))
        cfg.ifindex = <c.uint32_t>ifindex
        cfg.mode = <c.pb_xsk_mode>lookup(MODES, "mode", mode)
        cfg.obj_dir = path
        with nogil:
            self.p = c.pb_xsk_prog_open(&cfg, &fail, &err)
        if self.p == NULL:
            raise fail_error(&fail, None)

    def __dealloc__(self):
        c.pb_xsk_prog_unref(self.p)

    def __enter__(self):
        self.handle()
        return self

    def __exit__(self, *exc):
        self.close()

    cdef c.pb_xsk_prog *handle(self) except NULL:
        if self.p == NULL:
            raise ValueError("the program was closed")
        return self.p

    def close(self):
        cdef c.pb_xsk_prog *p = self.p
        self.p = NULL
        with nogil:
            c.pb_xsk_prog_unref(p)

    @property
    def closed(self):
        return self.p == NULL

    def info(self):
        cdef c.pb_xsk_prog_info i
        c.pb_xsk_prog_get_info(self.handle(), &i)
        return {
            "ifindex": i.ifindex,
            "prog_id": i.prog_id,
            "mode": text_of(c.pb_xsk_mode_name(i.mode)),
            "metadata": bool(i.metadata),
            "no_metadata": text_of(i.no_metadata),
            "frags": bool(i.frags),
            "attached": bool(i.attached),
        }

    def steer_add(self, int proto, ip=None, int port_lo=0, port_hi=None):
        check(change(self.handle(), True, proto, ip, port_lo, port_lo if port_hi is None else port_hi))

    def steer_del(self, int proto, ip=None, int port_lo=0, port_hi=None):
        check(change(self.handle(), False, proto, ip, port_lo, port_lo if port_hi is None else port_hi))

    def steer_list(self):
        cdef int n = c.pb_xsk_steer_list(self.handle(), NULL, 0)
        cdef c.pb_steer_rule *rules
        cdef c.pb_steer_rule *r
        # Another thread may add some meanwhile.
        cdef int room = n + 64
        rules = <c.pb_steer_rule *>malloc(room * sizeof(c.pb_steer_rule))
        if rules == NULL:
            raise MemoryError
        try:
            n = min(c.pb_xsk_steer_list(self.p, rules, room), room)
            out = []
            for i in range(n):
                r = &rules[i]
                out.append((r.proto, None if r.any_ip else format_ip(&r.ip), r.lo, r.hi, r.refs))
            return out
        finally:
            free(rules)

    def act_add(self, dict rule, unsigned int priority):
        cdef c.pb_act act
        act_of(rule, &act)
        cdef int number = c.pb_xsk_act_add(self.handle(), &act, priority)
        check(number)
        return number

    def act_del(self, unsigned int number):
        check(c.pb_xsk_act_del(self.handle(), number))

    def act_count(self, unsigned int number):
        cdef c.pb_act_counters n
        check(c.pb_xsk_act_count(self.handle(), number, &n))
        return n.pkts, n.bytes

    def rss_on(self, int queue, const unsigned char[::1] key not None, const unsigned char[::1] table not None):
        if key.shape[0] != RSS_KEY_BYTES or table.shape[0] != RSS_TABLE:
            raise ValueError(f"a key has {RSS_KEY_BYTES} bytes and a table {RSS_TABLE}")
        check(c.pb_xsk_rss_on(self.handle(), <c.uint32_t>queue, &key[0], &table[0]))

    def rss_table(self, int queue, const unsigned char[::1] table not None):
        if table.shape[0] != RSS_TABLE:
            raise ValueError(f"a table has {RSS_TABLE} bytes")
        check(c.pb_xsk_rss_table(self.handle(), <c.uint32_t>queue, &table[0]))

    def rss_off(self, int queue):
        c.pb_xsk_rss_off(self.handle(), <c.uint32_t>queue)

    def counters(self):
        cdef c.pb_steer_counters n
        check(c.pb_xsk_prog_counters(self.handle(), &n))
        return {
            "redirected": n.redirected,
            "passed": n.passed,
            "icmp_redirected": n.icmp_redirected,
            "meta_failed": n.meta_failed,
            "dropped": n.dropped,
        }


cdef int take_address(tuple pair, c.uint32_t *value, c.uint32_t *mask) except -1:
    """4 bytes, 16 or none: the last ones of the field."""
    cdef bytes raw = pair[0], bits = pair[1]
    cdef size_t n = len(raw)
    memcpy(<char *>value + 16 - n, <const char *>raw, n)
    memcpy(<char *>mask + 16 - n, <const char *>bits, n)
    return 0


cdef int take_ports(tuple match, c.pb_act_ports *out) except -1:
    out.lo, out.mask, out.hi = match
    if not out.hi:
        out.hi = out.lo
    return 0


cdef int act_of(dict rule, c.pb_act *act) except -1:
    """From Rule.for_core()."""
    memset(act, 0, sizeof(act[0]))
    take_address(rule["src_ip"], act.src, act.src_mask)
    take_address(rule["dst_ip"], act.dst, act.dst_mask)
    take_ports(rule["src_port"], &act.sport)
    take_ports(rule["dst_port"], &act.dport)
    act.eth_type, act.eth_mask = map(socket.htons, rule["eth_type"])
    act.version = rule["version"]
    act.proto, act.proto_mask = rule["proto"]
    act.tcp_flags, act.tcp_mask = rule["tcp_flags"]
    if act.sport.mask or act.dport.mask:
        act.needs |= c.PB_ACT_PORTS
    if act.tcp_mask:
        act.needs |= c.PB_ACT_FLAGS
    act.drops = rule["fate"] == "drop"
    act.marks = rule["mark"] is not None
    act.mark = rule["mark"] or 0
    act.counts = rule["count"]
    return 0


cdef int change(c.pb_xsk_prog *p, bint add, int proto, ip, int lo, int hi) except? -1:
    cdef c.pb_ip addr
    cdef c.pb_ip *at = NULL
    if not (0 <= proto <= 255 and 0 <= lo <= hi <= 65535):
        raise ValueError(f"protocol {proto}, ports {lo} to {hi}: out of range")
    if ip is not None:
        parse_ip(ip, &addr)
        at = &addr
    if add:
        return c.pb_xsk_steer_add(p, <c.uint8_t>proto, at, <c.uint16_t>lo, <c.uint16_t>hi)
    return c.pb_xsk_steer_del(p, <c.uint8_t>proto, at, <c.uint16_t>lo, <c.uint16_t>hi)


cdef dict report_dict(const c.pb_xsk_report *r):
    cdef const c.pb_xsk_rung *g
    rungs = []
    for i in range(r.nrungs):
        g = &r.rungs[i]
        copy = "zerocopy" if g.copy == c.PB_XSK_ZEROCOPY else "copy"
        rungs.append({"mode": text_of(c.pb_xsk_mode_name(g.mode)), "copy": copy, **fail_dict(&g.fail)})
    return {
        **fail_dict(&r.fail),
        "rungs": rungs,
        "mode": text_of(c.pb_xsk_mode_name(r.mode)),
        "zerocopy": bool(r.zerocopy),
        "metadata": bool(r.metadata),
        "no_metadata": text_of(r.no_metadata),
        "frags": bool(r.frags),
        "prog_id": r.prog_id,
        "ifindex": r.ifindex,
        "mtu": r.mtu,
        "rx_queues": r.rx_queues,
        "bind_retries": r.bind_retries,
        "filled": r.filled,
        "tx_budget": r.tx_budget,
        "frame_room": r.frame_room,
        "sg": bool(r.sg),
        "tx_sg": bool(r.tx_sg),
        "umem_shared": bool(r.umem_shared),
        "tx_csum": bool(r.tx_csum),
        "tx_stamp": bool(r.tx_stamp),
        "tx_launch": bool(r.tx_launch),
        "busy_poll_us": r.busy_poll_us,
        "busy_budget": r.busy_budget,
        "no_busy_poll": text_of(r.no_busy_poll), "no_tx_meta": text_of(r.no_tx_meta),
    }


def open_device(str ifname, int queue, pool_capsule, *, str mode="auto", str copy="auto", int rx_ring=2048,
                int tx_ring=2048, int fill_ring=2048, int comp_ring=2048, int deadline_ms=2000, objdir=None,
                str sg="auto", int sockets=1, int fill_max=0, int headroom=0, bint unaligned=False,
                bint own_umem=False, bint tx_meta=False, bint no_meta=False, int tx_zc_flags=0, int tx_zc_segs=0,
                int busy_poll_us=0, int busy_budget=0):
    cdef c.pb_xsk_config cfg
    cdef c.pb_xsk_report report
    cdef c.pb_dev *dev
    cdef int err = 0
    cdef bytes path = object_dir(objdir)
    cdef bytes name = os.fsencode(ifname)
    cdef c.pb_pool *pool = <c.pb_pool *>PyCapsule_GetPointer(pool_capsule, POOL_CAPSULE)
    if not 0 < len(name) < 16 or b"\0" in name:
        raise ValueError(f"not an interface name: {ifname!r}")
    if not 0 <= queue <= 65535:
        raise ValueError(f"queue {queue} out of range")
    if min(rx_ring, tx_ring, fill_ring, comp_ring) <= 0 or deadline_ms < 0:
        raise ValueError("ring sizes must be positive and the deadline not negative")
    if min(sockets, fill_max, headroom, tx_zc_segs, busy_poll_us, busy_budget) < 0:
        raise ValueError("sockets, fill_max, headroom, tx_zc_segs, busy_poll_us and busy_budget must not be negative")
    c.pb_xsk_config_init(&cfg)
    memcpy(cfg.ifname, <const char *>name, len(name) + 1)
    cfg.queue = <c.uint16_t>queue
    cfg.mode = <c.pb_xsk_mode>lookup(MODES, "mode", mode)
    cfg.copy = <c.pb_xsk_copy>lookup(COPIES, "copy", copy)
    cfg.rx_ring, cfg.tx_ring = <c.uint32_t>rx_ring, <c.uint32_t>tx_ring
    cfg.fill_ring, cfg.comp_ring = <c.uint32_t>fill_ring, <c.uint32_t>comp_ring
    cfg.deadline_ms = <c.uint32_t>deadline_ms
    cfg.obj_dir = path
    cfg.sg = <c.pb_xsk_sg>lookup(SGS, "sg", sg)
    cfg.sockets, cfg.fill_max, cfg.headroom = <c.uint32_t>sockets, <c.uint32_t>fill_max, <c.uint32_t>headroom
    cfg.unaligned, cfg.own_umem, cfg.tx_meta, cfg.tx_zc_flags = unaligned, own_umem, tx_meta, <c.uint16_t>tx_zc_flags
    cfg.no_meta, cfg.tx_zc_segs = no_meta, <c.uint32_t>tx_zc_segs
    cfg.busy_poll_us, cfg.busy_budget = <c.uint32_t>busy_poll_us, <c.uint32_t>busy_budget
    with nogil:
        dev = c.pb_dev_xsk_open(&cfg, pool, &report, &err)
    result = report_dict(&report)
    if dev == NULL:
        raise fail_error(&report.fail, result)
    program = <XdpProgram>XdpProgram.__new__(XdpProgram)
    (<XdpProgram>program).p = c.pb_dev_xsk_prog(dev)
    return PyCapsule_New(dev, DEV_CAPSULE, NULL), program, result


def join_device(dev_capsule):
    cdef c.pb_xsk_report report
    cdef c.pb_dev *first = <c.pb_dev *>PyCapsule_GetPointer(dev_capsule, DEV_CAPSULE)
    cdef c.pb_dev *dev
    cdef int err = 0
    with nogil:
        dev = c.pb_dev_xsk_join(first, &report, &err)
    result = report_dict(&report)
    if dev == NULL:
        raise fail_error(&report.fail, result)
    return PyCapsule_New(dev, DEV_CAPSULE, NULL), result


def device_info(dev_capsule):
    cdef c.pb_xsk_info i
    c.pb_dev_xsk_get_info(<c.pb_dev *>PyCapsule_GetPointer(dev_capsule, DEV_CAPSULE), &i)
    return {
        "fill_target": i.fill_target,
        "fill_posted": i.fill_posted,
        "fill_low": i.fill_low,
        "pool_empty": i.pool_empty,
        "tx_eagain": i.tx_eagain,
        "meta_missing": i.meta_missing,
        "stamps_lost": i.stamps_lost,
        "tx_outstanding": i.tx_outstanding,
        "member": i.member,
    }


def close_device(dev_capsule):
    cdef c.pb_dev *dev = <c.pb_dev *>PyCapsule_GetPointer(dev_capsule, DEV_CAPSULE)
    # A second use of the capsule fails instead of touching freed memory.
    PyCapsule_SetName(dev_capsule, DEV_CLOSED)
    with nogil:
        dev.ops.close(dev)
