/* Counters of an engine, by the names that Linux's nstat prints (SNMP MIBs Tcp and TcpExt). */
#ifndef PB_TCP_COUNTERS_H
#define PB_TCP_COUNTERS_H
#include "base/types.h"

/* X(name, what is counted). Order is ABI: append at the end. */
#define PB_TCP_COUNTERS(X)                                                                                             \
	X(TcpActiveOpens, "connections opened by us")                                                                  \
	X(TcpPassiveOpens, "SYNs answered")                                                                            \
	X(TcpAttemptFails, "handshakes that came to nothing")                                                          \
	X(TcpEstabResets, "connections that a RST of the peer ended")                                                  \
	X(TcpInSegs, "segments in")                                                                                    \
	X(TcpOutSegs, "segments out, retransmissions included")                                                        \
	X(TcpRetransSegs, "segments sent again")                                                                       \
	X(TcpOutRsts, "segments out with RST")                                                                         \
	X(TcpExtTCPTimeouts, "retransmission timeouts, of a SYN too")                                                  \
	X(TcpExtTCPFastRetrans, "segments sent again in fast recovery")                                                \
	X(TcpExtTCPSlowStartRetrans, "segments sent again after a timeout, the first excepted")                        \
	X(TcpExtTCPSackRecovery, "fast recoveries with SACK")                                                          \
	X(TcpExtTCPRenoRecovery, "fast recoveries without SACK")                                                       \
	X(TcpExtTCPLossProbes, "tail loss probes sent (RFC 8985 7)")                                                   \
	X(TcpExtTCPLossProbeRecovery, "losses that a probe repaired")                                                  \
	X(TcpExtTCPLostRetransmit, "retransmissions lost again")                                                       \
	X(TcpExtTCPFullUndo, "recoveries undone whole: nothing was lost")                                              \
	X(TcpExtTCPPartialUndo, "recoveries undone after an ACK of the first transmission")                            \
	X(TcpExtTCPDSACKUndo, "reductions undone because all retransmissions were reported as duplicates")             \
	X(TcpExtTCPLossUndo, "timeouts undone")                                                                        \
	X(TcpExtTCPSpuriousRTOs, "timeouts found spurious by F-RTO (RFC 5682)")                                        \
	X(TcpExtTCPSACKReneging, "receivers that took a SACK back (RFC 2018 8)")                                       \
	X(TcpExtTCPSACKReorder, "reordering seen by SACK")                                                             \
	X(TcpExtTCPRenoReorder, "reordering seen without SACK")                                                        \
	X(TcpExtTCPTSReorder, "reordering seen by timestamps")                                                         \
	X(TcpExtTCPSACKDiscard, "SACK blocks that cannot be true")                                                     \
	X(TcpExtTCPDSACKOldSent, "duplicates reported that lay below the window")                                      \
	X(TcpExtTCPDSACKOfoSent, "duplicates reported of out-of-order data")                                           \
	X(TcpExtTCPDSACKRecv, "reports of duplicates below the cumulative ACK")                                        \
	X(TcpExtTCPDSACKOfoRecv, "reports of duplicates above it")                                                     \
	X(TcpExtTCPDSACKIgnoredDubious, "reports of duplicates of what we never sent twice")                           \
	X(TcpExtTCPChallengeACK, "challenge ACKs (RFC 5961)")                                                          \
	X(TcpExtTCPSYNChallenge, "of these, for a SYN")                                                                \
	X(TcpExtTCPACKSkipped, "ACKs not sent because of a rate limit")                                                \
	X(TcpExtPAWSEstab, "segments refused by PAWS (RFC 7323 5)")                                                    \
	X(TcpExtDelayedACKs, "ACKs sent by their timer")                                                               \
	X(TcpExtTCPPureAcks, "ACKs in without data")                                                                   \
	X(TcpExtTCPOFOQueue, "segments kept out of order")                                                             \
	X(TcpExtTCPOFOMerge, "out-of-order segments that overlapped")                                                  \
	X(TcpExtTCPRcvQDrop, "segments dropped for want of receive memory")                                            \
	X(TcpExtTCPZeroWindowDrop, "segments dropped at a closed window")                                              \
	X(TcpExtTCPFromZeroWindowAdv, "windows opened again")                                                          \
	X(TcpExtTCPToZeroWindowAdv, "windows closed")                                                                  \
	X(TcpExtTCPWinProbe, "probes of a closed window")                                                              \
	X(TcpExtTCPKeepAlive, "keepalive probes")                                                                      \
	X(TcpExtTCPAbortOnTimeout, "connections given up")                                                             \
	X(TcpExtTCPAbortOnData, "connections reset because data was thrown away")                                      \
	X(TcpExtTCPAbortOnClose, "connections reset because unread data was thrown away at close")                     \
	X(TcpExtTCPAbortOnLinger, "connections reset by a linger time of 0")                                           \
	X(TcpExtTCPTimeWaitOverflow, "TIME-WAIT ended early: a new connection needed the place")                       \
	X(TcpExtTW, "connections that entered TIME-WAIT")                                                              \
	X(TcpExtTWRecycled, "TIME-WAIT ended by a new SYN (RFC 6191)")                                                 \
	X(TcpExtListenOverflows, "SYNs dropped: the listener's backlog was full")                                      \
	X(TcpExtListenDrops, "SYNs dropped for any reason")                                                            \
	X(TcpExtTCPMTUPFail, "path MTU probes lost (RFC 4821)")                                                        \
	X(TcpExtTCPMTUPSuccess, "path MTU probes that arrived")                                                        \
	X(TcpExtTCPHystartTrainDetect, "slow starts ended by HyStart: ACK train")                                      \
	X(TcpExtTCPHystartTrainCwnd, "cwnd at those, in segments, summed")                                             \
	X(TcpExtTCPHystartDelayDetect, "slow starts ended by HyStart: delay")                                          \
	X(TcpExtTCPHystartDelayCwnd, "cwnd at those, in segments, summed")                                             \
	X(TcpExtTCPDelivered, "segments delivered to the peer")                                                        \
	X(TcpExtTCPDeliveredCE, "of these, reported as marked by ECN")                                                 \
	X(TcpExtTCPOrigDataSent, "segments with new data")                                                             \
	X(TcpExtTCPEcnEchoIn, "ACKs in with ECE, after the handshake")                                                 \
	X(TcpExtTCPCwrIn, "segments in with CWR")                                                                      \
	X(TcpExtTCPCeIn, "segments in marked CE")                                                                      \
	X(TcpExtTCPPacingWaits, "times that pacing held a segment back")                                               \
	X(TcpExtTCPRcvCoalesce, "small segments copied together")                                                      \
	X(TcpExtTCPPmtuUpdates, "ICMP errors that made a path's MTU smaller")                                          \
	X(TcpExtOfoPruned, "times that out-of-order data made room for data in order (RFC 2018 8)")                    \
	X(TcpExtTCPRetransChained, "segments sent again while the device held them: a new header before their bytes")  \
	X(TcpExtTCPRetransCopied, "segments sent again while the device held them: copied")

enum pb_tcp_counter {
#define X(name, what) PB_C_##name,
	PB_TCP_COUNTERS(X)
#undef X
		PB_TCP_COUNTER_COUNT
};

/* "?" and "" past the end. */
PB_API const char *pb_tcp_counter_name(unsigned counter);
PB_API const char *pb_tcp_counter_what(unsigned counter);
#endif
