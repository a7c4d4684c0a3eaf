/* A small seeded generator (SplitMix64, Steele et al. 2014) for impairments and tests. Never for secrets. */
#ifndef PB_BASE_RNG_H
#define PB_BASE_RNG_H
#include "base/types.h"

struct pb_rng {
	uint64_t state;
};

static inline uint64_t pb_rng_u64(struct pb_rng *r)
{
	uint64_t z = (r->state += 0x9e3779b97f4a7c15u);
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* Uniform in [0, n); n > 0. Multiply-shift: the bias is below 2^-32 for the n used here. */
static inline uint32_t pb_rng_below(struct pb_rng *r, uint32_t n)
{
	return (uint32_t)((pb_rng_u64(r) >> 32) * n >> 32);
}

/* True with probability ppm / 1,000,000. */
static inline bool pb_rng_chance(struct pb_rng *r, uint32_t ppm)
{
	return ppm && pb_rng_below(r, 1000000) < ppm;
}
#endif
