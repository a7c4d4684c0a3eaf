#define _GNU_SOURCE
#include "dev/xsk_prog.h"

#include "base/fail.h"

#include <stdarg.h>

static const char *const stages[PB_XSK_STAGE_COUNT] = {
#define X(id, name) name,
	PB_XSK_STAGE_LIST(X)
#undef X
};

static const char *const modes[] = {"auto", "native", "generic"};

const char *pb_xsk_stage_name(unsigned stage)
{
	return stage < PB_XSK_STAGE_COUNT ? stages[stage] : "?";
}

const char *pb_xsk_mode_name(unsigned mode)
{
	return mode < PB_ARRAY_LEN(modes) ? modes[mode] : "?";
}

int pb_xsk_fail_set(struct pb_xsk_fail *f, enum pb_xsk_stage stage, int err, const char *fmt, ...)
{
	f->err = err;
	f->stage = stage;
	va_list ap;
	va_start(ap, fmt);
	pb_fail_text(f->text, sizeof(f->text), err, fmt, ap);
	va_end(ap);
	return err;
}
