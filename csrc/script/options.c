/* setsockopt() and getsockopt(): one table of what there is, with Linux's numbers and limits. */
#include "script/impl.h"

#include "cc/cc.h"

#include <errno.h>

enum kind { K_INT, K_BOOL, K_BUFFER, K_SPAN };

static const struct option {
	uint16_t level, name;
	uint8_t opt; /* enum opt */
	uint8_t kind;
	int32_t low, high; /* K_INT: outside is EINVAL. K_SPAN: clamped */
} options[] = {
	{LX_SOL_SOCKET, LX_SO_REUSEADDR, OPT_REUSEADDR, K_BOOL, 0, 1},
	{LX_SOL_SOCKET, LX_SO_REUSEPORT, OPT_REUSEPORT, K_BOOL, 0, 1},
	{LX_SOL_SOCKET, LX_SO_SNDBUF, OPT_SNDBUF, K_BUFFER, 4608, 0},
	{LX_SOL_SOCKET, LX_SO_SNDBUFFORCE, OPT_SNDBUF, K_BUFFER, 4608, 0},
	{LX_SOL_SOCKET, LX_SO_RCVBUF, OPT_RCVBUF, K_BUFFER, 2304, 0},
	{LX_SOL_SOCKET, LX_SO_RCVBUFFORCE, OPT_RCVBUF, K_BUFFER, 2304, 0},
	{LX_SOL_SOCKET, LX_SO_KEEPALIVE, OPT_KEEPALIVE, K_BOOL, 0, 1},
	{LX_SOL_SOCKET, LX_SO_OOBINLINE, OPT_OOBINLINE, K_BOOL, 0, 1},
	{LX_SOL_SOCKET, LX_SO_PRIORITY, OPT_PRIORITY, K_INT, 0, INT32_MAX},
	{LX_SOL_SOCKET, LX_SO_RCVLOWAT, OPT_RCVLOWAT, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_SOCKET, LX_SO_MARK, OPT_MARK, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_SOCKET, LX_SO_BUSY_POLL, OPT_BUSY_POLL, K_INT, 0, INT32_MAX},
	{LX_SOL_SOCKET, LX_SO_MAX_PACING_RATE, OPT_MAX_PACING_RATE, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_SOCKET, LX_SO_ZEROCOPY, OPT_ZEROCOPY, K_INT, 0, 1},
	{LX_SOL_TCP, LX_TCP_NODELAY, OPT_NODELAY, K_BOOL, 0, 1},
	{LX_SOL_TCP, LX_TCP_MAXSEG, OPT_MAXSEG, K_INT, 88, 32767},
	{LX_SOL_TCP, LX_TCP_CORK, OPT_CORK, K_BOOL, 0, 1},
	{LX_SOL_TCP, LX_TCP_KEEPIDLE, OPT_KEEPIDLE, K_INT, 1, 32767},
	{LX_SOL_TCP, LX_TCP_KEEPINTVL, OPT_KEEPINTVL, K_INT, 1, 32767},
	{LX_SOL_TCP, LX_TCP_KEEPCNT, OPT_KEEPCNT, K_INT, 1, 127},
	{LX_SOL_TCP, LX_TCP_SYNCNT, OPT_SYNCNT, K_INT, 1, 127},
	{LX_SOL_TCP, LX_TCP_LINGER2, OPT_LINGER2, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_TCP, LX_TCP_DEFER_ACCEPT, OPT_DEFER_ACCEPT, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_TCP, LX_TCP_WINDOW_CLAMP, OPT_WINDOW_CLAMP, K_INT, 0, INT32_MAX},
	{LX_SOL_TCP, LX_TCP_QUICKACK, OPT_QUICKACK, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_TCP, LX_TCP_THIN_LINEAR_TIMEOUTS, OPT_THIN_LINEAR, K_INT, 0, 1},
	{LX_SOL_TCP, LX_TCP_USER_TIMEOUT, OPT_USER_TIMEOUT, K_INT, 0, INT32_MAX},
	{LX_SOL_TCP, LX_TCP_NOTSENT_LOWAT, OPT_NOTSENT_LOWAT, K_INT, INT32_MIN, INT32_MAX},
	{LX_SOL_TCP, LX_TCP_INQ, OPT_INQ, K_INT, 0, 1},
	{LX_SOL_TCP, LX_TCP_RTO_MAX_MS, OPT_RTO_MAX_MS, K_INT, 1000, 120000},
	{LX_SOL_TCP, LX_TCP_RTO_MIN_US, OPT_RTO_MIN_US, K_INT, 1, 1000000},
	{LX_SOL_TCP, LX_TCP_DELACK_MAX_US, OPT_DELACK_MAX_US, K_INT, 1, 200000},
	{LX_SOL_IP, LX_IP_TOS, OPT_TOS, K_INT, 0, 255},
	{LX_SOL_IP, LX_IP_TTL, OPT_TTL, K_INT, 1, 255},
	{LX_SOL_IP, LX_IP_MTU_DISCOVER, OPT_MTU_DISCOVER, K_INT, 0, 5},
	{LX_SOL_IP, LX_IP_RECVERR, OPT_RECVERR, K_BOOL, 0, 1},
	{LX_SOL_IP, LX_IP_FREEBIND, OPT_FREEBIND, K_BOOL, 0, 1},
	{LX_SOL_IPV6, LX_IPV6_TCLASS, OPT_TOS, K_INT, -1, 255},
	{LX_SOL_IPV6, LX_IPV6_UNICAST_HOPS, OPT_TTL, K_INT, -1, 255},
	{LX_SOL_IPV6, LX_IPV6_MTU_DISCOVER, OPT_MTU_DISCOVER, K_INT, 0, 5},
	{LX_SOL_IPV6, LX_IPV6_RECVERR, OPT_RECVERR, K_BOOL, 0, 1},
	{LX_SOL_IPV6, LX_IPV6_V6ONLY, OPT_V6ONLY, K_BOOL, 0, 1},
};
#define COUNT (sizeof(options) / sizeof(options[0]))
#define RMEM_MAX (4u << 20) /* net.core.rmem_max and wmem_max */

