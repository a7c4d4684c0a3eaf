/* What a set-up that failed says of it: the words of the place, and those of the errno. */
#ifndef PB_BASE_FAIL_H
#define PB_BASE_FAIL_H
#include "base/types.h"

#include <stdarg.h>

/* Writes "what was asked for: why" into text, as far as there is room; err is -errno, or 0 without a why. */
PB_API void pb_fail_text(char *text, size_t room, int err, const char *fmt, va_list ap)
	__attribute__((format(printf, 4, 0)));
#endif
