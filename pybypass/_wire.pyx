# cython: language_level=3
"""Checksums and hashes of the C core, for the slow path and for tests."""

from pybypass.c.types cimport uint32_t
from pybypass.c.wire cimport be16, pb_csum_finish, pb_csum_partial, pb_toeplitz


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
