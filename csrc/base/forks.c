#include "base/forks.h"

#include <pthread.h>

uint32_t pb_forks;

static void in_child(void)
{
	pb_forks++;
}

__attribute__((constructor)) static void watch(void)
{
	(void)pthread_atfork(NULL, NULL, in_child);
}
