/* lwIP (Debian's build, raw API, one thread) with itself over two interfaces joined by a copy: both ends send and
 * receive at once, as ours.c does. Debian's build takes all memory from malloc() and asserts, so it is an easy peer. */
#include <lwip/init.h>
#include <lwip/netif.h>
#include <lwip/priv/tcp_priv.h>
#include <lwip/tcp.h>
#include <lwip/timeouts.h>

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNK 16384u

struct side {
	struct tcp_pcb *pcb;
	uint64_t sent, received;
};

#define WIRE 1024

static struct side side[2];
static struct netif port[2];
/* What an interface sent, for the other one to receive. */
static struct pbuf *wire[2][WIRE];
static unsigned head[2], tail[2];

static uint64_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* The wire copies, as the mem device does. */
static err_t send_out(struct netif *n, struct pbuf *p, const ip4_addr_t *to)
{
	int i = n == &port[1];
	(void)to;
	if (head[i] - tail[i] == WIRE)
		return ERR_MEM;
	struct pbuf *copy = pbuf_alloc(PBUF_RAW, p->tot_len, PBUF_RAM);
	if (!copy || pbuf_copy(copy, p) != ERR_OK)
		return ERR_MEM;
	wire[i][head[i]++ % WIRE] = copy;
	return ERR_OK;
}

static err_t start_port(struct netif *n)
{
	n->output = send_out;
	n->mtu = 1500;
	n->name[0] = 'w';
	n->name[1] = 'p';
	return ERR_OK;
}

static err_t take(void *arg, struct tcp_pcb *pcb, struct pbuf *p, err_t err)
{
	static uint8_t in[65536];
	struct side *s = arg;
	if (!p || err != ERR_OK)
		return ERR_OK;
	pbuf_copy_partial(p, in, p->tot_len, 0);
	s->received += p->tot_len;
	tcp_recved(pcb, p->tot_len);
	pbuf_free(p);
	return ERR_OK;
}

static void adopt(int i, struct tcp_pcb *pcb)
{
	side[i].pcb = pcb;
	tcp_arg(pcb, &side[i]);
	tcp_recv(pcb, take);
	tcp_nagle_disable(pcb);
}

static err_t accepted(void *arg, struct tcp_pcb *pcb, err_t err)
{
	(void)arg;
	if (err == ERR_OK)
		adopt(1, pcb);
	return err;
}

static err_t connected(void *arg, struct tcp_pcb *pcb, err_t err)
{
	(void)arg;
	if (err == ERR_OK)
		adopt(0, pcb);
	return err;
}

static void turn(void)
{
	for (int i = 0; i < 2; i++)
		for (unsigned n = head[i] - tail[i]; n; n--) {
			struct pbuf *p = wire[i][tail[i]++ % WIRE];
			if (port[!i].input(p, &port[!i]) != ERR_OK)
				pbuf_free(p);
		}
	sys_check_timeouts();
}

static int fill(struct side *s, uint64_t goal)
{
	static uint8_t out[CHUNK];
	while (s->sent < goal) {
		uint32_t room = tcp_sndbuf(s->pcb);
		uint32_t k = room < CHUNK ? room : CHUNK;
		k = k > 1460 ? k - k % 1460 : k;
		if (!k || (k < 1460 && room < 1460))
			break;
		err_t err = tcp_write(s->pcb, out, (u16_t)k, TCP_WRITE_FLAG_COPY);
		if (err == ERR_MEM)
			break;
		if (err != ERR_OK)
			return -1;
		s->sent += k;
	}
	return tcp_output(s->pcb) == ERR_OK ? 0 : -1;
}

static int move(uint64_t bytes)
{
	uint64_t goal[2] = {side[0].sent + bytes, side[1].sent + bytes};
	uint64_t until = now_ns() + 60000000000u;
	while (side[0].received < goal[1] || side[1].received < goal[0]) {
		for (int i = 0; i < 2; i++)
			if (fill(&side[i], goal[i]))
				return -1;
		turn();
		if (now_ns() > until)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	uint64_t bytes = argc > 1 ? strtoull(argv[1], NULL, 0) : 64u << 20;
	ip4_addr_t ip[2], mask, gw;
	IP4_ADDR(&mask, 255, 255, 255, 0);
	IP4_ADDR(&gw, 0, 0, 0, 0);
	lwip_init();
	for (int i = 0; i < 2; i++) {
		IP4_ADDR(&ip[i], 10, 0, i, 1);
		netif_add(&port[i], &ip[i], &mask, &gw, NULL, start_port, ip_input);
		netif_set_link_up(&port[i]);
		netif_set_up(&port[i]);
	}
	struct tcp_pcb *l = tcp_new(), *c = tcp_new();
	ip_addr_t at;
	ip_addr_copy_from_ip4(at, ip[1]);
	/* By interface, or packets to an address of ours would not go out. */
	tcp_bind_netif(l, &port[1]);
	tcp_bind_netif(c, &port[0]);
	if (tcp_bind(l, &at, 80) != ERR_OK)
		return fprintf(stderr, "bind\n"), 1;
	l = tcp_listen(l);
	tcp_accept(l, accepted);
	if (tcp_connect(c, &at, 80, connected) != ERR_OK)
		return fprintf(stderr, "connect\n"), 1;
	for (int i = 0; i < 10000 && (!side[0].pcb || !side[1].pcb); i++)
		turn();
	if (!side[0].pcb || !side[1].pcb)
		return fprintf(stderr, "no handshake\n"), 1;
	if (move(bytes / 8))
		return fprintf(stderr, "transfer failed\n"), 1;
	uint64_t t0 = now_ns(), sent = side[0].sent + side[1].sent;
	if (move(bytes))
		return fprintf(stderr, "transfer failed\n"), 1;
	uint64_t ns = now_ns() - t0;
	sent = side[0].sent + side[1].sent - sent;
	double data = (double)sent / 1460;
	printf("{\"ns_per_segment\": %.2f, \"data_segments\": %.0f, \"mss\": %u, \"gbps\": %.3f}\n", (double)ns / data,
	       data, (unsigned)tcp_mss(side[0].pcb), (double)sent * 8 / (double)ns);
	return 0;
}
