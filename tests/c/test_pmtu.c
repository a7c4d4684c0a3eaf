#include "harness.h"
#include "net/pmtu.h"

static struct pb_pmtu cache;

static struct pb_ip v4(uint32_t n)
{
	return pb_ip_from4((const uint8_t[]){10, (uint8_t)(n >> 16), (uint8_t)(n >> 8), (uint8_t)n});
}

TEST(smaller_at_once_and_larger_only_after_its_time)
{
	struct pb_ip a = v4(1), b = v4(2);
	memset(&cache, 0, sizeof(cache));
	CHECK_EQ(pb_pmtu_get(&cache, &a, 1000), 0);
	CHECK_EQ(pb_pmtu_set(&cache, &a, 1400, 1000), 1400);
	CHECK_EQ(pb_pmtu_get(&cache, &a, 2000), 1400);
	CHECK_EQ(pb_pmtu_get(&cache, &b, 2000), 0);
	CHECK_EQ(pb_pmtu_set(&cache, &a, 1300, 3000), 1300);
	CHECK_EQ(pb_pmtu_set(&cache, &a, 1450, 4000), 1300); /* RFC 1191 5 */
	CHECK_EQ(pb_pmtu_get(&cache, &a, 3000 + PB_PMTU_LIFE_NS - 1), 1300);
	CHECK_EQ(pb_pmtu_get(&cache, &a, 3000 + PB_PMTU_LIFE_NS), 0);
	CHECK_EQ(pb_pmtu_set(&cache, &a, 1450, 3000 + PB_PMTU_LIFE_NS), 1450);
}

TEST(never_below_what_every_host_takes)
{
	struct pb_ip a = v4(1), six = pb_ip_from6((const uint8_t[16]){0xfd, [15] = 1});
	memset(&cache, 0, sizeof(cache));
	CHECK_EQ(pb_pmtu_set(&cache, &a, 68, 1), 576);
	CHECK_EQ(pb_pmtu_set(&cache, &six, 600, 1), 1280);
	CHECK_EQ(pb_pmtu_get(&cache, &six, 2), 1280);
}

/* Many destinations: the newest is always there, memory does not grow, and no answer belongs to another. */
TEST(as_many_as_there_are_places)
{
	memset(&cache, 0, sizeof(cache));
	for (uint32_t n = 0; n < 5000; n++) {
		struct pb_ip a = v4(n);
		CHECK_EQ(pb_pmtu_set(&cache, &a, 600 + n % 800, n + 1), 600 + n % 800);
		CHECK_EQ(pb_pmtu_get(&cache, &a, n + 2), 600 + n % 800);
	}
	uint32_t known = 0;
	for (uint32_t n = 0; n < 5000; n++) {
		struct pb_ip a = v4(n);
		uint32_t mtu = pb_pmtu_get(&cache, &a, 6000);
		CHECK(!mtu || mtu == 600 + n % 800);
		known += mtu != 0;
	}
	/* Spread over the sets. */
	CHECK(known > 200 && known <= PB_PMTU_SETS * PB_PMTU_WAYS);
}

MAIN(T(smaller_at_once_and_larger_only_after_its_time), T(never_below_what_every_host_takes),
     T(as_many_as_there_are_places))
