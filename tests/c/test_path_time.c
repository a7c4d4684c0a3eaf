/* A path is driven by several threads in turn, and who waited for its turn comes with a time from before. */
#include "rig.h"

TEST(an_answer_before_the_question)
{
	struct rig_config c = rig_defaults();
	struct rig r;
	pb_tcp_handle client, listener;
	struct pb_tcp_info info;
	c.link = (struct pb_link_config){.capacity = 4096};
	REQUIRE(rig_open(&r, &c));
	struct pb_tcp_endpoint l = {r.ip[0], 5000}, d = {r.ip[1], 80};
	CHECK_EQ(pb_tcp_listen(rig_tcp(&r, 1), &d, 16, &listener), 0);
	CHECK_EQ(pb_tcp_connect(rig_tcp(&r, 0), &l, &d, r.now_ns, &client), 0);
	uint64_t before = r.now_ns - 20000;
	CHECK(pb_path_step(r.path[0], r.now_ns) > 0); /* the SYN */
	for (int i = 0; i < 4; i++) {
		CHECK(pb_path_step(r.path[1], r.now_ns) >= 0);
		CHECK(pb_path_step(r.path[0], before) >= 0); /* its answer, sooner than it left */
	}
	CHECK_EQ(pb_tcp_get_info(rig_tcp(&r, 0), client, &info), 0);
	CHECK_EQ(info.state, PB_TCP_ESTABLISHED);
	CHECK(info.srtt_us < 1000);
	CHECK(info.rto_us <= 1000000);
	CHECK(pb_path_push(r.path[0], before) >= 0);
	CHECK_EQ(r.path[0]->now_ns, r.now_ns);
	rig_close(&r);
}

MAIN(T(an_answer_before_the_question))
