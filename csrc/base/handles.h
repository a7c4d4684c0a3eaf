/* Live handles by kind: what was created and not yet destroyed. Tests demand zero at the end. Never on the packet path.
 */
#ifndef PB_BASE_HANDLES_H
#define PB_BASE_HANDLES_H
#include "base/types.h"

enum pb_handle {
	PB_HANDLE_REGION,
	PB_HANDLE_POOL,
	PB_HANDLE_RING,
	PB_HANDLE_DEV,
	PB_HANDLE_LINK,
	PB_HANDLE_ENGINE,
	PB_HANDLE_PATH,
	PB_HANDLE_LOOP,
	PB_HANDLE_COUNT
};

PB_API void pb_handle_opened(enum pb_handle kind);
PB_API void pb_handle_closed(enum pb_handle kind);
PB_API int64_t pb_handles_live(enum pb_handle kind);
PB_API const char *pb_handle_name(unsigned kind);
#endif
