# cython: language_level=3
"""Bursts of frames and what is based on them: descriptors, views, packets of several frames."""

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memmove

from pybypass.c.pool cimport (
    PB_BURST_MAX,
    PB_OWN_APP,
    pb_desc,
    pb_pool,
    pb_pool_cache,
    pb_pool_cache_create,
    pb_pool_cache_destroy,
    pb_pool_put,
)
from pybypass.c.types cimport uint64_t

from pybypass.errors import PybypassError

BURST_MAX = PB_BURST_MAX

DESC_DTYPE = np.dtype([
    ("addr", "<u8"), ("ts_ns", "<u8"), ("hash", "<u4"), ("len", "<u2"), ("off", "<u2"), ("vlan", "<u2"),
    ("flags", "<u2"), ("ts_source", "u1"), ("hash_type", "u1"), ("queue", "<u2"),
])
PACKET_DTYPE = np.dtype([("first", "<u4"), ("count", "<u4"), ("bytes", "<u4")])

CSUM_GOOD, CSUM_PARTIAL, VLAN, MORE, MARK, TX_STAMP, LAUNCH = 1, 2, 4, 8, 16, 32, 64
TS_SOURCES = ("none", "hardware", "xdp", "user", "kernel")
HASH_TYPES = ("none", "l2", "l3_v4", "l3_v6", "l4_v4", "l4_v6", "other")
cdef int MORE_FLAG = 8


cdef class Lender:
    def __init__(self, *args, **kwargs):
        raise TypeError("bursts come from the queues of pybypass.open()")

    cdef int give_back(self, Burst b) except -1:
        """The frames of a burst return to the pool, by a cache of their own: whatever lent them is gone."""
        cdef int i, err = 0
        cdef pb_pool_cache *cache = pb_pool_cache_create(self.umem.handle(), &err)
        if cache == NULL:
            raise PybypassError.make("PB001", -err)
        for i in range(b.n):
            pb_pool_put(cache, b.frames[i], PB_OWN_APP)
        pb_pool_cache_destroy(cache)
        return 0


cdef Burst new_burst(Lender lender, int cap):
    cdef Burst b = Burst.__new__(Burst)
    b.queue = lender
    b.cap = cap
    b.d = <pb_desc *>malloc(cap * (sizeof(pb_desc) + sizeof(uint64_t)))
    if b.d == NULL:
        raise MemoryError
    b.frames = <unsigned long long *>(b.d + cap)
    return b


