# csrc/mem/desc.h, csrc/mem/pool.h, csrc/mem/region.h
from pybypass.c.types cimport uint8_t, uint16_t, uint32_t, uint64_t, int64_t

cdef extern from "mem/desc.h" nogil:
    enum: PB_BURST_MAX
    cdef struct pb_desc:
        uint64_t addr
        uint64_t ts_ns
        uint32_t hash
        uint16_t len
        uint16_t off
        uint16_t vlan
        uint16_t flags
        uint8_t ts_source
        uint8_t hash_type
        uint16_t queue

cdef extern from "mem/region.h" nogil:
    cdef enum pb_page_want:
        PB_WANT_BEST
        PB_WANT_HUGETLB
        PB_WANT_THP
        PB_WANT_4K
    cdef struct pb_region

cdef extern from "mem/pool.h" nogil:
    cdef enum pb_owner:
        PB_OWN_FREE
        PB_OWN_FILL
        PB_OWN_RX
        PB_OWN_APP
        PB_OWN_ENGINE
        PB_OWN_TX
        PB_OWN_COUNT
    cdef struct pb_pool:
        uint8_t *base
        uint32_t frame_bytes
        uint32_t frame_shift
        uint32_t nframes, stride, lead
    cdef struct pb_pool_cache:
        pb_pool *pool
    cdef struct pb_pool_info:
        uint64_t frames
        uint64_t frame_bytes, lead
        uint64_t region_bytes
        uint32_t pages
        uint32_t debug
        int64_t own[6]
        uint64_t violations
    pb_pool *pb_pool_create_lead(uint32_t nframes, uint32_t frame_bytes, uint32_t lead, pb_page_want want, int *err)
    void pb_pool_ref(pb_pool *p)
    void pb_pool_unref(pb_pool *p)
    void pb_pool_get_info "pb_pool_info"(pb_pool *p, pb_pool_info *info)
    const char *pb_owner_name(unsigned owner)
    pb_pool_cache *pb_pool_cache_create(pb_pool *p, int *err)
    void pb_pool_cache_destroy(pb_pool_cache *c)
    uint32_t pb_pool_get(pb_pool_cache *c, uint64_t *addrs, uint32_t n, uint32_t reserve, pb_owner to)
    void pb_pool_put(pb_pool_cache *c, uint64_t addr, pb_owner frm)
    void pb_pool_move_descs(pb_pool_cache *c, const pb_desc *d, uint32_t n, pb_owner frm, pb_owner to)
    void pb_pool_move(pb_pool_cache *c, uint64_t addr, pb_owner frm, pb_owner to)
    uint64_t pb_pool_frame(const pb_pool *p, uint64_t addr)