static const struct option *find(int level, int name)
{
	for (size_t i = 0; i < COUNT; i++)
		if (options[i].level == level && options[i].name == name)
			return &options[i];
	return NULL;
}

static int32_t knob_in(const struct pb_host *h, enum knob k, uint32_t low, uint32_t high)
{
	return (int32_t)clamp_u32(h->knob[k][0], low, high);
}

void options_default(struct pb_host *h, struct sock *s)
{
	s->opt[OPT_KEEPIDLE] = knob_in(h, KNOB_tcp_keepalive_time, 1, 32767);
	s->opt[OPT_KEEPINTVL] = knob_in(h, KNOB_tcp_keepalive_intvl, 1, 32767);
	s->opt[OPT_KEEPCNT] = knob_in(h, KNOB_tcp_keepalive_probes, 1, 127);
	s->opt[OPT_SYNCNT] = knob_in(h, KNOB_tcp_syn_retries, 1, 127);
	s->opt[OPT_LINGER2] = knob_in(h, KNOB_tcp_fin_timeout, 0, 3600);
	s->opt[OPT_TTL] = knob_in(h, KNOB_ip_default_ttl, 1, 255);
	s->opt[OPT_MTU_DISCOVER] = 1;
	s->opt[OPT_RCVLOWAT] = 1;
	s->opt[OPT_QUICKACK] = 1;
	sock_buffers(h, s);
}

