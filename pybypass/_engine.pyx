# cython: language_level=3
"""The engine of one queue: sockets over the rings of its loop. No call here makes a Python object per packet."""

import errno as _errno
import os
import threading

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EAGAIN
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from pybypass._convert cimport as_bytes, endpoint_in, fill_config, info_dict, ip_in, ip_out, report_dict, until_of
from pybypass._mem cimport Umem
from pybypass._port cimport Queue
from pybypass.c.dev cimport pb_dev
from pybypass.c.path cimport *
from pybypass.c.pool cimport PB_OWN_APP, pb_desc, pb_pool, pb_pool_cache, pb_pool_cache_create, pb_pool_cache_destroy, pb_pool_put
from pybypass.c.flag cimport pb_call_depth
from pybypass.c.stdlib cimport aligned_alloc, usleep
from pybypass.c.tcp cimport PB_TCP_ASK, pb_tcp_config, pb_tcp_config_default, pb_tcp_endpoint, pb_tcp_info
from pybypass.c.types cimport int64_t, pb_ip, uint8_t, uint16_t, uint32_t, uint64_t

from pybypass._convert import STATE_NAMES
from pybypass.errors import PybypassError, connection_error

CONNECTED, ACCEPT, READ, WRITE = PB_SOCK_CONNECTED, PB_SOCK_ACCEPT, PB_SOCK_READ, PB_SOCK_WRITE
FIN, CLOSED, ERROR, GONE = PB_SOCK_FIN, PB_SOCK_CLOSED, PB_SOCK_ERROR, PB_SOCK_GONE
REPLY, SLOWPATH, SENT = PB_SOCK_REPLY, PB_SOCK_SLOWPATH, PB_SOCK_SENT
WAIT_ANY, WAIT_SLOWPATH = -1, -2
EXC_REASONS = {PB_EXC_ARP: "arp", PB_EXC_ICMP: "icmp", PB_EXC_UDP: "udp", PB_EXC_IP_OTHER: "ip", PB_EXC_L2_OTHER: "l2",
               PB_EXC_NEIGH: "neigh", PB_EXC_ACCEPT: "accept"}

cdef int WAIT_ANY_C = -1
cdef uint64_t FOREVER = 0xffffffffffffffff
cdef uint64_t SLICE_NS = 50000000   # signals are looked at this often



