/* What the files of the engine are to each other. Included by tcb.h. */
#ifndef PB_TCP_PARTS_H
#define PB_TCP_PARTS_H

/* engine.c: slots, lists, the end of a connection */
struct tcb *tcb_alloc(struct pb_tcp *e);
/* A slot for a connection, within max_conns: when all are taken, that of the oldest in TIME-WAIT that the application
 * has closed. NULL when there is none. */
struct tcb *conn_alloc(struct pb_tcp *e);
void queue_push(struct pb_tcp *e, struct queue *q, struct tcb *c);
void queue_remove(struct pb_tcp *e, struct queue *q, struct tcb *c);
/* To the end of the spare ones, when it is one. */
void spare_push(struct pb_tcp *e, struct tcb *c);
void tcb_recycle(struct pb_tcp *e, struct tcb *c);
/* Takes the first off a list that is not empty. */
struct tcb *list_pop(struct pb_tcp *e, enum tcb_list which);
void tcb_ready(struct pb_tcp *e, struct tcb *c);
void tcb_event(struct pb_tcp *e, struct tcb *c, uint32_t mask);
/* CLOSED: timers off, out of the flow table, data to be sent thrown away; the slot stays until the application has
 * closed its handle and was told. err: positive errno, 0 in order. */
void tcb_closed(struct pb_tcp *e, struct tcb *c, int err);
void frame_free(struct pb_tcp *e, uint32_t frame);
/* A frame for a control segment or for data (data leaves the reserve alone). NONE when the pool is empty. */
uint32_t frame_alloc(struct pb_tcp *e, bool data);

/* table.c */
uint32_t flow_hash(const struct pb_tcp *e, const struct pb_ip *l, uint16_t lport, const struct pb_ip *r,
		   uint16_t rport);
void flow_insert(struct pb_tcp *e, struct tcb *c);
void flow_remove(struct pb_tcp *e, struct tcb *c);
struct tcb *flow_find(const struct pb_tcp *e, uint32_t hash, const struct pb_ip *l, uint16_t lport,
		      const struct pb_ip *r, uint16_t rport);
struct tcb *listener_find(const struct pb_tcp *e, const struct pb_ip *l, uint16_t lport);

/* timer.c: a 4-ary heap of connections by their earliest deadline */
void timer_update(struct pb_tcp *e, struct tcb *c);
void timer_remove(struct pb_tcp *e, uint32_t idx);

/* isn.c */
uint64_t siphash24(const uint8_t key[16], const void *data, size_t n);
uint32_t isn_make(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns);
uint32_t ts_offset_make(const struct pb_tcp *e, const struct tcb *c);

