# cython: language_level=3
"""Checksums and hashes of the C core, for the slow path and for tests."""

from pybypass.c.types cimport uint32_t
from pybypass.c.wire cimport (
    PB_TOEPLITZ_IN_MAX,
    PB_TOEPLITZ_KEY_LEN,
    be16,
    pb_csum_finish,
    pb_csum_partial,
    pb_toeplitz,
    pb_toeplitz_key_default,
    pb_toeplitz_rows,
    pb_toeplitz_table,
    pb_toeplitz_table_init,
)

TOEPLITZ_KEY = (<const unsigned char *>pb_toeplitz_key_default)[:PB_TOEPLITZ_KEY_LEN]


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


def toeplitz_rows(const unsigned char[::1] key not None, const unsigned char[:, ::1] rows not None,
                  uint32_t[::1] hashes not None):
    cdef uint32_t width = rows.shape[1]
    cdef pb_toeplitz_table table
    if not 1 <= rows.shape[1] <= PB_TOEPLITZ_IN_MAX or hashes.shape[0] != rows.shape[0]:
        raise ValueError(f"rows of 1 to {PB_TOEPLITZ_IN_MAX} bytes, not {rows.shape[1]}, and a hash for each")
    if key.shape[0] < rows.shape[1] + 4:
        raise ValueError(f"a key for {rows.shape[1]} bytes has at least {rows.shape[1] + 4}, not {key.shape[0]}")
    if not rows.shape[0]:
        return
    with nogil:
        pb_toeplitz_table_init(&table, &key[0], <uint32_t>key.shape[0])
        pb_toeplitz_rows(&table, &rows[0, 0], width, rows.shape[0], &hashes[0])