cdef class EngineCore:
    cdef pb_path *path
    cdef pb_chan *chan
    cdef pb_app *app
    cdef pb_loop *loop
    cdef readonly Queue queue
    cdef readonly Umem umem
    cdef readonly object slowpath   # called when exceptions wait and this thread drives the path
    cdef public uint64_t spin_ns
    cdef pb_tap tap
    cdef pb_path_report report      # the loop writes it: it must outlive a caller that gives up
    cdef pb_net_routes routes       # the loop reads it: likewise
    cdef object asking              # one call that wants an answer at a time
    cdef int pid
    cdef int users                  # threads inside a call that may release the GIL
    cdef bint closing
    cdef long long holds
    cdef object __weakref__

    def __cinit__(self, Queue queue not None, list locals_, dict config, *, gw4=None, gw6=None, int vlan=0,
                  int max_socks=1024, slowpath=None):
        cdef pb_tcp_config cfg
        cdef pb_app_config acfg
        cdef int err = 0, rc
        cdef pb_dev *dev
        self.queue = queue
        self.umem = queue.umem
        self.pid = os.getpid()
        self.slowpath = slowpath
        self.spin_ns = 50000
        self.asking = threading.RLock()
        pb_tcp_config_default(&cfg)
        fill_config(&cfg, config)
        cfg.mtu = config.get("mtu", 0)
        acfg.max_socks = max_socks
        acfg.sndbuf_bytes = cfg.sndbuf_bytes
        acfg.reserve_frames = cfg.reserve_frames
        self.chan = <pb_chan *>aligned(sizeof(pb_chan))
        if self.chan == NULL:
            raise MemoryError
        rc = pb_chan_init(self.chan, 4096)
        if rc:
            free(self.chan)
            self.chan = NULL
            raise PybypassError.make("PB040", -rc, "rings")
        dev = queue.take(self)
        self.path = pb_path_create(dev, &cfg, self.chan, &err)
        if self.path == NULL:
            queue.untake(dev)
            raise PybypassError.make("PB040", -err, "the engine's limits", hint="see EngineConfig for the ranges")
        try:
            self.furnish(locals_, gw4, gw6, vlan, &acfg)
        except BaseException:
            self.destroy()
            queue.abandon()
            raise

    cdef int furnish(self, list locals_, gw4, gw6, int vlan, const pb_app_config *acfg) except -1:
        cdef pb_ip ip
        cdef int err = 0, rc
        for raw, prefix in locals_:
            ip_in(raw, &ip)
            rc = pb_net_add_local(&self.path.net, &ip, <unsigned>prefix)
            if rc:
                raise PybypassError.make("PB040", -rc, f"local address with prefix {prefix}")
        if gw4 is not None:
            ip_in(gw4, &self.path.net.gw4)
        if gw6 is not None:
            ip_in(gw6, &self.path.net.gw6)
        self.path.net.vlan = <uint16_t>vlan
        self.app = pb_app_create(self.path, acfg, &err)
        if self.app == NULL:
            raise PybypassError.make("PB001", -err, "the application's end")
        return 0

    def __dealloc__(self):
        self.destroy()

    cdef void destroy(self) noexcept:
        """Each pointer is taken out before the GIL goes, so that nobody finds what is being freed."""
        cdef pb_loop *loop = self.loop
        cdef pb_path *path = self.path
        cdef pb_app *app = self.app
        cdef pb_chan *chan = self.chan
        self.loop, self.path, self.app, self.chan = NULL, NULL, NULL, NULL
        if os.getpid() != self.pid:
            return   # a forked child: rings, device and memory are the parent's
        # The path before the application's end: what it owns goes back by the application's rings.
        with nogil:
            if loop != NULL:
                pb_loop_stop(loop)
            if path != NULL:
                pb_path_destroy(path)
            if app != NULL:
                pb_app_destroy(app)
            if chan != NULL:
                pb_chan_fini(chan)
                free(chan)
        free(self.tap.buf)
        self.tap.buf = NULL

    cdef pb_app *alive(self) except NULL:
        if self.app == NULL or self.closing:
            raise PybypassError.make("PB043", _errno.EBADF)
        if os.getpid() != self.pid:
            raise PybypassError.make("PB015", _errno.EBADF)
        return self.app

    cdef int enter(self) except -1:
        """Before anything that may release the GIL: close() waits until all have left."""
        self.alive()
        self.users += 1
        pb_call_depth()[0] += 1
        return 0

    cdef void leave(self) noexcept:
        self.users -= 1
        pb_call_depth()[0] -= 1

    @property
    def closed(self):
        return self.app == NULL

    @property
    def live_views(self):
        return self.holds

    def close(self, bint force=False):
        if self.app == NULL or self.closing:
            return
        if self.holds and not force:
            raise BufferError(f"{self.holds} views of received data are alive: drop them before the engine is closed")
        if pb_call_depth()[0] and os.getpid() == self.pid:
            raise PybypassError.make("PB045", _errno.EDEADLK)
        self.closing = True
        if os.getpid() == self.pid:
            pb_app_shut(self.app)
            while self.users:
                with nogil:
                    usleep(100)
        self.destroy()
        self.slowpath = None

    def in_use(self):
        """For the measuring loops in C: `with core.in_use() as pointer` keeps the engine from being closed."""
        return InUse(self)

    # ---- the loop ----

    def start_loop(self, int cpu, long long spin_ns):
        cdef pb_loop_config cfg
        cdef int err = 0
        self.enter()
        try:
            cfg.cpu = cpu
            cfg.spin_ns = FOREVER if spin_ns < 0 else <uint64_t>spin_ns
            pb_app_set_inline(self.app, False)
            self.loop = pb_loop_start(self.path, &cfg, &err)
            if self.loop == NULL:
                pb_app_set_inline(self.app, True)
                raise PybypassError.make("PB044", -err, f"cpu {cpu}")
        finally:
            self.leave()

    def stop_loop(self):
        cdef pb_loop *l = self.loop
        self.enter()
        try:
            self.loop = NULL
            if l != NULL:
                with nogil:
                    pb_loop_stop(l)
                pb_app_set_inline(self.app, True)
        finally:
            self.leave()

    @property
    def loop_cpu(self):
        return pb_loop_cpu(self.loop) if self.loop != NULL else -1

    def loop_info(self):
        cdef pb_loop_info i
        if self.loop == NULL:
            return None
        pb_loop_get_info(self.loop, &i)
        return {"cpu_s": i.cpu_ns / 1e9, "wall_s": i.wall_ns / 1e9, "sleeps": i.sleeps}

    @property
    def threaded(self):
        return self.loop != NULL

    cdef int check_loop(self) except -1:
        cdef int rc
        if self.loop != NULL:
            rc = pb_loop_error(self.loop)
            if rc:
                raise PybypassError.make("PB033", -rc)
        return 0

    cdef int kick(self) except -1:
        """After a call that gave the loop something to do: without a thread it is done here."""
        cdef int rc
        if self.loop == NULL:
            with nogil:
                rc = pb_app_progress(self.app)
            if rc < 0:
                raise PybypassError.make("PB033", -rc)
        return 0

    def wait(self, int s, unsigned mask, timeout=None):
        """Waits for what mask names; returns what is true, 0 at the timeout (seconds, None: for ever)."""
        self.enter()
        try:
            return self.wait_until(s, mask, until_of(timeout))
        finally:
            self.leave()

    cdef int wait_until(self, int s, unsigned mask, uint64_t until) except -1:
        cdef uint64_t stop, now, spin = self.spin_ns
        cdef int m
        while True:
            self.alive()
            now = pb_now_ns()
            stop = now + SLICE_NS
            if stop > until:
                stop = until
            with nogil:
                m = pb_app_wait(self.app, s, mask, stop, spin)
            if m < 0:
                self.alive()   # being closed is not the device's fault
                raise PybypassError.make("PB033", -m)
            if m & PB_SOCK_SLOWPATH and s != WAIT_SLOWPATH:
                if self.slowpath is not None:
                    self.slowpath()
                m &= ~PB_SOCK_SLOWPATH
                if m:
                    return m
                if pb_now_ns() < until:
                    continue
            if m:
                return m
            self.check_loop()
            PyErr_CheckSignals()
            if self.loop == NULL and self.slowpath is not None:
                self.slowpath()   # it may be waiting for neighbours that the kernel is to find
            if pb_now_ns() >= until:
                return 0
            spin = 0   # it has spun already

    # ---- sockets ----

    def connect(self, tuple local, tuple remote):
        cdef pb_tcp_endpoint l, r
        cdef int s
        self.enter()
        try:
            endpoint_in(local, &l)
            endpoint_in(remote, &r)
            s = pb_sock_connect(self.app, &l, &r)
            if s < 0:
                raise connection_error(-s)
            self.kick()
            return s
        finally:
            self.leave()

    def listen(self, tuple local, int backlog, bint ask=False):
        cdef pb_tcp_endpoint l
        cdef int s
        self.enter()
        try:
            endpoint_in(local, &l)
            s = pb_sock_listen(self.app, &l, <uint32_t>backlog | (PB_TCP_ASK if ask else 0))
            if s < 0:
                raise connection_error(-s)
            self.kick()
            return s
        finally:
            self.leave()

    def accept(self, int listener):
        """A socket that will become CONNECTED, or fail with EAGAIN."""
        cdef int s
        self.enter()
        try:
            s = pb_sock_accept(self.app, listener)
            if s < 0:
                raise connection_error(-s)
            self.kick()
            return s
        finally:
            self.leave()

    def poll(self, int s):
        self.alive()
        return pb_sock_poll(self.app, s)

    def error(self, int s):
        self.alive()
        return pb_sock_error(self.app, s)

    def name(self, int s):
        cdef pb_sock_name n
        self.alive()
        cdef int rc = pb_sock_get_name(self.app, s, &n)
        if rc:
            raise connection_error(-rc)
        return (ip_out(&n.local.addr), n.local.port), (ip_out(&n.remote.addr), n.remote.port)

    def send(self, int s, data, timeout=None, bint everything=False):
        """Bytes taken: at least one, or all of them when `everything`."""
        cdef const unsigned char[::1] src = as_bytes(data)
        cdef size_t done = 0, size = src.shape[0]
        cdef int64_t k
        cdef uint64_t until = 0
        cdef bint have_until = False
        self.enter()
        try:
            while done < size:
                with nogil:
                    k = pb_sock_send(self.app, s, &src[done], size - done)
                if k > 0:
                    done += k
                    self.kick()
                    if not everything:
                        break
                    continue
                if k != -EAGAIN:
                    raise connection_error(<int>-k)
                if timeout is not None and timeout <= 0:
                    if done:
                        break
                    raise connection_error(EAGAIN)
                if not have_until:
                    until = until_of(timeout)
                    have_until = True
                if not self.wait_until(s, PB_SOCK_WRITE | PB_SOCK_CLOSED | PB_SOCK_ERROR, until):
                    if done:
                        break
                    raise connection_error(_errno.ETIMEDOUT, "send")
            return done
        finally:
            self.leave()

    def recv_into(self, int s, buffer, timeout=None, size_t nbytes=0):
        """Bytes received; 0 at the end of the stream."""
        cdef unsigned char[::1] dst = as_bytes(buffer)
        cdef size_t size = dst.shape[0]
        cdef int64_t k
        cdef uint64_t until = 0
        cdef bint have_until = False
        self.enter()
        try:
            if nbytes and nbytes < size:
                size = nbytes
            if not size:
                return 0
            while True:
                with nogil:
                    k = pb_sock_recv(self.app, s, &dst[0], size)
                if k >= 0:
                    return k
                if k != -EAGAIN:
                    raise connection_error(<int>-k)
                if timeout is not None and timeout <= 0:
                    self.kick()
                    k = pb_sock_recv(self.app, s, &dst[0], size)
                    if k >= 0:
                        return k
                    raise connection_error(<int>-k)
                if not have_until:
                    until = until_of(timeout)
                    have_until = True
                if not self.wait_until(s, PB_SOCK_READ, until):
                    raise connection_error(_errno.ETIMEDOUT, "recv")
        finally:
            self.leave()

    def recv_view(self, int s, timeout=None):
        """One piece of received data where it lies, or None at the end of the stream."""
        cdef pb_desc d
        cdef int rc
        cdef uint64_t until = until_of(timeout)
        self.enter()
        try:
            while True:
                rc = pb_sock_recv_frame(self.app, s, &d)
                if rc == 1:
                    return np.frombuffer(make_span(self, s, &d), dtype=np.uint8)
                if rc == 0:
                    return None
                if rc != -EAGAIN:
                    raise connection_error(-rc)
                if timeout is not None and timeout <= 0:
                    self.kick()
                    if pb_sock_poll(self.app, s) & PB_SOCK_READ:
                        continue
                    raise connection_error(EAGAIN)
                if not self.wait_until(s, PB_SOCK_READ, until):
                    raise connection_error(_errno.ETIMEDOUT, "recv")
        finally:
            self.leave()

    cdef int call(self, int s, int rc, pb_tcp_info *info) except -1:
        """Waits for the loop's answer to a call that gave rc."""
        cdef uint64_t until = pb_now_ns() + 5000000000
        if rc != -_errno.EINPROGRESS:
            raise connection_error(-rc)
        while True:
            if not self.wait_until(s, PB_SOCK_REPLY, until):
                raise connection_error(_errno.ETIMEDOUT, "the loop does not answer")
            rc = pb_sock_reply(self.app, s, info)
            if rc != -_errno.EINPROGRESS:
                break
        if rc:
            raise connection_error(-rc)
        return 0

    def shutdown(self, int s, int how):
        cdef int rc
        self.enter()
        try:
            with self.asking:
                while True:
                    rc = pb_sock_shutdown(self.app, s, how)
                    if rc != -EAGAIN:
                        break
                    self.wait_until(WAIT_ANY, 0, pb_now_ns() + 1000000)   # the command ring is full
                self.call(s, rc, NULL)
        finally:
            self.leave()

    def set_nagle(self, int s, bint on):
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_set_nagle(self.app, s, on), NULL)
        finally:
            self.leave()

    def set_keepalive(self, int s, uint64_t idle_ns, uint64_t interval_ns, uint32_t probes):
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_set_keepalive(self.app, s, idle_ns, interval_ns, probes), NULL)
        finally:
            self.leave()

    def info(self, int s):
        cdef pb_tcp_info i
        self.enter()
        try:
            with self.asking:
                self.call(s, pb_sock_info(self.app, s), &i)
            return info_dict(&i)
        finally:
            self.leave()

    def close_sock(self, int s, bint abort=False):
        """Gives a socket up; also when the device is gone, which is no reason to fail."""
        cdef int rc
        self.enter()
        try:
            while True:
                rc = pb_sock_close(self.app, s, abort)
                if self.loop == NULL:
                    with nogil:
                        pb_app_progress(self.app)
                if rc != -EAGAIN:
                    return
                self.wait_until(WAIT_ANY, 0, pb_now_ns() + 1000000)
        finally:
            self.leave()

    def opened(self, int s):
        """Whether the engine ever had this socket: then it will be reported by freed()."""
        self.alive()
        return bool(pb_sock_poll(self.app, s) & PB_SOCK_OPENED)

    def freed(self):
        """(address, port) of each local end whose socket is gone since the last call."""
        cdef pb_tcp_endpoint ends[64]
        cdef int n = 64, i
        self.alive()
        out = []
        while n == 64:
            n = pb_app_freed(self.app, ends, 64)
            for i in range(n):
                out.append((ip_out(&ends[i].addr), ends[i].port))
        return out

    # ---- the slow path ----

    def exceptions(self):
        """[(reason, frame or None, next hop or None)]; frames are copied."""
        cdef pb_exc x[32]
        cdef pb_pool *pool = self.umem.handle()
        cdef int n, i
        self.alive()
        n = pb_app_exceptions(self.app, x, 32)
        out = []
        for i in range(n):
            if x[i].reason == PB_EXC_NEIGH:
                out.append(("neigh", None, ip_out(&x[i].addr)))
                continue
            out.append((EXC_REASONS.get(x[i].reason, "?"),
                        PyBytes_FromStringAndSize(<char *>pool.base + x[i].d.addr + x[i].d.off, x[i].d.len), None))
            pb_app_free(self.app, x[i].d.addr)
        return out

    def judged(self, bytes frame, bint admitted):
        """The verdict on the SYN in an "accept" exception; PB003 when there is no frame or no room to say it."""
        cdef int rc
        self.enter()
        try:
            rc = pb_app_judged(self.app, <const char *>frame, <uint32_t>len(frame), admitted)
            if rc:
                raise PybypassError.make("PB003" if rc == -_errno.ENOBUFS else "PB027", -rc, "judged")
            self.kick()
        finally:
            self.leave()

    def inject(self, bytes frame):
        cdef int rc
        self.enter()
        try:
            rc = pb_app_inject(self.app, <const char *>frame, <uint32_t>len(frame))
            if rc:
                raise PybypassError.make("PB003" if rc == -_errno.ENOBUFS else "PB027", -rc, "inject")
            self.kick()
        finally:
            self.leave()

    def set_neighbour(self, bytes addr, mac):
        cdef pb_ip ip
        cdef bytes raw = mac if mac is not None else b""
        cdef int rc
        self.enter()
        try:
            ip_in(addr, &ip)
            if mac is not None and len(raw) != 6:
                raise ValueError("a MAC address has 6 bytes")
            rc = pb_app_neigh(self.app, &ip, <const uint8_t *><const char *>raw if mac is not None else NULL)
            if rc:
                raise connection_error(-rc)
            self.kick()
        finally:
            self.leave()

    def set_routes(self, routes):
        """[(network, prefix length, gateway or None)] take the place of all routes but the static ones."""
        cdef pb_ip dst, gw
        cdef int rc
        self.enter()
        try:
            with self.asking:
                self.routes.n = 0
                for network, prefix, gateway in routes:
                    ip_in(network, &dst)
                    if gateway is not None:
                        ip_in(gateway, &gw)
                    rc = pb_net_routes_add(&self.routes, &dst, <unsigned>prefix, &gw if gateway is not None else NULL)
                    if rc:
                        raise PybypassError.make("PB040", -rc, "a route")
                self.ask(PB_CMD_ROUTES, &self.routes)
        finally:
            self.leave()

    # ---- the whole ----

    cdef int ask(self, pb_cmd_op op, void *ptr) except -1:
        """With `asking` held. ptr belongs to this object: the loop may write it after the caller has given up."""
        cdef uint64_t until = pb_now_ns() + 5000000000
        self.alive()
        while pb_app_call(self.app, op, ptr) != -_errno.EINPROGRESS:
            self.wait_until(WAIT_ANY, 0, pb_now_ns() + 1000000)
        while not pb_app_replied(self.app):
            if pb_now_ns() > until:
                self.check_loop()
                raise connection_error(_errno.ETIMEDOUT, "the loop does not answer")
            self.kick()
            if self.loop != NULL:
                with nogil:
                    pb_app_wait(self.app, WAIT_ANY_C, 0, pb_now_ns() + 1000000, 20000)
        return 0

    def stats(self):
        cdef pb_path_report r
        self.enter()
        try:
            with self.asking:
                if self.loop != NULL and pb_loop_error(self.loop):
                    self.stop_loop()
                self.ask(PB_CMD_STATS, &self.report)
                r = self.report
            return report_dict(&r)
        finally:
            self.leave()

    def capture_start(self, size_t nbytes):
        self.enter()
        try:
            with self.asking:
                if self.tap.buf != NULL:
                    raise PybypassError.make("PB040", _errno.EBUSY, "a capture is running")
                memset(&self.tap, 0, sizeof(self.tap))
                self.tap.buf = <uint8_t *>malloc(nbytes)
                if self.tap.buf == NULL:
                    raise MemoryError
                self.tap.size = nbytes
                try:
                    self.ask(PB_CMD_TAP, &self.tap)
                except BaseException:
                    self.tap.size = 0   # the loop may still take it up: it finds no room, and the buffer stays
                    raise
        finally:
            self.leave()

    def capture_stop(self):
        """(records, packets, dropped): each record is struct pb_tap_rec (ts_ns u64, len u32, out u32) and the packet."""
        self.enter()
        try:
            with self.asking:
                if self.tap.buf == NULL:
                    raise PybypassError.make("PB040", _errno.EINVAL, "no capture is running")
                self.ask(PB_CMD_TAP, NULL)
                data = PyBytes_FromStringAndSize(<char *>self.tap.buf, self.tap.used)
                free(self.tap.buf)
                self.tap.buf = NULL
                return data, self.tap.pkts, self.tap.dropped
        finally:
            self.leave()