cdef class Burst:
    def __init__(self, *args, **kwargs):
        raise TypeError("a Burst comes from rx_burst() or alloc_burst()")

    def __dealloc__(self):
        if self.d != NULL:
            if not self.released and self.queue is not None:
                self.queue.give_back(self)
            free(self.d)

    cdef int alive(self) except -1:
        if self.released:
            raise ValueError("the burst was released")
        return 0

    cdef int sent_first(self, int n) except -1:
        """The first n frames are somebody else's now."""
        self.queue.held -= n
        self.n -= n
        if self.n:
            memmove(self.d, self.d + n, self.n * sizeof(pb_desc))
            memmove(self.frames, self.frames + n, self.n * sizeof(uint64_t))
        self.array = None
        return 0

    def __len__(self):
        return self.n

    def __bool__(self):
        return self.n > 0

    def __enter__(self):
        self.alive()
        return self

    def __exit__(self, *exc):
        if not self.released:
            self.release()

    @property
    def desc(self):
        self.alive()
        if self.array is None:
            self.array = np.frombuffer(Descriptors(self), dtype=DESC_DTYPE)
        return self.array

    @property
    def live_views(self):
        return self.holds

    def view(self, Py_ssize_t i):
        self.alive()
        if i < 0:
            i += self.n
        if not 0 <= i < self.n:
            raise IndexError(f"frame {i} of a burst of {self.n}")
        return np.frombuffer(Hold(self, <int>i), dtype=np.uint8)

    def payload(self, Py_ssize_t i):
        self.alive()
        if i < 0:
            i += self.n
        if not 0 <= i < self.n:
            raise IndexError(f"frame {i} of a burst of {self.n}")
        return memoryview(Hold(self, <int>i))

    def write(self, Py_ssize_t i, data):
        cdef const unsigned char[::1] src = data
        cdef pb_pool *pool = self.queue.umem.handle()
        self.alive()
        if not 0 <= i < self.n:
            raise IndexError(f"frame {i} of a burst of {self.n}")
        if self.d[i].addr - self.frames[i] + self.d[i].off + src.shape[0] > pool.frame_bytes:
            raise ValueError(f"{src.shape[0]} bytes do not fit behind offset {self.d[i].off} of a frame")
        if src.shape[0]:
            memcpy(pool.base + self.frames[i] + (self.d[i].addr - self.frames[i]) + self.d[i].off, &src[0], src.shape[0])
        self.d[i].len = <unsigned short>src.shape[0]

    def packets(self):
        cdef int i, n = 0
        self.alive()
        out = np.zeros(self.n, dtype=PACKET_DTYPE)
        cdef unsigned int[:, ::1] rows = out.view(np.uint32).reshape(-1, 3)
        for i in range(self.n):
            if not rows[n, 1]:
                rows[n, 0] = i
            rows[n, 1] += 1
            rows[n, 2] += self.d[i].len
            if not self.d[i].flags & MORE_FLAG:
                n += 1
        if n < self.n and rows[n, 1]:
            raise ValueError(f"the packet that starts at frame {rows[n, 0]} has no end in this burst")
        return out[:n]

    def copy_packet(self, Py_ssize_t k):
        cdef pb_pool *pool = self.queue.umem.handle()
        cdef Py_ssize_t i, at = 0
        cdef uint64_t start
        found = self.packets()
        if not -len(found) <= k < len(found):
            raise IndexError(f"packet {k} of {len(found)}")
        cdef Py_ssize_t first = found[k]["first"], count = found[k]["count"]
        out = np.empty(found[k]["bytes"], dtype=np.uint8)
        cdef unsigned char[::1] to = out
        for i in range(first, first + count):
            start = self.d[i].addr - self.frames[i] + self.d[i].off
            if start + self.d[i].len > pool.frame_bytes:
                raise ValueError(f"descriptor {i} leaves its frame")
            if self.d[i].len:
                memcpy(&to[at], pool.base + self.frames[i] + start, self.d[i].len)
            at += self.d[i].len
        return out

    def write_packet(self, Py_ssize_t first, data):
        cdef const unsigned char[::1] src = data
        cdef pb_pool *pool = self.queue.umem.handle()
        cdef Py_ssize_t i = first, at = 0, room
        self.alive()
        if not src.shape[0]:
            raise ValueError("a packet has at least one byte")
        if not 0 <= first < self.n:
            raise IndexError(f"frame {first} of a burst of {self.n}")
        at = src.shape[0]
        while at > 0:
            if i == self.n:
                raise ValueError(f"{src.shape[0]} bytes do not fit the {self.n - first} frames from {first} on")
            if self.d[i].off >= pool.frame_bytes:
                raise ValueError(f"descriptor {i} begins behind its frame: off {self.d[i].off}")
            at -= <Py_ssize_t>pool.frame_bytes - self.d[i].off
            i += 1
        i, at = first, 0
        while at < src.shape[0]:
            room = min(<Py_ssize_t>pool.frame_bytes - self.d[i].off, src.shape[0] - at)
            self.d[i].addr = self.frames[i]
            memcpy(pool.base + self.frames[i] + self.d[i].off, &src[at], room)
            self.d[i].len = <unsigned short>room
            at += room
            self.d[i].flags = self.d[i].flags & ~MORE_FLAG | (MORE_FLAG if at < src.shape[0] else 0)
            i += 1
        return i - first

    def release(self):
        if self.released:
            return
        if self.holds:
            raise BufferError(f"{self.holds} views of this burst are alive: drop them before it is released")
        self.queue.give_back(self)
        self.released = True
        self.n = 0
        self.array = None


cdef class Descriptors:
    """Exports the descriptor array; it belongs to the burst and goes with it."""
    cdef Burst burst

    def __cinit__(self, Burst burst):
        self.burst = burst

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.burst.d, self.burst.n * sizeof(pb_desc), 0, flags)


cdef class Hold:
    """Exports one frame's data and pins the frame while anything is based on it."""
    cdef Burst burst
    cdef unsigned char *data
    cdef Py_ssize_t size

    def __cinit__(self, Burst burst, int i):
        cdef pb_pool *pool = burst.queue.umem.handle()
        cdef uint64_t start = burst.d[i].addr - burst.frames[i] + burst.d[i].off
        if start + burst.d[i].len > pool.frame_bytes:
            raise ValueError(f"descriptor {i} leaves its frame")
        self.burst = burst
        self.data = pool.base + burst.frames[i] + start
        self.size = burst.d[i].len
        burst.holds += 1
        burst.queue.holds += 1

    def __dealloc__(self):
        if self.burst is not None:
            self.burst.holds -= 1
            self.burst.queue.holds -= 1

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 0, flags)
