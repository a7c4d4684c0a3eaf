/* The host for scripts: options of sockets, knobs, layouts of what is sent, configurations. */
#include "host_world.h"

TEST(options_keep_linux_rules)
{
	struct world world, *w = &world;
	uint8_t byte = 0x10;
	REQUIRE(world_open(w));
	int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0);
	CHECK_EQ(set_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF, 21000), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF), 42000);
	CHECK_EQ(set_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF, 1), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_SNDBUF), 4608);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, LX_TCP_MAXSEG, 10), -EINVAL);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, LX_TCP_KEEPCNT, 128), -EINVAL);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, LX_TCP_NODELAY, 7), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_NODELAY), 1);
	CHECK_EQ(set_int(w, s, LX_SOL_TCP, 9999, 1), -ENOPROTOOPT);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_TCP, LX_TCP_NODELAY, &byte, 1), -EINVAL);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_TCP, LX_TCP_NODELAY, NULL, 4), -EFAULT);
	CHECK_EQ(pb_host_setsockopt(w->h, s, LX_SOL_IP, LX_IP_TOS, &byte, 1), 0);
	CHECK_EQ(get_int(w, s, LX_SOL_IP, LX_IP_TOS), 0x10);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_TYPE), LX_SOCK_STREAM);
	CHECK_EQ(get_int(w, s, LX_SOL_SOCKET, LX_SO_ACCEPTCONN), 0);
	/* What a listener has, its children have. */
	CHECK_EQ(pb_host_close(w->h, s), 0);
	int l = listener(w);
	CHECK_EQ(set_int(w, l, LX_SOL_TCP, LX_TCP_KEEPIDLE, 77), 0);
	s = accepted(w, l);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_KEEPIDLE), 77);
	CHECK_EQ(get_int(w, s, LX_SOL_TCP, LX_TCP_MAXSEG), 1000);
	struct pb_lx_tcp_info i;
	uint32_t n = sizeof(i);
	CHECK_EQ(pb_host_getsockopt(w->h, s, LX_SOL_TCP, LX_TCP_INFO, &i, &n), 0);
	CHECK_EQ(n, sizeof(i));
	CHECK_EQ(i.state, LX_ESTABLISHED);
	CHECK_EQ(i.snd_cwnd, 10);
	CHECK_EQ(i.snd_ssthresh, LX_TCP_INFINITE_SSTHRESH);
	CHECK_EQ(i.options, LX_TCPI_OPT_SACK | LX_TCPI_OPT_WSCALE);
	CHECK_EQ(i.wscale & 15, 7);
	n = 6;
	CHECK_EQ(pb_host_getsockopt(w->h, s, LX_SOL_TCP, LX_TCP_INFO, &i, &n), 0);
	CHECK_EQ(n, 6);
	world_close(w);
}

TEST(knobs_have_names_and_fields)
{
	struct world world, *w = &world;
	unsigned fields, i = 0;
	int64_t v;
	REQUIRE(world_open(w));
	for (const char *name; (name = pb_host_knob_name(i, &fields)); i++) {
		CHECK_EQ(pb_host_set_knob(w->h, name, fields - 1, 12 + i), 0);
		CHECK_EQ(pb_host_get_knob(w->h, name, fields - 1, &v), 0);
		CHECK_EQ(v, 12 + i);
		CHECK_EQ(pb_host_set_knob(w->h, name, fields, 1), -EINVAL);
	}
	CHECK(i > 30);
	CHECK_EQ(pb_host_set_knob(w->h, "tcp_nothing", 0, 1), -ENOENT);
	world_close(w);
	/* Those that the engine reads are in the SYN. */
	REQUIRE(world_open(w));
	pb_host_set_knob(w->h, "tcp_sack", 0, 0);
	pb_host_set_knob(w->h, "tcp_timestamps", 0, 0);
	pb_host_set_knob(w->h, "tcp_rmem", 2, 15 << 20);
	connected(w);
	CHECK_EQ(pb_host_get_knob(w->h, "tcp_rmem", 2, &v), 0);
	CHECK_EQ(v, 15 << 20);
	world_close(w);
}

TEST(layouts_of_the_options_of_a_syn)
{
	static const uint8_t linux_order[] = {2, 4, 8, 3}, freebsd_order[] = {2, 3, 4, 8};
	for (int layout = PB_HOST_LINUX; layout <= PB_HOST_FREEBSD; layout++) {
		struct world world, *w = &world;
		struct pb_host_config cfg;
		struct pb_tcp_endpoint r;
		pb_host_config_default(&cfg);
		cfg.layout = (uint8_t)layout;
		REQUIRE(world_open_as(w, &cfg, false));
		r = (struct pb_tcp_endpoint){w->peer, w->rport};
		int s = pb_host_socket(w->h, 4, LX_SOCK_STREAM, 0), k = 0;
		CHECK_EQ(pb_host_connect(w->h, s, &r), -EINPROGRESS);
		OUT(S, 0, 0, 0);
		CHECK(w->opts.has_mss && w->opts.sack_ok && w->opts.has_ts && w->opts.has_wscale);
		uint8_t seen[8] = {0};
		for (uint32_t i = 0; i < w->tcp.opts_len && k < 8; i += w->raw_opts[i] == 1 ? 1 : w->raw_opts[i + 1])
			if (w->raw_opts[i] > 1)
				seen[k++] = w->raw_opts[i];
		CHECK_EQ(k, 4);
		/* Linux has SACK-permitted before the timestamps, FreeBSD the window scale before both. */
		CHECK_MEM(seen, layout == PB_HOST_LINUX ? linux_order : freebsd_order, 4);
		world_close(w);
	}
}

/* 2 * 5 segments at a window of 10: Linux builds super-segments of at most half the window. */
TEST(psh_where_linux_ends_a_super_segment)
{
	struct world world, *w = &world;
	struct pb_host_config cfg;
	static uint8_t data[10000];
	pb_host_config_default(&cfg);
	cfg.psh = true;
	REQUIRE(world_open_as(w, &cfg, false));
	int s = accepted(w, listener(w));
	CHECK_EQ(pb_host_send(w->h, s, data, sizeof(data), 0), sizeof(data));
	for (uint32_t i = 0; i < 10; i++)
		OUT((uint8_t)(A | (i % 5 == 4 ? P : 0)), 1 + i * 1000, 1, 1000);
	SILENT();
	world_close(w);
}

TEST(bad_configurations)
{
	struct pb_host_config cfg;
	int err = 0;
	pb_host_config_default(&cfg);
	cfg.layout = 9;
	CHECK(!pb_host_create(&cfg, &err) && err == -EINVAL);
	pb_host_config_default(&cfg);
	cfg.mtu[0] = 100;
	CHECK(!pb_host_create(&cfg, &err) && err == -EINVAL);
	pb_host_config_default(&cfg);
	cfg.frames = 3;
	CHECK(!pb_host_create(&cfg, &err) && err == -EINVAL);
}

MAIN(T(options_keep_linux_rules), T(knobs_have_names_and_fields), T(layouts_of_the_options_of_a_syn),
     T(psh_where_linux_ends_a_super_segment), T(bad_configurations))
