#include "base/handles.h"

#include <stdatomic.h>

static _Atomic int64_t live[PB_HANDLE_COUNT];

static const char *const names[PB_HANDLE_COUNT] = {
	[PB_HANDLE_REGION] = "region", [PB_HANDLE_POOL] = "pool", [PB_HANDLE_RING] = "ring",
	[PB_HANDLE_DEV] = "dev",       [PB_HANDLE_LINK] = "link", [PB_HANDLE_ENGINE] = "engine",
	[PB_HANDLE_PATH] = "path",     [PB_HANDLE_LOOP] = "loop",
};

void pb_handle_opened(enum pb_handle kind)
{
	atomic_fetch_add_explicit(&live[kind], 1, memory_order_relaxed);
}

void pb_handle_closed(enum pb_handle kind)
{
	atomic_fetch_sub_explicit(&live[kind], 1, memory_order_relaxed);
}

int64_t pb_handles_live(enum pb_handle kind)
{
	return atomic_load_explicit(&live[kind], memory_order_relaxed);
}

const char *pb_handle_name(unsigned kind)
{
	return kind < PB_HANDLE_COUNT ? names[kind] : "?";
}
