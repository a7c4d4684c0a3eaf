/* Options of a connection. */
#include "tcp/tcb.h"

#include <errno.h>

#define DELACK_LIMIT_NS (500ll * NS_PER_MS) /* RFC 1122 4.2.3.2 */
#define TIME_LIMIT_NS (86400ll * 365 * 1000 * NS_PER_MS)
#define RTO_FLOOR_NS (1ll * NS_PER_MS)
#define RTO_LIMIT_NS (3600000ll * NS_PER_MS)
#define RATE_LIMIT (1ll << 40)
#define BUF_LIMIT (1ll << 30)

/* What a value may be; the option itself is below. */
static const struct {
	int64_t min, max;
} ranges[PB_TCP_O_COUNT] = {
	[PB_TCP_O_NODELAY] = {0, 1},
	[PB_TCP_O_CORK] = {0, 1},
	[PB_TCP_O_QUICKACK] = {0, 1},
	[PB_TCP_O_ACKS] = {PB_TCP_ACKS_LINUX, PB_TCP_ACKS_BSD},
	[PB_TCP_O_DELACK_NS] = {0, DELACK_LIMIT_NS},
	[PB_TCP_O_KEEPALIVE_IDLE_NS] = {0, TIME_LIMIT_NS},
	[PB_TCP_O_KEEPALIVE_INTERVAL_NS] = {NS_PER_MS, TIME_LIMIT_NS},
	[PB_TCP_O_KEEPALIVE_PROBES] = {1, 127},
	[PB_TCP_O_USER_TIMEOUT_NS] = {0, TIME_LIMIT_NS},
	[PB_TCP_O_LINGER_NS] = {-1, TIME_LIMIT_NS},
	[PB_TCP_O_MAXSEG] = {64, 65535 - PB_TCP_HLEN},
	[PB_TCP_O_SYN_RETRIES] = {0, 127},
	[PB_TCP_O_FIN_WAIT2_NS] = {0, TIME_LIMIT_NS},
	[PB_TCP_O_RCVBUF] = {2048, BUF_LIMIT},
	[PB_TCP_O_SNDBUF] = {2048, BUF_LIMIT},
	[PB_TCP_O_WINDOW_CLAMP] = {0, BUF_LIMIT},
	[PB_TCP_O_TOS] = {0, 255},
	[PB_TCP_O_TTL] = {1, 255},
	[PB_TCP_O_PMTU_DISCOVERY] = {0, 1},
	[PB_TCP_O_PACING_RATE] = {0, RATE_LIMIT},
	[PB_TCP_O_RTO_MIN_NS] = {RTO_FLOOR_NS, RTO_LIMIT_NS},
	[PB_TCP_O_RTO_MAX_NS] = {RTO_FLOOR_NS, RTO_LIMIT_NS},
	[PB_TCP_O_NOTSENT_LOWAT] = {0, BUF_LIMIT},
	[PB_TCP_O_SLOW_START_AFTER_IDLE] = {0, 1},
};

static void set_flag(struct tcb *c, uint32_t flag, bool on)
{
	c->flags = on ? c->flags | flag : c->flags & ~flag;
}

static void set_bit(struct tcb *c, uint32_t bit, bool on)
{
	c->bits = on ? c->bits | bit : c->bits & ~bit;
}

/* What was held goes out. */
static void push_held(struct pb_tcp *e, struct tcb *c)
{
	if (c->sq_next == NONE)
		return;
	c->flags |= TCB_PUSH_ALL;
	tcb_ready(e, c);
}

static void set_quickack(struct pb_tcp *e, struct tcb *c, bool on)
{
	set_bit(c, BIT_PINGPONG, !on);
	if (!on) {
		c->quickacks = 0;
		return;
	}
	if (c->t_delack != NEVER)
		ack_now(e, c);
}

static void restart_keepalive(struct pb_tcp *e, struct tcb *c, uint64_t now_ns)
{
	c->ka_sent = 0;
	if (keepalive_state(c) && !(c->state == PB_TCP_FIN_WAIT_2 && (c->flags & TCB_DETACHED))) {
		c->t_misc = c->ka_idle_ns ? now_ns + c->ka_idle_ns : NEVER;
		timer_update(e, c);
	}
}

