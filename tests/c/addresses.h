/* Two hosts of each IP version, for tests of what lies above IP. */
#ifndef PB_TESTS_ADDRESSES_H
#define PB_TESTS_ADDRESSES_H
#include "wire/ip.h"

static struct pb_ip a4, b4, a6, b6;

static void addresses(void)
{
	a4 = pb_ip_from4((const uint8_t[]){10, 0, 0, 1});
	b4 = pb_ip_from4((const uint8_t[]){10, 0, 0, 2});
	a6 = pb_ip_from6((const uint8_t[16]){0xfd, [15] = 1});
	b6 = pb_ip_from6((const uint8_t[16]){0xfd, [15] = 2});
}

#endif
