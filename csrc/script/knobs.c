/* Knobs: names of /proc/sys/net/ipv4, and what they mean to the engine. Those of KNOB_LIST that nothing here reads are
 * kept, so that a script may set them; they have no effect. */
#include "script/impl.h"

#include "cc/cc.h"
#include "wire/tcp.h"

#include <errno.h>

static const struct {
	const char *name;
	unsigned fields;
	int64_t value[3];
} knobs[KNOB_COUNT] = {
#define X(name, n, a, b, c) {#name, n, {a, b, c}},
	KNOB_LIST(X)
#undef X
};

const char *pb_host_knob_name(unsigned i, unsigned *fields)
{
	if (i >= KNOB_COUNT)
		return NULL;
	*fields = knobs[i].fields;
	return knobs[i].name;
}

static int find(const char *name, unsigned field)
{
	for (int i = 0; i < KNOB_COUNT; i++)
		if (!strcmp(knobs[i].name, name))
			return field < knobs[i].fields ? i : -EINVAL;
	return -ENOENT;
}

int pb_host_set_knob(struct pb_host *h, const char *name, unsigned field, int64_t value)
{
	int i = find(name, field);
	if (i < 0)
		return i;
	h->knob[i][field] = value;
	return 0;
}

int pb_host_get_knob(const struct pb_host *h, const char *name, unsigned field, int64_t *value)
{
	int i = find(name, field);
	if (i < 0)
		return i;
	*value = h->knob[i][field];
	return 0;
}

int pb_host_set_congestion(struct pb_host *h, const char *name)
{
	if (!pb_cc_find(name) || strlen(name) >= CC_NAME_MAX)
		return -ENOENT;
	memset(h->cc, 0, sizeof(h->cc));
	strncpy(h->cc, name, CC_NAME_MAX - 1);
	return 0;
}

void knobs_default(struct pb_host *h)
{
	for (int i = 0; i < KNOB_COUNT; i++)
		memcpy(h->knob[i], knobs[i].value, sizeof(h->knob[i]));
}

static uint64_t seconds(int64_t v)
{
	return clamp_u32(v, 0, 1u << 24) * NS_PER_S;
}

/* The least shift by which 16 bits can say it. */
static uint8_t scale_for(uint32_t bytes)
{
	uint8_t s = 0;
	while (s < PB_TCP_WSCALE_MAX && bytes >> s > 65535)
		s++;
	return s;
}

static bool on(const struct pb_host *h, enum knob k)
{
	return h->knob[k][0] != 0;
}

static void config_recovery(const struct pb_host *h, struct pb_tcp_config *c)
{
	const int64_t(*k)[3] = h->knob;
	int64_t recovery = k[KNOB_tcp_recovery][0];
	c->rack = recovery & 1;
	c->rack_static = recovery & 2;
	c->rack_no_dupthresh = recovery & 4;
	c->tlp = k[KNOB_tcp_early_retrans][0] >= 3;
	c->frto = on(h, KNOB_tcp_frto);
	c->dsack = on(h, KNOB_tcp_dsack);
	c->reordering_segs = clamp_u32(k[KNOB_tcp_reordering][0], 1, 300);
	c->slow_start_after_idle = on(h, KNOB_tcp_slow_start_after_idle);
	c->rto_min_ns = clamp_u32(k[KNOB_tcp_rto_min_us][0], 1, 1000000) * NS_PER_US;
	c->rto_max_ns = clamp_u32(k[KNOB_tcp_rto_max_ms][0], 1000, 120000) * NS_PER_MS;
	c->syn_retries = clamp_u32(k[KNOB_tcp_syn_retries][0], 1, 127);
	c->synack_retries = clamp_u32(k[KNOB_tcp_synack_retries][0], 0, 255);
	c->data_retries = clamp_u32(k[KNOB_tcp_retries2][0], 0, 255);
	c->orphan_retries = clamp_u32(k[KNOB_tcp_orphan_retries][0], 0, 255);
}

void knobs_config(const struct pb_host *h, struct pb_tcp_config *c)
{
	const int64_t(*k)[3] = h->knob;
	const struct pb_cc_ops *cc = pb_cc_find(h->cc);
	c->timestamps = on(h, KNOB_tcp_timestamps);
	c->sack = on(h, KNOB_tcp_sack);
	c->wscale = on(h, KNOB_tcp_window_scaling);
	c->rcvbuf_bytes = clamp_u32(k[KNOB_tcp_rmem][2], 4096, 1u << 30);
	c->sndbuf_bytes = clamp_u32(k[KNOB_tcp_wmem][2], 4096, 1u << 30);
	c->rcv_wscale = scale_for(c->rcvbuf_bytes);
	c->acks = h->cfg.acks;
	c->ecn = (uint8_t)clamp_u32(k[KNOB_tcp_ecn][0], PB_TCP_ECN_OFF, PB_TCP_ECN_PASSIVE);
	c->fin_wait2_ns = seconds(k[KNOB_tcp_fin_timeout][0]);
	c->ttl = (uint8_t)clamp_u32(k[KNOB_ip_default_ttl][0], 1, 255);
	c->pmtu_discovery = !on(h, KNOB_ip_no_pmtu_disc);
	c->probing = (uint8_t)clamp_u32(k[KNOB_tcp_mtu_probing][0], PB_TCP_PROBING_OFF, PB_TCP_PROBING_ALWAYS);
	c->probing_base_mss = (uint16_t)clamp_u32(k[KNOB_tcp_base_mss][0], 64, 65000);
	c->probing_floor_mss = (uint16_t)clamp_u32(k[KNOB_tcp_mtu_probe_floor][0], 48, 65000);
	c->challenge_ns = clamp_u32(k[KNOB_tcp_invalid_ratelimit][0], 0, 1u << 30) * NS_PER_MS;
	c->challenge_per_sec = clamp_u32(k[KNOB_tcp_challenge_ack_limit][0], 0, UINT32_MAX);
	c->nagle = true;
	if (cc)
		c->cc = cc;
	config_recovery(h, c);
}