static int set_maxseg(const struct pb_tcp *e, struct tcb *c, int64_t v)
{
	if (c->state != PB_TCP_CLOSED && c->state != PB_TCP_LISTEN && c->state != PB_TCP_SYN_SENT)
		return -EINVAL;
	c->max_mss = (uint16_t)v;
	if (c->state == PB_TCP_SYN_SENT)
		c->own_mss = c->advmss = (uint16_t)min_u32(c->own_mss, c->max_mss);
	rcv_sized(e, c);
	return 0;
}

static int set_rto_bounds(struct tcb *c, uint64_t min_ns, uint64_t max_ns)
{
	if (min_ns > max_ns)
		return -EINVAL;
	c->rto_min_ns = min_ns;
	c->rto_max_ns = max_ns;
	return 0;
}

/* Those that say how ACKs and segments travel. */
static int set_behaviour(struct pb_tcp *e, struct tcb *c, unsigned option, int64_t v)
{
	switch (option) {
	case PB_TCP_O_NODELAY:
		set_flag(c, TCB_NAGLE, !v);
		if (v)
			push_held(e, c); /* what a cork holds too, once */
		return 0;
	case PB_TCP_O_CORK:
		set_flag(c, TCB_CORK, v);
		if (!v)
			push_held(e, c);
		return 0;
	case PB_TCP_O_QUICKACK:
		set_quickack(e, c, v);
		return 0;
	case PB_TCP_O_ACKS:
		set_bit(c, BIT_ACKS_BSD, v == PB_TCP_ACKS_BSD);
		return 0;
	case PB_TCP_O_PMTU_DISCOVERY:
		set_flag(c, TCB_NO_PMTUD, !v);
		return 0;
	case PB_TCP_O_SLOW_START_AFTER_IDLE:
		set_bit(c, BIT_IDLE_RESTART, v);
		return 0;
	case PB_TCP_O_PACING_RATE:
		c->pacing_rate = (uint64_t)v;
		c->pace_next_ns = 0;
		tcb_ready(e, c);
		return 0;
	case PB_TCP_O_MAXSEG:
		return set_maxseg(e, c, v);
	default:
		return -ENOPROTOOPT;
	}
}

int pb_tcp_set_option(struct pb_tcp *e, pb_tcp_handle h, unsigned option, int64_t v, uint64_t now_ns)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	if (option >= PB_TCP_O_COUNT)
		return -ENOPROTOOPT;
	if (v < ranges[option].min || v > ranges[option].max)
		return -EINVAL;
	uint64_t ns = (uint64_t)v;
	switch (option) {
	case PB_TCP_O_DELACK_NS:
		c->delack_ns = ns;
		break;
	case PB_TCP_O_KEEPALIVE_IDLE_NS:
		c->ka_idle_ns = ns;
		restart_keepalive(e, c, now_ns);
		break;
	case PB_TCP_O_KEEPALIVE_INTERVAL_NS:
		c->ka_interval_ns = ns;
		restart_keepalive(e, c, now_ns);
		break;
	case PB_TCP_O_KEEPALIVE_PROBES:
		c->ka_probes = (uint32_t)v;
		break;
	case PB_TCP_O_USER_TIMEOUT_NS:
		c->user_timeout_ns = ns;
		break;
	case PB_TCP_O_LINGER_NS:
		c->linger_ns = v;
		break;
	case PB_TCP_O_SYN_RETRIES:
		c->syn_retries = (uint32_t)v;
		break;
	case PB_TCP_O_FIN_WAIT2_NS:
		c->fin_wait2_ns = ns;
		break;
	case PB_TCP_O_RCVBUF:
		rcv_resize(e, c, (uint32_t)v);
		break;
	case PB_TCP_O_SNDBUF:
		c->sndbuf = (uint32_t)v;
		break;
	case PB_TCP_O_WINDOW_CLAMP:
		c->wnd_clamp = (uint32_t)v;
		break;
	case PB_TCP_O_TOS:
		c->tos = (uint8_t)v & (uint8_t)~PB_ECN_MASK; /* those two bits are the engine's (RFC 3168 5) */
		break;
	case PB_TCP_O_TTL:
		c->ttl = (uint8_t)v;
		break;
	case PB_TCP_O_RTO_MIN_NS:
		return set_rto_bounds(c, ns, c->rto_max_ns);
	case PB_TCP_O_RTO_MAX_NS:
		return set_rto_bounds(c, c->rto_min_ns, ns);
	case PB_TCP_O_NOTSENT_LOWAT:
		c->notsent_lowat = (uint32_t)v;
		break;
	default:
		return set_behaviour(e, c, option, v);
	}
	return 0;
}

