/* The ring of per-ACK records, and the counters' names. */
#include "tcp/tcb.h"

void trace_add(struct pb_tcp *e, const struct tcb *c, const struct ack_news *n, unsigned event, uint64_t now_ns)
{
	if (!e->trace)
		return;
	struct pb_tcp_trace *t = &e->trace[e->trace_head++ & (e->cfg.trace_records - 1)];
	*t = (struct pb_tcp_trace){
		.time_ns = now_ns,
		.conn = tcb_handle(c),
		.delivered_bytes = c->delivered_bytes,
		.lost_bytes = c->lost_total_bytes,
		.cwnd_bytes = c->cc.cwnd,
		.ssthresh_bytes = c->cc.ssthresh,
		.srtt_us = c->srtt8_us / 8,
		.rtt_us = n ? n->rtt_us : 0,
		.inflight_bytes = pipe_bytes(c),
		.acked_bytes = n ? n->acked : 0,
		.ca_state = c->ca_state,
		.event = (uint8_t)event,
		.tcp_state = c->state,
		.snd_wnd = c->snd_wnd,
	};
}

int pb_tcp_trace_read(struct pb_tcp *e, struct pb_tcp_trace *t, int n, uint64_t *lost)
{
	*lost = 0;
	if (!e->trace)
		return 0;
	if (e->trace_head - e->trace_tail > e->cfg.trace_records) {
		*lost = e->trace_head - e->trace_tail - e->cfg.trace_records;
		e->trace_tail += *lost;
	}
	int k = 0;
	while (k < n && e->trace_tail != e->trace_head)
		t[k++] = e->trace[e->trace_tail++ & (e->cfg.trace_records - 1)];
	return k;
}

static const struct {
	const char *name, *what;
	bool nstat;
} counters[PB_TCP_COUNTER_COUNT] = {
#define NSTAT(name, what) {#name, what, true},
#define OWN(name, what) {#name, what, false},
	PB_TCP_COUNTERS(NSTAT, OWN)
#undef NSTAT
#undef OWN
};

const char *pb_tcp_counter_name(unsigned counter)
{
	return counter < PB_TCP_COUNTER_COUNT ? counters[counter].name : "?";
}

const char *pb_tcp_counter_what(unsigned counter)
{
	return counter < PB_TCP_COUNTER_COUNT ? counters[counter].what : "";
}

bool pb_tcp_counter_is_nstat(unsigned counter)
{
	return counter < PB_TCP_COUNTER_COUNT && counters[counter].nstat;
}