/* What the engine is told of an option, and in which unit. Options that are not here are kept and change nothing. */
static const struct {
	uint8_t what; /* enum pb_tcp_option */
	bool least_0; /* less than none is none */
	int64_t unit; /* 0: nothing is told */
} told[OPT_COUNT] = {
	[OPT_NODELAY] = {PB_TCP_O_NODELAY, false, 1},
	[OPT_CORK] = {PB_TCP_O_CORK, false, 1},
	[OPT_QUICKACK] = {PB_TCP_O_QUICKACK, false, 1},
	[OPT_MAXSEG] = {PB_TCP_O_MAXSEG, false, 1},
	[OPT_SYNCNT] = {PB_TCP_O_SYN_RETRIES, false, 1},
	[OPT_WINDOW_CLAMP] = {PB_TCP_O_WINDOW_CLAMP, false, 1},
	[OPT_RCVBUF] = {PB_TCP_O_RCVBUF, false, 1},
	[OPT_TOS] = {PB_TCP_O_TOS, true, 1},
	[OPT_TTL] = {PB_TCP_O_TTL, false, 1},
	[OPT_MTU_DISCOVER] = {PB_TCP_O_PMTU_DISCOVERY, false, 1},
	[OPT_MAX_PACING_RATE] = {PB_TCP_O_PACING_RATE, true, 1}, /* all ones: none */
	[OPT_NOTSENT_LOWAT] = {PB_TCP_O_NOTSENT_LOWAT, true, 1},
	[OPT_KEEPALIVE] = {PB_TCP_O_KEEPALIVE_IDLE_NS, false, NS_PER_S},
	[OPT_KEEPIDLE] = {PB_TCP_O_KEEPALIVE_IDLE_NS, false, NS_PER_S},
	[OPT_KEEPINTVL] = {PB_TCP_O_KEEPALIVE_INTERVAL_NS, false, NS_PER_S},
	[OPT_KEEPCNT] = {PB_TCP_O_KEEPALIVE_PROBES, false, 1},
	[OPT_USER_TIMEOUT] = {PB_TCP_O_USER_TIMEOUT_NS, false, NS_PER_MS},
	[OPT_LINGER2] = {PB_TCP_O_FIN_WAIT2_NS, true, NS_PER_S},
	[OPT_RTO_MAX_MS] = {PB_TCP_O_RTO_MAX_NS, false, NS_PER_MS},
	[OPT_RTO_MIN_US] = {PB_TCP_O_RTO_MIN_NS, false, NS_PER_US},
	[OPT_DELACK_MAX_US] = {PB_TCP_O_DELACK_NS, false, NS_PER_US},
};

/* The number that counts, where it is not the option's own. */
static int32_t meant(const struct sock *s, enum opt o)
{
	int32_t v = s->opt[o];
	switch (o) {
	case OPT_QUICKACK:
		return v & 1;
	case OPT_MTU_DISCOVER:
		return v != 0;
	case OPT_KEEPALIVE:
	case OPT_KEEPIDLE:
		return s->opt[OPT_KEEPALIVE] ? s->opt[OPT_KEEPIDLE] : 0;
	case OPT_RTO_MIN_US: /* the engine's least */
		return v < 1000 ? 1000 : v;
	default:
		return told[o].least_0 && v < 0 ? 0 : v;
	}
}

/* 0 or -errno. */
static int apply(struct pb_host *h, struct sock *s, enum opt o)
{
	int32_t v = meant(s, o);
	if (!told[o].unit || (o == OPT_MAXSEG && !v))
		return 0;
	int rc = pb_tcp_set_option(h->tcp, s->conn, (enum pb_tcp_option)told[o].what, v * told[o].unit, h->now_ns);
	/* Later a largest segment changes nothing, and is no error. */
	return o == OPT_MAXSEG && rc != -EBADF ? 0 : rc;
}

int options_apply(struct pb_host *h, struct sock *s)
{
	const char *cc = s->cc[0] ? s->cc : h->cc;
	int bad = pb_tcp_set_cc(h->tcp, s->conn, pb_cc_find(cc));
	if (bad)
		return bad;
	for (int o = 0; o < OPT_COUNT; o++)
		if (s->set >> o & 1) {
			int rc = apply(h, s, (enum opt)o);
			if (rc)
				return rc;
		}
	return 0;
}

static int set_linger(struct sock *s, const void *v, uint32_t n)
{
	struct pb_lx_linger l;
	if (n < sizeof(l))
		return -EINVAL;
	memcpy(&l, v, sizeof(l));
	s->linger = l;
	return 0;
}

static int set_cc(struct pb_host *h, struct sock *s, const char *v, uint32_t n)
{
	char name[CC_NAME_MAX] = {0};
	memcpy(name, v, n < CC_NAME_MAX ? n : CC_NAME_MAX - 1);
	const struct pb_cc_ops *ops = pb_cc_find(name);
	if (!ops)
		return -ENOENT;
	memcpy(s->cc, name, CC_NAME_MAX);
	return s->conn ? pb_tcp_set_cc(h->tcp, s->conn, ops) : 0;
}

