# cython: language_level=3
"""Checksums and hashes of the C core, for the slow path and for tests."""

from pybypass.c.types cimport uint8_t, uint32_t


cdef extern from "wire/csum.h" nogil:
    ctypedef struct be16:
        uint8_t b[2]
    uint32_t pb_csum_partial(const void *p, size_t n, uint32_t sum)
    be16 pb_csum_finish(uint32_t sum)

cdef extern from "wire/toeplitz.h" nogil:
    uint32_t pb_toeplitz(const uint8_t *key, uint32_t key_len, const uint8_t *data, uint32_t n)


def internet_checksum(const unsigned char[::1] data not None):
    cdef uint32_t s = 0
    if data.shape[0]:
        s = pb_csum_partial(&data[0], data.shape[0], 0)
    cdef be16 c = pb_csum_finish(s)
    return c.b[0] << 8 | c.b[1]


def toeplitz(const unsigned char[::1] key not None, const unsigned char[::1] data not None):
    if key.shape[0] < data.shape[0] + 4:
        raise ValueError(f"a key for {data.shape[0]} bytes has at least {data.shape[0] + 4}, not {key.shape[0]}")
    if not data.shape[0]:
        return 0
    return pb_toeplitz(&key[0], key.shape[0], &data[0], data.shape[0])
