/* Knobs: names of /proc/sys/net/ipv4, and what they mean to the engine. Those of KNOB_LIST that nothing here reads are
 * kept, so that a script may set them; they have no effect. */
#include "script/impl.h"

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

void knobs_default(struct pb_host *h)
{
	for (int i = 0; i < KNOB_COUNT; i++)
		memcpy(h->knob[i], knobs[i].value, sizeof(h->knob[i]));
}

static uint64_t seconds(int64_t v)
{
	return clamp_u32(v, 0, 1u << 24) * NS_PER_S;
}

void knobs_config(const struct pb_host *h, struct pb_tcp_config *c)
{
	const int64_t(*k)[3] = h->knob;
	c->timestamps = k[KNOB_tcp_timestamps][0] != 0;
	c->sack = k[KNOB_tcp_sack][0] != 0;
	c->wscale = k[KNOB_tcp_window_scaling][0] != 0;
	c->rcvbuf_bytes = clamp_u32(k[KNOB_tcp_rmem][2], 4096, 1u << 30);
	c->sndbuf_bytes = clamp_u32(k[KNOB_tcp_wmem][2], 4096, 1u << 30);
	c->syn_retries = clamp_u32(k[KNOB_tcp_syn_retries][0], 1, 127);
	c->synack_retries = clamp_u32(k[KNOB_tcp_synack_retries][0], 0, 255);
	c->data_retries = clamp_u32(k[KNOB_tcp_retries2][0], 0, 255);
	c->fin_wait2_ns = seconds(k[KNOB_tcp_fin_timeout][0]);
	c->rto_min_ns = clamp_u32(k[KNOB_tcp_rto_min_us][0], 1, 1000000) * NS_PER_US;
	c->rto_max_ns = clamp_u32(k[KNOB_tcp_rto_max_ms][0], 1000, 120000) * NS_PER_MS;
	c->ttl = (uint8_t)clamp_u32(k[KNOB_ip_default_ttl][0], 1, 255);
	c->nagle = true;
}