int pb_host_setsockopt(struct pb_host *h, int fd, int level, int name, const void *v, uint32_t n)
{
	struct sock *s = sock_get(h, fd);
	int32_t x = 0;
	if (!s)
		return -EBADF;
	if (!v && n)
		return -EFAULT;
	if (level == LX_SOL_SOCKET && name == LX_SO_LINGER)
		return set_linger(s, v, n);
	if (level == LX_SOL_TCP && name == LX_TCP_CONGESTION)
		return n ? set_cc(h, s, v, n) : -EINVAL;
	const struct option *d = find(level, name);
	if (!d)
		return -ENOPROTOOPT;
	/* Those of IP take a byte too. */
	if (n >= sizeof(x))
		memcpy(&x, v, sizeof(x));
	else if (level == LX_SOL_IP && n >= 1)
		x = *(const uint8_t *)v;
	else
		return -EINVAL;
	if (d->kind == K_BOOL)
		x = x != 0;
	else if (d->kind == K_INT && (x < d->low || x > d->high) && !(d->opt == OPT_MAXSEG && !x))
		return -EINVAL;
	else if (d->kind == K_BUFFER) /* doubled, for what is not payload (socket(7)) */
		x = (int32_t)(2 * clamp_u32(x, (uint32_t)d->low / 2, RMEM_MAX));
	if (d->opt == OPT_TTL && x == -1)
		x = knob_in(h, KNOB_ip_default_ttl, 1, 255);
	s->opt[d->opt] = x;
	s->set |= 1ull << d->opt;
	if (!s->conn)
		return 0;
	int rc = apply(h, s, (enum opt)d->opt);
	host_settle(h);
	return rc;
}

static int give(void *v, uint32_t *n, const void *from, uint32_t bytes)
{
	if (*n < bytes)
		bytes = *n;
	memcpy(v, from, bytes);
	*n = bytes;
	return 0;
}

static int give_int(void *v, uint32_t *n, int32_t x)
{
	return give(v, n, &x, sizeof(x));
}

static int get_special(struct pb_host *h, struct sock *s, int level, int name, void *v, uint32_t *n)
{
	struct pb_tcp_info i;
	static const uint32_t meminfo[9];
	if (level == LX_SOL_SOCKET)
		switch (name) {
		case LX_SO_ERROR:
			return give_int(v, n, -sock_error(s));
		case LX_SO_TYPE:
			return give_int(v, n, LX_SOCK_STREAM);
		case LX_SO_PROTOCOL:
			return give_int(v, n, LX_IPPROTO_TCP);
		case LX_SO_DOMAIN:
			return give_int(v, n, s->family == 4 ? 2 : 10);
		case LX_SO_ACCEPTCONN:
			return give_int(v, n, s->phase == SOCK_LISTENING);
		case LX_SO_LINGER:
			return give(v, n, &s->linger, sizeof(s->linger));
		case LX_SO_MEMINFO:
			return give(v, n, meminfo, sizeof(meminfo));
		default:
			return -ENOPROTOOPT;
		}
	if (level == LX_SOL_TCP)
		switch (name) {
		case LX_TCP_INFO:
			*n = info_linux(h, s, v, *n);
			return 0;
		case LX_TCP_CC_INFO:
			*n = 0;
			return 0;
		case LX_TCP_CONGESTION:
			return give(v, n, s->cc[0] ? s->cc : h->cc, CC_NAME_MAX);
		default:
			return -ENOPROTOOPT;
		}
	bool mtu = (level == LX_SOL_IP && name == LX_IP_MTU) || (level == LX_SOL_IPV6 && name == LX_IPV6_MTU);
	if (!mtu)
		return -ENOPROTOOPT;
	if (!s->conn || pb_tcp_get_info(h->tcp, s->conn, &i))
		return -ENOTCONN;
	return give_int(v, n, (int32_t)i.pmtu);
}

int pb_host_getsockopt(struct pb_host *h, int fd, int level, int name, void *v, uint32_t *n)
{
	struct sock *s = sock_get(h, fd);
	struct pb_tcp_info i;
	if (!s)
		return -EBADF;
	if (!v || !n)
		return -EFAULT;
	const struct option *d = find(level, name);
	if (!d)
		return get_special(h, s, level, name, v, n);
	int32_t x = s->opt[d->opt];
	/* What segments carry now, options not counted; before there is a connection, what was asked for. */
	if (d->opt == OPT_MAXSEG) {
		bool known = s->conn && !pb_tcp_get_info(h->tcp, s->conn, &i) && i.state > PB_TCP_LISTEN;
		x = known ? (int32_t)i.mss : x ? x : 536;
	}
	return give_int(v, n, x);
}
