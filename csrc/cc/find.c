/* The algorithms there are. */
#include "cc/cc.h"

#include <string.h>

static const struct pb_cc_ops *const all[] = {&pb_cc_cubic, &pb_cc_newreno};

const struct pb_cc_ops *pb_cc_at(unsigned i)
{
	return i < sizeof(all) / sizeof(all[0]) ? all[i] : NULL;
}

const struct pb_cc_ops *pb_cc_find(const char *name)
{
	if (!strcmp(name, "newreno"))
		return &pb_cc_newreno;
	for (unsigned i = 0; pb_cc_at(i); i++)
		if (!strcmp(all[i]->name, name))
			return all[i];
	return NULL;
}
