#include "mem/ring.h"

#include "base/handles.h"

#include <errno.h>
#include <stdlib.h>

int pb_ring_init(struct pb_ring *r, uint32_t slots, uint32_t elem_bytes)
{
	if (slots < 2 || slots > (1u << 24) || (slots & (slots - 1)) || !elem_bytes || elem_bytes > 4096)
		return -EINVAL;
	memset(r, 0, sizeof(*r));
	size_t bytes = (size_t)slots * elem_bytes;
	r->slots = aligned_alloc(PB_CACHE_LINE, (bytes + PB_CACHE_LINE - 1) & ~(size_t)(PB_CACHE_LINE - 1));
	if (!r->slots)
		return -ENOMEM;
	memset(r->slots, 0, bytes);
	r->mask = slots - 1;
	r->elem_bytes = elem_bytes;
	pb_handle_opened(PB_HANDLE_RING);
	return 0;
}

void pb_ring_fini(struct pb_ring *r)
{
	if (!r->slots)
		return;
	free(r->slots);
	r->slots = NULL;
	pb_handle_closed(PB_HANDLE_RING);
}

uint32_t pb_ring_put(struct pb_ring *r, const void *elems, uint32_t n)
{
	uint32_t room = pb_ring_room(r, n);
	if (n > room)
		n = room;
	for (uint32_t i = 0; i < n; i++)
		memcpy(pb_ring_prod_slot(r, i), (const uint8_t *)elems + (size_t)i * r->elem_bytes, r->elem_bytes);
	if (n)
		pb_ring_submit(r, n);
	return n;
}

uint32_t pb_ring_get(struct pb_ring *r, void *elems, uint32_t n)
{
	uint32_t avail = pb_ring_avail(r, n);
	if (n > avail)
		n = avail;
	for (uint32_t i = 0; i < n; i++)
		memcpy((uint8_t *)elems + (size_t)i * r->elem_bytes, pb_ring_cons_slot(r, i), r->elem_bytes);
	if (n)
		pb_ring_release(r, n);
	return n;
}

uint32_t pb_ring_count(const struct pb_ring *r)
{
	return atomic_load_explicit(&r->head, memory_order_acquire) -
	       atomic_load_explicit(&r->tail, memory_order_acquire);
}
