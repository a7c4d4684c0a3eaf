#include "base/drops.h"

static const char *const names[] = {
#define X(id, name, why) name,
	PB_DROP_LIST(X)
#undef X
};

static const char *const whys[] = {
#define X(id, name, why) why,
	PB_DROP_LIST(X)
#undef X
};

const char *pb_drop_name(unsigned reason)
{
	return reason < PB_DROP_COUNT ? names[reason] : "?";
}

const char *pb_drop_why(unsigned reason)
{
	return reason < PB_DROP_COUNT ? whys[reason] : "?";
}
