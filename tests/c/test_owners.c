/* The table of who has which flow, alone and from several threads. */
#include "harness.h"
#include "tcp/owners.h"

#include <pthread.h>

static struct pb_tcp_endpoint end_of(uint32_t i)
{
	uint8_t a[4] = {10, (uint8_t)(i >> 16), (uint8_t)(i >> 8), (uint8_t)i};
	return (struct pb_tcp_endpoint){pb_ip_from4(a), (uint16_t)(i * 7 + 1)};
}

#define FLOWS 20000

TEST(table_of_owners)
{
	int err;
	uint8_t secret[16] = {3};
	struct pb_tcp_endpoint l = end_of(1);
	struct pb_tcp_owners *o = pb_tcp_owners_create(FLOWS, secret, &err);
	REQUIRE(o);
	for (uint32_t i = 0; i < FLOWS; i++) {
		struct pb_tcp_endpoint r = end_of(i);
		CHECK(pb_tcp_owners_add(o, &l, &r, i % PB_TCP_OWNERS_MAX));
	}
	CHECK_EQ(pb_tcp_owners_count(o), FLOWS);
	for (uint32_t i = 0; i < 2 * FLOWS; i++) {
		struct pb_tcp_endpoint r = end_of(i);
		uint32_t who = i % PB_TCP_OWNERS_MAX;
		CHECK_EQ(pb_tcp_owners_find(o, &l, &r, who ^ 1), i < FLOWS ? (int)who : -1);
		CHECK_EQ(pb_tcp_owners_find(o, &l, &r, who), -1);
		CHECK_EQ(pb_tcp_owners_find(o, &r, &l, who ^ 1), i == 1 ? 1 : -1);
	}
	for (uint32_t i = 0; i < FLOWS; i++) {
		struct pb_tcp_endpoint r = end_of(i);
		CHECK(!pb_tcp_owners_del(o, &l, &r, i % PB_TCP_OWNERS_MAX ^ 1));
		CHECK(pb_tcp_owners_del(o, &l, &r, i % PB_TCP_OWNERS_MAX));
	}
	CHECK_EQ(pb_tcp_owners_count(o), 0);
	pb_tcp_owners_destroy(o);
}

static struct pb_tcp_owners *shared;

static void *enter_and_leave(void *arg)
{
	uint32_t who = (uint32_t)(uintptr_t)arg, wrong = 0;
	struct pb_tcp_endpoint l = end_of(who);
	for (uint32_t round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < 2000; i++) {
			struct pb_tcp_endpoint r = end_of(i);
			wrong += !pb_tcp_owners_add(shared, &l, &r, who);
			wrong += pb_tcp_owners_find(shared, &l, &r, who + 1) != (int)who;
		}
		for (uint32_t i = 0; i < 2000; i++) {
			struct pb_tcp_endpoint r = end_of(i);
			wrong += !pb_tcp_owners_del(shared, &l, &r, who);
		}
	}
	return (void *)(uintptr_t)wrong;
}

TEST(table_of_owners_threads)
{
	int err;
	uint8_t secret[16] = {4};
	pthread_t t[4];
	void *wrong;
	shared = pb_tcp_owners_create(8000, secret, &err);
	REQUIRE(shared);
	for (uintptr_t i = 0; i < 4; i++)
		CHECK_EQ(pthread_create(&t[i], NULL, enter_and_leave, (void *)i), 0);
	for (int i = 0; i < 4; i++) {
		pthread_join(t[i], &wrong);
		CHECK_EQ((uintptr_t)wrong, 0);
	}
	CHECK_EQ(pb_tcp_owners_count(shared), 0);
	pb_tcp_owners_destroy(shared);
}

MAIN(T(table_of_owners), T(table_of_owners_threads))