/* input.c, open.c, ack.c, rx.c */
/* c: the connection or listener that was meant; NULL: none. */
void reply_rst(struct pb_tcp *e, const struct tcb *c, const struct pkt *p);
/* An ACK that answers what cannot be true (RFC 5961), as often as the limits allow. */
void challenge_ack(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
enum pb_drop in_listen(struct pb_tcp *e, struct tcb *l, struct pkt *p, uint64_t now_ns);
enum pb_drop in_syn_sent(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns);
void establish(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
enum pb_drop in_ack(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns);
enum pb_drop in_data(struct pb_tcp *e, struct tcb *c, struct pkt *p, uint64_t now_ns);
void in_fin(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void enter_time_wait(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void send_rst(struct pb_tcp *e, const struct tcb *c, uint64_t now_ns);

/* window.c */
#define PB_RCV_FEW 4u /* frames */
/* After rcvbuf or advmss changed. */
void rcv_sized(const struct pb_tcp *e, struct tcb *c);
uint32_t rcv_window(const struct pb_tcp *e, const struct tcb *c);
/* What the next segment says: how far we have the stream, and the window field. */
struct offer {
	uint32_t ack;
	uint16_t field;
};
/* bare: it carries nothing but the ACK. */
struct offer rcv_offer(struct pb_tcp *e, struct tcb *c, bool syn, bool bare);
uint32_t rcv_odd(const struct pb_tcp *e, const struct tcb *c);
/* The window allowed it, but small segments may have cost more memory than bytes: refuse beyond twice the buffer. When
 * those who do not read have taken the pool down to half of the reserve, who reads and has next to nothing unread goes
 * on, and who has nothing unread may begin. */
static inline bool rcv_memory_left(const struct pb_tcp *e, const struct tcb *c)
{
	bool few = !c->rcv_frames || (c->rcv_frames < PB_RCV_FEW && (c->bits & BIT_READS));
	uint32_t leave = e->cfg.reserve_frames / (few ? 4 : 2);
	return (uint64_t)c->rcv_frames * e->pool->frame_bytes < 2ull * c->rcvbuf &&
	       pb_pool_free_hint(e->cache) >= leave;
}

/* The application read: tells the peer of the room if it was waiting for it. */
void rcv_review(struct pb_tcp *e, struct tcb *c);

/* recv.c */
void rcv_resize(struct pb_tcp *e, struct tcb *c, uint32_t bytes);

/* rx.c */
int rcv_sack_blocks(const struct pb_tcp *e, const struct tcb *c, struct pb_tcp_opts *o, int max);
/* Nothing in the store lies beyond: a FIN there can be true. */
bool rcv_ends_by(const struct pb_tcp *e, const struct tcb *c, uint32_t seq);
void rcv_free_all(struct pb_tcp *e, struct tcb *c);
void rcv_free_ooo(struct pb_tcp *e, struct tcb *c);
void rx_free(struct pb_tcp *e, struct tcb *c, uint32_t frame);

/* delack.c */
void ack_now(struct pb_tcp *e, struct tcb *c);
/* len bytes came in order; now: something says that the ACK must not wait. */
void ack_schedule(struct pb_tcp *e, struct tcb *c, uint32_t len, bool now, uint64_t now_ns);
void ack_read(struct pb_tcp *e, struct tcb *c);
void quickack_mode(struct tcb *c, uint32_t max);
void delack_timeout(struct pb_tcp *e, struct tcb *c);
/* Those sequence numbers came twice: the next ACK says so (RFC 2883). in_order: they lie below rcv_nxt. */
void dsack_report(struct pb_tcp *e, struct tcb *c, uint32_t left, uint32_t right, bool in_order);
void ecn_data(struct pb_tcp *e, struct tcb *c, const struct pkt *p);

/* sendq.c: the queue of segments from snd_una to snd_end */
void sq_append(struct pb_tcp *e, struct tcb *c, uint32_t frame);
/* Removes what is below ack, and notes what that says. */
void sq_ack(struct pb_tcp *e, struct tcb *c, uint32_t ack, struct ack_news *n);
void sq_free_all(struct pb_tcp *e, struct tcb *c);
/* Cuts a segment at `len` bytes; the rest becomes a segment of its own. False: no frame. */
bool sq_split(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t len);
/* Copies following unsent segments into this unsent one while they fit in max bytes and in the frame. */
void sq_coalesce(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t max);
/* Whether no record (PB_TCP_EOR) ends before the last of `bytes` from this segment on. */
bool sq_one_record(const struct pb_tcp *e, uint32_t frame, uint32_t bytes);
/* As sq_coalesce(), of the next so many bytes, wherever they end; the frame has room. False: there are not so many, or
 * a record ends before. */
bool sq_borrow(struct pb_tcp *e, struct tcb *c, uint32_t frame, uint32_t bytes);

/* sack.c: marks of segments, with their sums */
static inline uint32_t in_flight(const struct tcb *c)
{
	return c->snd_nxt - c->snd_una;
}

/* Bytes believed to be in the network (RFC 6675 "pipe"). A FIN is not one: it must not keep a segment from going. */
static inline uint32_t pipe_bytes(const struct tcb *c)
{
	uint32_t gone = c->sacked_bytes + c->lost_bytes + !!(c->flags & TCB_FIN_SENT);
	uint32_t out = in_flight(c) + c->retrans_bytes;
	return out > gone ? out - gone : 0;
}

void seg_mark_lost(struct pb_tcp *e, struct tcb *c, struct seg *s);
/* Takes, or sets, marks of SACKED, LOST and RETRANS; sacked_segs is the caller's. */
void seg_unmark(struct tcb *c, struct seg *s, uint32_t flags);
void seg_mark(struct tcb *c, struct seg *s, uint32_t flags);
void count_delivered(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t bytes, uint32_t segs);
void sack_process(struct pb_tcp *e, struct tcb *c, const struct pkt *p, struct ack_news *n);
/* What was never sent again and lies at seq arrived after what lies above it. */
void sack_reordered(struct pb_tcp *e, struct tcb *c, uint32_t seq, bool by_time);
void reno_reordered(struct pb_tcp *e, struct tcb *c, uint32_t segs);

/* rack.c */
void rack_arrived(struct tcb *c, const struct seg *s, struct ack_news *n);
void rack_adapt(const struct pb_tcp *e, struct tcb *c, const struct ack_news *n);
/* False: not yet, and for how long. */
bool rack_is_old(const struct tcb *c, const struct seg *s, uint32_t reo_us, uint64_t now_ns, uint64_t *wait_ns);
/* True: the reordering timer was set. */
bool rack_mark_lost(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void rack_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);

/* tlp.c */
bool tlp_schedule(struct pb_tcp *e, struct tcb *c, bool from_now, uint64_t now_ns);
void tlp_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
/* A recovery begins: there are no probes in it. */
void tlp_cancel(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void tlp_on_ack(struct pb_tcp *e, struct tcb *c, const struct ack_news *n);

/* recovery.c */
void recovery_on_ack(struct pb_tcp *e, struct tcb *c, struct ack_news *n);
void recovery_on_rto(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void enter_recovery(struct pb_tcp *e, struct tcb *c, bool ece, uint64_t now_ns);
void ca_open(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
/* Open, or disorder when something is known to be missing. */
void keep_open(const struct pb_tcp *e, struct tcb *c);
void reno_reset(struct tcb *c);
/* What is counted as arrived, at most what is not lost. True: it was more. */
bool reno_limit(struct tcb *c);
void reno_add(struct pb_tcp *e, struct tcb *c, struct ack_news *n);
/* n->segs were acknowledged, of so many bytes. */
void reno_remove(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t bytes);

/* undo.c */
void undo_arm(struct tcb *c);
bool any_retrans(const struct pb_tcp *e, const struct tcb *c);
/* True: the caller stops here. */
bool try_undo_recovery(struct pb_tcp *e, struct tcb *c, const struct ack_news *n);
bool try_undo_dsack(struct pb_tcp *e, struct tcb *c, const struct ack_news *n);
bool try_undo_partial(struct pb_tcp *e, struct tcb *c, const struct ack_news *n);
void loss_on_ack(struct pb_tcp *e, struct tcb *c, struct ack_news *n, uint32_t dups);

/* cwnd.c */
void prr_update(struct tcb *c, uint32_t delivered, bool new_loss, bool advanced);
uint32_t current_ssthresh(const struct tcb *c);
void reduce_cwnd(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void end_reduction(struct tcb *c);
void enter_cwr(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
bool cwnd_limited(const struct tcb *c);
/* After something was sent; limited: cwnd is what stopped it. */
void cwnd_validate(struct tcb *c, bool limited, uint64_t now_ns);
void cwnd_after_idle(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void cwnd_init(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
uint32_t initial_cwnd(const struct pb_tcp *e, const struct tcb *c);
void cwnd_on_ack(struct pb_tcp *e, struct tcb *c, const struct ack_news *n, uint32_t pipe_before, uint32_t lost_before);

/* rtt.c */
void rtt_sample(struct tcb *c, uint32_t rtt_us, uint64_t now_ns);
uint64_t rto_ns(const struct tcb *c);
uint64_t rto_due(const struct pb_tcp *e, const struct tcb *c, uint64_t now_ns);
void rtx_arm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void rtx_rearm(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void rtx_restart(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
/* Arms, keeps or stops the retransmission and persist timers after output. */
void rtx_review(struct pb_tcp *e, struct tcb *c, bool sent_new, uint64_t now_ns);

/* chrono.c */
void chrono_update(struct tcb *c, uint64_t now_ns);
void pace(struct tcb *c, uint32_t bytes, uint64_t now_ns);

/* trace.c; n: of the ACK, or NULL */
void trace_add(struct pb_tcp *e, const struct tcb *c, const struct ack_news *n, unsigned event, uint64_t now_ns);

/* path_mtu.c */
/* mtu: of the path, headers included; at least the least of its family. */
void reduce_mss(struct pb_tcp *e, struct tcb *c, uint32_t mtu);
/* A portion of the connections learns what their paths carry now. */
void pmtu_sweep(struct pb_tcp *e, uint64_t now_ns);

/* plpmtud.c */
/* The connection is established. mtu: what routers said of the path, 0: nothing. Sets the MSS and the initial window.
 */
void plpmtud_start(struct pb_tcp *e, struct tcb *c, uint32_t mtu, uint64_t now_ns);
/* A router says mtu: nothing larger is looked for. */
void plpmtud_told(struct pb_tcp *e, struct tcb *c, uint32_t mtu);
/* Nothing is to be learned from the probe that is out, or about to go: it goes as what fits. */
void plpmtud_forget(struct pb_tcp *e, struct tcb *c);
/* A timeout: in a row enough of them mean a black hole. */
void plpmtud_timeout(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
/* True: the next unsent segment is a probe now. */
bool plpmtud_try(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
void plpmtud_failed(struct pb_tcp *e, struct tcb *c);
void plpmtud_acked(struct pb_tcp *e, struct tcb *c, uint64_t now_ns);
#endif