cdef class InUse:
    cdef EngineCore core

    def __cinit__(self, EngineCore core):
        self.core = core

    def __enter__(self):
        self.core.enter()
        return <size_t>self.core.app

    def __exit__(self, *exc):
        self.core.leave()


cdef class Span:
    """Exports received data and pins its frame while anything is based on it."""
    cdef EngineCore core
    cdef int s
    cdef uint64_t serial
    cdef pb_desc d

    def __dealloc__(self):
        cdef int err = 0
        cdef pb_pool_cache *cache
        if self.core is None:
            return
        self.core.holds -= 1
        if self.core.app != NULL and not self.core.closing:
            pb_sock_release(self.core.app, self.s, self.serial, &self.d)
            return
        cache = pb_pool_cache_create(self.core.umem.handle(), &err)
        if cache != NULL:
            pb_pool_put(cache, self.d.addr, PB_OWN_APP)
            pb_pool_cache_destroy(cache)

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef pb_pool *pool = self.core.umem.handle()
        PyBuffer_FillInfo(view, self, pool.base + self.d.addr + self.d.off, self.d.len, 0, flags)


cdef Span make_span(EngineCore core, int s, const pb_desc *d):
    cdef Span span = Span.__new__(Span)
    span.core = core
    span.s = s
    span.serial = pb_sock_serial(core.app, s)
    span.d = d[0]
    core.holds += 1
    return span


cdef void *aligned(size_t n) noexcept:
    return aligned_alloc(64, (n + 63) & ~<size_t>63)
