/* A packet to be sent again and again, with fields that vary and a stamp in its payload. Checksums stay right: the sum
 * of what does not change is taken once.
 *
 * The stamp is 16 bytes, little-endian: number (48 bits) and run (16 bits) in one word, then a time in ns. The run
 * tells packets of this measurement from all others. */
#ifndef PB_APP_TEMPLATE_H
#define PB_APP_TEMPLATE_H
#include "base/rng.h"
#include "base/types.h"

#define PB_TEMPLATE_MAX 9600
#define PB_TEMPLATE_FIELDS 8
#define PB_STAMP_LEN 16

enum pb_vary { PB_VARY_STEP = 0, PB_VARY_RANDOM = 1 };

/* A big-endian number of 1, 2 or 4 bytes at `off`, from lo to hi (both included): lo, lo + step, ... and round again,
 * or drawn from the template's generator. */
struct pb_field {
	uint16_t off;
	uint8_t bytes;
	uint8_t how; /* enum pb_vary */
	uint32_t lo, hi, step;
	uint32_t next; /* state */
};

struct pb_stamp {
	uint64_t seq;
	uint16_t run;
	uint64_t ns;
};

struct pb_template {
	uint16_t len;
	uint16_t l3_off;    /* 0: not IP, no checksum is touched */
	uint16_t l4_off;    /* 0: no transport checksum */
	uint16_t l4_csum;   /* where its field is */
	uint16_t stamp_off; /* 0: none */
	uint16_t run;
	bool ip4;
	uint8_t nfields;
	uint32_t l3_sum, l4_sum; /* of what does not vary */
	struct pb_field fields[PB_TEMPLATE_FIELDS];
	struct pb_rng rng;
	uint8_t frame[PB_TEMPLATE_MAX];
};

/* frame: Ethernet with up to two VLAN tags, IPv4 without options or IPv6 without extension headers, UDP or TCP; or
 * anything else, then with no checksum of ours. Its lengths must be right, its checksums need not be. stamp_off 0: the
 * packet carries no stamp. -EINVAL: a field or the stamp leaves the frame, lies over a length, a checksum or another,
 * or has lo > hi; lengths that do not agree. -EMSGSIZE: longer than PB_TEMPLATE_MAX. */
PB_API int pb_template_init(struct pb_template *t, const uint8_t *frame, uint32_t len, const struct pb_field *fields,
			    uint32_t nfields, uint32_t stamp_off, uint16_t run, uint64_t seed);
/* Writes the next packet, t->len bytes. */
PB_API void pb_template_write(struct pb_template *t, uint8_t *out, uint64_t seq, uint64_t stamp_ns);

static inline void pb_stamp_write(uint8_t *p, const struct pb_stamp *s)
{
	uint64_t w[2] = {(s->seq & 0xffffffffffffull) | (uint64_t)s->run << 48, s->ns};
	memcpy(p, w, sizeof(w));
}

static inline void pb_stamp_read(const uint8_t *p, struct pb_stamp *s)
{
	uint64_t w[2];
	memcpy(w, p, sizeof(w));
	s->seq = w[0] & 0xffffffffffffull;
	s->run = (uint16_t)(w[0] >> 48);
	s->ns = w[1];
}
#endif
