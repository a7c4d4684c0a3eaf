/* A one-word spin lock for sections of a few microseconds that are almost never contended. */
#ifndef PB_BASE_FLAG_H
#define PB_BASE_FLAG_H
#include "base/types.h"

static inline void pb_cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield");
#endif
}

static inline bool pb_flag_try(int *f)
{
	return !__atomic_exchange_n(f, 1, __ATOMIC_ACQUIRE);
}

static inline void pb_flag_take(int *f)
{
	while (!pb_flag_try(f))
		pb_cpu_relax();
}

static inline void pb_flag_drop(int *f)
{
	__atomic_store_n(f, 0, __ATOMIC_RELEASE);
}

/* How deep the calling thread is in calls that may wait: whoever closes what it is itself inside of would wait for
 * ever. */
static inline int *pb_call_depth(void)
{
	static __thread int depth;
	return &depth;
}
#endif