int pb_tcp_get_option(struct pb_tcp *e, pb_tcp_handle h, unsigned option, int64_t *value)
{
	const struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	if (option >= PB_TCP_O_COUNT)
		return -ENOPROTOOPT;
	const int64_t all[PB_TCP_O_COUNT] = {
		[PB_TCP_O_NODELAY] = !(c->flags & TCB_NAGLE),
		[PB_TCP_O_CORK] = !!(c->flags & TCB_CORK),
		[PB_TCP_O_QUICKACK] = !(c->bits & BIT_PINGPONG),
		[PB_TCP_O_ACKS] = c->bits & BIT_ACKS_BSD ? PB_TCP_ACKS_BSD : PB_TCP_ACKS_LINUX,
		[PB_TCP_O_DELACK_NS] = (int64_t)c->delack_ns,
		[PB_TCP_O_KEEPALIVE_IDLE_NS] = (int64_t)c->ka_idle_ns,
		[PB_TCP_O_KEEPALIVE_INTERVAL_NS] = (int64_t)c->ka_interval_ns,
		[PB_TCP_O_KEEPALIVE_PROBES] = c->ka_probes,
		[PB_TCP_O_USER_TIMEOUT_NS] = (int64_t)c->user_timeout_ns,
		[PB_TCP_O_LINGER_NS] = c->linger_ns,
		[PB_TCP_O_MAXSEG] = c->state >= PB_TCP_ESTABLISHED ? c->mss
				    : c->max_mss                   ? c->max_mss
								   : 536,
		[PB_TCP_O_SYN_RETRIES] = c->syn_retries,
		[PB_TCP_O_FIN_WAIT2_NS] = (int64_t)c->fin_wait2_ns,
		[PB_TCP_O_RCVBUF] = c->rcvbuf,
		[PB_TCP_O_SNDBUF] = c->sndbuf,
		[PB_TCP_O_WINDOW_CLAMP] = c->wnd_clamp,
		[PB_TCP_O_TOS] = c->tos,
		[PB_TCP_O_TTL] = c->ttl,
		[PB_TCP_O_PMTU_DISCOVERY] = !(c->flags & TCB_NO_PMTUD),
		[PB_TCP_O_PACING_RATE] = (int64_t)c->pacing_rate,
		[PB_TCP_O_RTO_MIN_NS] = (int64_t)c->rto_min_ns,
		[PB_TCP_O_RTO_MAX_NS] = (int64_t)c->rto_max_ns,
		[PB_TCP_O_NOTSENT_LOWAT] = c->notsent_lowat,
		[PB_TCP_O_SLOW_START_AFTER_IDLE] = !!(c->bits & BIT_IDLE_RESTART),
	};
	*value = all[option];
	return 0;
}

int pb_tcp_set_cc(struct pb_tcp *e, pb_tcp_handle h, const struct pb_cc_ops *cc)
{
	struct tcb *c = tcb_get(e, h);
	if (!c)
		return -EBADF;
	if (!cc || cc->abi != PB_CC_ABI)
		return -EINVAL;
	c->cc_ops = cc;
	cc->init(&c->cc, c->snd_nxt, e->now_ns);
	return 0;
}
