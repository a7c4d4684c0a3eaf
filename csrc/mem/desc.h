/* The descriptor: how every layer names a frame. 32 bytes that stay the same from the device to the application and
 * back, so a packet passes between layers without a copy and without a conversion. */
#ifndef PB_MEM_DESC_H
#define PB_MEM_DESC_H
#include "base/types.h"

enum pb_desc_flag {
	PB_DESC_CSUM_GOOD = 1u << 0,    /* the device verified the transport checksum */
	PB_DESC_CSUM_PARTIAL = 1u << 1, /* the transport checksum holds only the pseudo header */
	PB_DESC_VLAN = 1u << 2,         /* vlan holds a tag that was stripped */
	PB_DESC_MORE = 1u << 3,         /* the packet goes on in the next descriptor */
	PB_DESC_MARK = 1u << 4,         /* marked by a rule; `hash` is the mark, hash_type NONE */
	/* Asked of a device that says so in pb_dev.tx_flags, by the first descriptor of a packet to be sent. With
	 * CSUM_PARTIAL `hash` says where: the low half is where summing starts, the high half where in that the sum
	 * goes, bytes (pb_desc_csum()). */
	PB_DESC_TX_STAMP = 1u << 5, /* tell when it was sent: ops->stamps */
	PB_DESC_LAUNCH = 1u << 6,   /* send it at ts_ns of the NIC's clock */
	/* A SYN that the accept policy has judged, on its way back to the engine. */
	PB_DESC_ADMITTED = 1u << 7,
	PB_DESC_REFUSED = 1u << 8,
	PB_DESC_STRAY = 1u << 9, /* from the engine that got it to the one that owns its flow */
	PB_DESC_EOR = 1u << 10,  /* payload for the engine to send: its last byte ends a record (PB_TCP_EOR) */
	/* From an engine to a device that says so in pb_dev.tx_flags: the frame was sent by another descriptor too and
	 * is TX already. One more reference to it (dev.h). */
	PB_DESC_AGAIN = 1u << 11,
};

enum pb_ts_source {
	PB_TS_NONE = 0,
	PB_TS_HW = 1,     /* the NIC's clock */
	PB_TS_XDP = 2,    /* bpf_ktime_get_tai_ns() in the XDP program */
	PB_TS_USER = 3,   /* CLOCK_MONOTONIC, read once per burst in user space */
	PB_TS_KERNEL = 4, /* CLOCK_TAI, read by the kernel when a frame was sent */
};

/* Which fields went into the hash, as `enum xdp_rss_hash_type` groups them. */
enum pb_hash_type {
	PB_HASH_NONE = 0,
	PB_HASH_L2 = 1,
	PB_HASH_L3_V4 = 2,
	PB_HASH_L3_V6 = 3,
	PB_HASH_L4_V4 = 4,
	PB_HASH_L4_V6 = 5,
	PB_HASH_OTHER = 6, /* the device gave a hash and did not say of what */
};

struct pb_desc {
	uint64_t addr;  /* frame: offset of its first byte in the pool's region */
	uint64_t ts_ns; /* receive time; its clock is ts_source */
	uint32_t hash;
	uint16_t len; /* bytes of data */
	uint16_t off; /* data starts at addr + off */
	uint16_t vlan;
	uint16_t flags;
	uint8_t ts_source;
	uint8_t hash_type;
	uint16_t queue;
};
_Static_assert(sizeof(struct pb_desc) == 32, "two descriptors to a cache line");
_Static_assert(offsetof(struct pb_desc, len) == 20 && offsetof(struct pb_desc, queue) == 30, "ABI with NumPy");

static inline uint32_t pb_desc_csum(uint16_t start, uint16_t offset)
{
	return (uint32_t)offset << 16 | start;
}

/* Descriptors of the packet that starts at d[0], and its bytes; 0 if its end is not among the n. */
static inline uint32_t pb_desc_packet(const struct pb_desc *d, uint32_t n, uint32_t *bytes)
{
	*bytes = 0;
	for (uint32_t i = 0; i < n; i++) {
		*bytes += d[i].len;
		if (!(d[i].flags & PB_DESC_MORE))
			return i + 1;
	}
	return 0;
}

/* The largest number of descriptors that one pass handles. */
#define PB_BURST_MAX 64

/* References to one frame that may be under way at a time: PB_DESC_AGAIN is for the second to the last. */
#define PB_DESC_REFS_MAX 16
#endif
