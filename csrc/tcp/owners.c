#include "tcp/owners.h"

#include "mem/ring.h"
#include "tcp/tcb.h"

#include <errno.h>
#include <stdlib.h>

#define BUCKET (PB_CACHE_LINE / sizeof(uint64_t))
/* Buckets that an entry may be in. The table is half full at most: hardly ever is none of these 32 places free. */
#define REACH 4

struct pb_tcp_owners {
	_Atomic uint64_t *slots; /* 0 is free; else the hash, and in the low byte the engine plus one */
	uint32_t mask;           /* of slots, without those within a bucket */
	uint8_t secret[16];
};

struct pb_tcp_owners *pb_tcp_owners_create(uint32_t flows, const uint8_t secret[16], int *err)
{
	*err = -EINVAL;
	if (!flows || flows > 1u << 26)
		return NULL;
	uint32_t slots = BUCKET * REACH;
	while (slots < 2 * flows)
		slots *= 2;
	*err = -ENOMEM;
	struct pb_tcp_owners *o = calloc(1, sizeof(*o));
	size_t bytes = slots * sizeof(uint64_t);
	if (!o)
		return NULL;
	o->slots = aligned_alloc(PB_CACHE_LINE, bytes);
	if (!o->slots) {
		free(o);
		return NULL;
	}
	for (uint32_t i = 0; i < slots; i++)
		atomic_init(&o->slots[i], 0);
	o->mask = slots - 1;
	memcpy(o->secret, secret, sizeof(o->secret));
	*err = 0;
	return o;
}

void pb_tcp_owners_destroy(struct pb_tcp_owners *o)
{
	if (!o)
		return;
	free(o->slots);
	free(o);
}

/* Bits 8 to 63 name the flow; the first of its slots in *at. */
static uint64_t hash_of(const struct pb_tcp_owners *o, const struct pb_tcp_endpoint *l, const struct pb_tcp_endpoint *r,
			uint32_t *at)
{
	struct {
		struct pb_ip l, r;
		uint16_t lport, rport;
		uint32_t zero;
	} in = {l->addr, r->addr, l->port, r->port, 0};
	_Static_assert(sizeof(in) == 40, "no padding goes into the hash");
	uint64_t h = siphash24(o->secret, &in, sizeof(in));
	*at = (uint32_t)h & o->mask & ~(uint32_t)(BUCKET - 1);
	return h & ~(uint64_t)0xff;
}

/* Changes the first slot that holds `from`. */
static bool swap_one(struct pb_tcp_owners *o, uint32_t at, uint64_t from, uint64_t to)
{
	for (uint32_t i = 0; i < REACH * BUCKET; i++) {
		_Atomic uint64_t *slot = &o->slots[(at + i) & o->mask];
		uint64_t seen = atomic_load_explicit(slot, memory_order_relaxed);
		if (seen == from && atomic_compare_exchange_strong_explicit(slot, &seen, to, memory_order_acq_rel,
									    memory_order_relaxed))
			return true;
	}
	return false;
}

bool pb_tcp_owners_add(struct pb_tcp_owners *o, const struct pb_tcp_endpoint *local,
		       const struct pb_tcp_endpoint *remote, uint32_t who)
{
	uint32_t at;
	uint64_t h = hash_of(o, local, remote, &at);
	return swap_one(o, at, 0, h | (who + 1));
}

bool pb_tcp_owners_del(struct pb_tcp_owners *o, const struct pb_tcp_endpoint *local,
		       const struct pb_tcp_endpoint *remote, uint32_t who)
{
	uint32_t at;
	uint64_t h = hash_of(o, local, remote, &at);
	return swap_one(o, at, h | (who + 1), 0);
}

int pb_tcp_owners_find(const struct pb_tcp_owners *o, const struct pb_tcp_endpoint *local,
		       const struct pb_tcp_endpoint *remote, uint32_t me)
{
	uint32_t at;
	uint64_t h = hash_of(o, local, remote, &at);
	for (uint32_t i = 0; i < REACH * BUCKET; i++) {
		uint64_t seen = atomic_load_explicit(&o->slots[(at + i) & o->mask], memory_order_acquire);
		if (seen && (seen & ~(uint64_t)0xff) == h && (seen & 0xff) != me + 1)
			return (int)(seen & 0xff) - 1;
	}
	return -1;
}

uint32_t pb_tcp_owners_count(const struct pb_tcp_owners *o)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i <= o->mask; i++)
		n += atomic_load_explicit(&o->slots[i], memory_order_relaxed) != 0;
	return n;
}
