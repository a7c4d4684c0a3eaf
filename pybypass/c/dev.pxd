# csrc/dev/dev.h, csrc/dev/mem.h, csrc/dev/fault.h, csrc/link/link.h
from pybypass.c.drops cimport pb_drops
from pybypass.c.pool cimport pb_desc, pb_owner, pb_pool, pb_pool_cache
from pybypass.c.types cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "dev/dev.h" nogil:
    enum: PB_DEV_ABI
    cdef struct pb_dev_stats:
        uint64_t rx_pkts, rx_bytes, tx_pkts, tx_bytes
        uint64_t rx_wakeups, tx_wakeups, rx_fill_empty, tx_stamps_lost
        pb_drops drops
    cdef struct pb_tx_stamp:
        uint64_t seq, addr, ns
        uint32_t source
    cdef struct pb_dev_ops:
        uint32_t abi
        const char *name
        uint64_t (*next_ns)(pb_dev *dev) noexcept nogil
        int (*fd)(pb_dev *dev) noexcept nogil
        void (*stats)(pb_dev *dev) noexcept nogil
        void (*close)(pb_dev *dev) noexcept nogil
        int (*stamps)(pb_dev *dev, pb_tx_stamp *out, int n) noexcept nogil
    cdef struct pb_dev:
        const pb_dev_ops *ops
        pb_pool *pool
        pb_pool_cache *cache
        uint16_t queue
        uint16_t mtu
        uint8_t mac[6]
        bint tx_pending
        bint link_up
        uint16_t tx_flags
        uint16_t chain_max
        pb_dev_stats stats
    int pb_dev_rx(pb_dev *dev, pb_desc *d, int n, uint64_t now_ns)
    int pb_dev_tx(pb_dev *dev, const pb_desc *d, int n, pb_owner frm, uint64_t now_ns)
    int pb_dev_reap(pb_dev *dev, uint64_t *addrs, int n, uint64_t now_ns)
    bint pb_dev_chains_again(const pb_dev *dev)

cdef extern from "dev/mem.h" nogil:
    cdef struct pb_dev_mem_config:
        uint32_t ring_size
        uint32_t mtu
        uint64_t completion_delay_ns
        bint completion_reorder
        uint64_t seed
    pb_dev *pb_dev_mem_open(const char *name, pb_pool *pool, const pb_dev_mem_config *cfg, int *err)
    int pb_dev_mem_end(const pb_dev *dev)

cdef extern from "link/link.h" nogil:
    cdef struct pb_link_config:
        uint64_t rate_bps
        uint64_t delay_ns
        uint64_t jitter_ns
        uint32_t queue_bytes
        uint32_t loss_ppm
        uint32_t dup_ppm
        uint32_t corrupt_ppm
        uint32_t reorder_ppm
        uint64_t reorder_ns
        uint32_t capacity
        uint64_t seed

cdef extern from "dev/fault.h" nogil:
    pb_dev *pb_dev_fault_open(pb_dev *inner, const pb_link_config *rx, const pb_link_config *tx, int *err)
