#include "net/pmtu.h"

static uint32_t set_of(const struct pb_ip *dst)
{
	uint64_t h = (dst->q[0] ^ dst->q[1] * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
	return (uint32_t)(h >> 58) % PB_PMTU_SETS;
}

static bool is_live(const struct pb_pmtu_entry *e, uint64_t now_ns)
{
	return e->mtu && e->until_ns > now_ns;
}

uint32_t pb_pmtu_get(const struct pb_pmtu *p, const struct pb_ip *dst, uint64_t now_ns)
{
	const struct pb_pmtu_entry *e = p->e[set_of(dst)];
	for (uint32_t i = 0; i < PB_PMTU_WAYS; i++)
		if (is_live(&e[i], now_ns) && pb_ip_eq(&e[i].dst, dst))
			return e[i].mtu;
	return 0;
}

uint32_t pb_pmtu_set(struct pb_pmtu *p, const struct pb_ip *dst, uint32_t mtu, uint64_t now_ns)
{
	uint32_t least = pb_ip_is4(dst) ? PB_PMTU_MIN4 : PB_PMTU_MIN6;
	struct pb_pmtu_entry *e = p->e[set_of(dst)], *place = e;
	mtu = mtu < least ? least : mtu;
	for (uint32_t i = 0; i < PB_PMTU_WAYS; i++) {
		if (is_live(&e[i], now_ns) && pb_ip_eq(&e[i].dst, dst)) {
			if (mtu > e[i].mtu)
				return e[i].mtu; /* RFC 1191 5: a message never makes it larger */
			place = &e[i];
			break;
		}
		/* What is over counts as ending first. */
		uint64_t ends = is_live(&e[i], now_ns) ? e[i].until_ns : 0;
		uint64_t best = is_live(place, now_ns) ? place->until_ns : 0;
		if (ends < best)
			place = &e[i];
	}
	*place = (struct pb_pmtu_entry){.dst = *dst, .until_ns = now_ns + PB_PMTU_LIFE_NS, .mtu = mtu};
	return mtu;
}
