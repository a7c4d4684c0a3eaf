#define _GNU_SOURCE
#include "base/fail.h"

#include <stdio.h>
#include <string.h>

void pb_fail_text(char *text, size_t room, int err, const char *fmt, va_list ap)
{
	int n = vsnprintf(text, room, fmt, ap);
	const char *why = err ? strerrordesc_np(-err) : NULL;
	if (why && n >= 0 && (size_t)n < room)
		snprintf(text + n, room - (size_t)n, ": %s", why);
}
