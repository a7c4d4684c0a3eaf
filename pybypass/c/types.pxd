# csrc/base/types.h
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t, int32_t, int64_t

cdef extern from "base/types.h" nogil:
    cdef struct pb_ip:
        uint8_t b[16]
        uint64_t q[2]
    bint pb_ip_is4(const pb_ip *a)
