# csrc/wire/csum.h, csrc/wire/toeplitz.h
from pybypass.c.types cimport uint8_t, uint32_t

cdef extern from "wire/csum.h" nogil:
    ctypedef struct be16:
        uint8_t b[2]
    uint32_t pb_csum_partial(const void *p, size_t n, uint32_t sum)
    be16 pb_csum_finish(uint32_t sum)

cdef extern from "wire/toeplitz.h" nogil:
    uint32_t pb_toeplitz(const uint8_t *key, uint32_t key_len, const uint8_t *data, uint32_t n)
