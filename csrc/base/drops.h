/* Why a packet was not delivered: one list, from which the enum, the names and the explanations are made. New ones go
 * to the end: the numbers are part of the ABI. */
#ifndef PB_BASE_DROPS_H
#define PB_BASE_DROPS_H
#include "base/types.h"

#define PB_DROP_LIST(X)                                                                                                \
	X(NONE, "none", "not dropped")                                                                                 \
	X(L2_SHORT, "l2_short", "shorter than its Ethernet or VLAN header")                                            \
	X(L2_TYPE, "l2_type", "EtherType that nothing here handles")                                                   \
	X(L2_DST, "l2_dst", "unicast to another MAC address")                                                          \
	X(ARP_BAD, "arp_bad", "malformed ARP (RFC 826)")                                                               \
	X(IP_SHORT, "ip_short", "shorter than its IP header or total length")                                          \
	X(IP_VERSION, "ip_version", "IP version or header length invalid")                                             \
	X(IP_CSUM, "ip_csum", "IPv4 header checksum wrong (RFC 791)")                                                  \
	X(IP_FRAGMENT, "ip_fragment", "IP fragment (not reassembled)")                                                 \
	X(IP_OPTION, "ip_option", "IPv4 source route or malformed option, or IPv6 extension chain invalid")            \
	X(IP_SRC, "ip_src", "source address is multicast, broadcast or unspecified (RFC 1122 3.2.1.3)")                \
	X(IP_DST, "ip_dst", "destination address is not ours")                                                         \
	X(IP_LAND, "ip_land", "source equals destination (land attack)")                                               \
	X(IP_PROTO, "ip_proto", "protocol that nothing here handles")                                                  \
	X(ICMP_BAD, "icmp_bad", "malformed ICMP or wrong checksum")                                                    \
	X(UDP_BAD, "udp_bad", "malformed UDP or wrong checksum")                                                       \
	X(TCP_SHORT, "tcp_short", "shorter than its TCP header")                                                       \
	X(TCP_OFFSET, "tcp_offset", "TCP data offset invalid")                                                         \
	X(TCP_CSUM, "tcp_csum", "TCP checksum wrong")                                                                  \
	X(TCP_OPTION, "tcp_option", "TCP option with an invalid length")                                               \
	X(TCP_FLAGS, "tcp_flags", "impossible TCP flag combination")                                                   \
	X(TCP_PORT, "tcp_port", "TCP port 0")                                                                          \
	X(TCP_NO_FLOW, "tcp_no_flow", "no connection or listener; answered with RST unless it was one")                \
	X(TCP_BACKLOG, "tcp_backlog", "listener's backlog full")                                                       \
	X(TCP_NO_CONN, "tcp_no_conn", "connection table full")                                                         \
	X(TCP_PAWS, "tcp_paws", "timestamp older than the last one (RFC 7323 5.3)")                                    \
	X(TCP_WINDOW, "tcp_window", "outside the receive window (RFC 9293 3.10.7.4)")                                  \
	X(TCP_DUP, "tcp_dup", "all of it was received before")                                                         \
	X(TCP_ACK, "tcp_ack", "acknowledges what was never sent, or too old (RFC 5961 5.2)")                           \
	X(TCP_RST, "tcp_rst", "RST that is not in order (RFC 5961 3.2)")                                               \
	X(TCP_SYN, "tcp_syn", "SYN on a synchronised connection (RFC 5961 4.2)")                                       \
	X(TCP_CLOSED, "tcp_closed", "data after the receiving side was closed")                                        \
	X(TCP_OOO_LIMIT, "tcp_ooo_limit", "out-of-order store full")                                                   \
	X(TCP_RCVBUF, "tcp_rcvbuf", "receive buffer full")                                                             \
	X(NO_FRAME, "no_frame", "frame pool empty")                                                                    \
	X(TOO_LONG, "too_long", "larger than a frame or the MTU")                                                      \
	X(NO_NEIGH, "no_neigh", "next hop's MAC address unknown")                                                      \
	X(NO_ROUTE, "no_route", "no route to the destination")                                                         \
	X(EXC_FULL, "exc_full", "exception ring to Python full")                                                       \
	X(TX_FULL, "tx_full", "device did not take it and the backlog is full")                                        \
	X(TX_BAD, "tx_bad", "descriptor refused by the device")                                                        \
	X(RX_RING, "rx_ring", "receive ring or fill ring had no room (counted by the device)")                         \
	X(RX_BAD, "rx_bad", "descriptor from the device invalid")                                                      \
	X(NO_PEER, "no_peer", "the other end of a mem: pair is not open")                                              \
	X(LINK_LOSS, "link_loss", "lost by the impaired link")                                                         \
	X(LINK_QUEUE, "link_queue", "queue of the impaired link full")                                                 \
	X(L2_VLAN, "l2_vlan", "VLAN other than the engine's")                                                          \
	X(TCP_REFUSED, "tcp_refused", "refused by the accept policy; answered with RST")                               \
	X(LINK_DOWN, "link_down", "sent while the interface was set down")                                             \
	X(STRAY, "stray", "the ring to the engine that owns its flow was full, its pool empty, or it closed just now")

enum pb_drop {
#define X(id, name, why) PB_DROP_##id,
	PB_DROP_LIST(X)
#undef X
		PB_DROP_COUNT
};

struct pb_drops {
	uint64_t n[PB_DROP_COUNT];
};

/* The stable name of a reason ("tcp_csum") and a sentence that explains it; "?" when out of range. */
PB_API const char *pb_drop_name(unsigned reason);
PB_API const char *pb_drop_why(unsigned reason);
#endif
