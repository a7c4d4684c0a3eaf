# csrc/wire/csum.h, csrc/wire/toeplitz.h
from pybypass.c.types cimport uint8_t, uint32_t

cdef extern from "wire/csum.h" nogil:
    ctypedef struct be16:
        uint8_t b[2]
    uint32_t pb_csum_partial(const void *p, size_t n, uint32_t sum)
    be16 pb_csum_finish(uint32_t sum)

cdef extern from "wire/toeplitz.h" nogil:
    const uint8_t *pb_toeplitz_key_default
    uint32_t PB_TOEPLITZ_KEY_LEN
    uint32_t PB_TOEPLITZ_IN_MAX
    struct pb_toeplitz_table:
        pass
    void pb_toeplitz_table_init(pb_toeplitz_table *t, const uint8_t *key, uint32_t key_len)
    void pb_toeplitz_rows(const pb_toeplitz_table *t, const uint8_t *rows, uint32_t row_bytes, size_t n, uint32_t *hashes)
    uint32_t pb_toeplitz(const uint8_t *key, uint32_t key_len, const uint8_t *data, uint32_t n)
