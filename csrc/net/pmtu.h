/* The path MTU cache (RFC 1191 5 and 6.2, RFC 8201 5.2): what routers said that a path carries, by destination. An
 * entry is forgotten after ten minutes, so that a path that became wider is found out; it is made smaller at once and
 * never larger before that. Fixed size: of four places for a destination the one that ends first makes room. One
 * thread. */
#ifndef PB_NET_PMTU_H
#define PB_NET_PMTU_H
#include "base/types.h"

#define PB_PMTU_SETS 64u
#define PB_PMTU_WAYS 4u
#define PB_PMTU_LIFE_NS 600000000000ull
#define PB_PMTU_MIN4 576u  /* below this no router that we believe speaks (RFC 791: what every host takes) */
#define PB_PMTU_MIN6 1280u /* RFC 8200 5 */

struct pb_pmtu_entry {
	struct pb_ip dst;
	uint64_t until_ns;
	uint32_t mtu; /* 0: free */
	uint32_t pad;
};

struct pb_pmtu {
	struct pb_pmtu_entry e[PB_PMTU_SETS][PB_PMTU_WAYS];
};

/* The MTU of the path to dst, or 0 when nothing is known. */
PB_API uint32_t pb_pmtu_get(const struct pb_pmtu *p, const struct pb_ip *dst, uint64_t now_ns);
/* A router said mtu; less than the least is taken for the least. Returns what holds now. */
PB_API uint32_t pb_pmtu_set(struct pb_pmtu *p, const struct pb_ip *dst, uint32_t mtu, uint64_t now_ns);
#endif
