/* Counters of an engine. NSTAT: what Linux counts too, by the name that its nstat prints (SNMP MIBs Tcp and TcpExt),
 * and counted where Linux counts it. OWN: what nstat has no counter for. */
#ifndef PB_TCP_COUNTERS_H
#define PB_TCP_COUNTERS_H
#include "base/types.h"

/* (name, what is counted). Order is ABI: append at the end, of whichever kind. */
#define PB_TCP_COUNTERS(NSTAT, OWN)                                                                                    \
	NSTAT(TcpActiveOpens, "connections opened by us")                                                              \
	NSTAT(TcpPassiveOpens, "handshakes that a listener completed")                                                 \
	NSTAT(TcpAttemptFails, "handshakes that came to nothing")                                                      \
	NSTAT(TcpEstabResets, "connections that went from ESTABLISHED or CLOSE-WAIT to CLOSED, whoever ended them")    \
	NSTAT(TcpInSegs, "segments in")                                                                                \
	NSTAT(TcpOutSegs, "segments out, those sent again excepted")                                                   \
	NSTAT(TcpRetransSegs, "segments sent again")                                                                   \
	NSTAT(TcpOutRsts, "segments out with RST")                                                                     \
	NSTAT(TcpExtTCPTimeouts, "retransmission timeouts, of a SYN too, and the one that gives up")                   \
	NSTAT(TcpExtTCPFastRetrans, "segments sent again in fast recovery")                                            \
	NSTAT(TcpExtTCPSlowStartRetrans, "segments sent again after a timeout, the first excepted")                    \
	NSTAT(TcpExtTCPSackRecovery, "fast recoveries with SACK")                                                      \
	NSTAT(TcpExtTCPRenoRecovery, "fast recoveries without SACK")                                                   \
	NSTAT(TcpExtTCPLossProbes, "tail loss probes sent (RFC 8985 7)")                                               \
	NSTAT(TcpExtTCPLossProbeRecovery, "losses that a probe repaired")                                              \
	NSTAT(TcpExtTCPLostRetransmit, "retransmissions lost again")                                                   \
	NSTAT(TcpExtTCPFullUndo, "recoveries undone whole: nothing was lost")                                          \
	NSTAT(TcpExtTCPPartialUndo, "recoveries undone after an ACK of the first transmission")                        \
	NSTAT(TcpExtTCPDSACKUndo, "reductions undone because all retransmissions were reported as duplicates")         \
	NSTAT(TcpExtTCPLossUndo, "timeouts undone")                                                                    \
	NSTAT(TcpExtTCPSpuriousRTOs, "timeouts found spurious by F-RTO (RFC 5682)")                                    \
	NSTAT(TcpExtTCPSACKReneging, "receivers that took a SACK back (RFC 2018 8)")                                   \
	NSTAT(TcpExtTCPSACKReorder, "reordering seen by SACK")                                                         \
	NSTAT(TcpExtTCPRenoReorder, "reordering seen without SACK")                                                    \
	NSTAT(TcpExtTCPTSReorder, "reordering seen by timestamps")                                                     \
	NSTAT(TcpExtTCPSACKDiscard, "SACK blocks that cannot be true")                                                 \
	NSTAT(TcpExtTCPDSACKOldSent, "duplicates reported that lay below the window")                                  \
	NSTAT(TcpExtTCPDSACKOfoSent, "duplicates reported of out-of-order data")                                       \
	NSTAT(TcpExtTCPDSACKRecv, "reports of duplicates below the cumulative ACK")                                    \
	NSTAT(TcpExtTCPDSACKOfoRecv, "reports of duplicates above it")                                                 \
	NSTAT(TcpExtTCPDSACKIgnoredDubious, "reports of duplicates of what we never sent twice")                       \
	NSTAT(TcpExtTCPChallengeACK, "challenge ACKs (RFC 5961)")                                                      \
	NSTAT(TcpExtTCPSYNChallenge, "of these, for a SYN")                                                            \
	NSTAT(TcpExtTCPACKSkippedChallenge, "challenge ACKs not sent: another of that connection went a moment ago")   \
	NSTAT(TcpExtPAWSEstab, "segments refused by PAWS (RFC 7323 5)")                                                \
	NSTAT(TcpExtDelayedACKs, "ACKs sent by their timer")                                                           \
	NSTAT(TcpExtTCPPureAcks, "ACKs in without data; there is no header prediction, so Linux's TCPHPAcks are here") \
	NSTAT(TcpExtTCPOFOQueue, "segments that came out of order")                                                    \
	NSTAT(TcpExtTCPOFOMerge, "of these, such as another held whole")                                               \
	NSTAT(TcpExtTCPRcvQDrop, "segments dropped for want of receive memory")                                        \
	NSTAT(TcpExtTCPZeroWindowDrop, "segments in order dropped at a closed window, with nothing left to read")      \
	NSTAT(TcpExtTCPFromZeroWindowAdv, "windows opened again")                                                      \
	NSTAT(TcpExtTCPToZeroWindowAdv, "windows closed")                                                              \
	NSTAT(TcpExtTCPWinProbe, "probes of a closed window")                                                          \
	NSTAT(TcpExtTCPKeepAlive, "keepalive probes")                                                                  \
	NSTAT(TcpExtTCPAbortOnTimeout, "connections given up")                                                         \
	NSTAT(TcpExtTCPAbortOnData, "connections reset: data came after close, or a linger time of 0 threw it away")   \
	NSTAT(TcpExtTCPAbortOnClose, "connections reset because unread data was thrown away at close")                 \
	OWN(TimeWaitCutShort, "TIME-WAIT ended early: a new connection needed the place")                              \
	NSTAT(TcpExtTW, "connections that entered TIME-WAIT, or FIN-WAIT-2 with nobody to read")                       \
	OWN(TimeWaitReused, "TIME-WAIT ended by a new SYN (RFC 6191)")                                                 \
	NSTAT(TcpExtListenOverflows, "SYNs dropped: the listener's backlog was full")                                  \
	NSTAT(TcpExtListenDrops, "SYNs dropped for any reason")                                                        \
	NSTAT(TcpExtTCPMTUPFail, "path MTU probes lost (RFC 4821)")                                                    \
	NSTAT(TcpExtTCPMTUPSuccess, "path MTU probes that arrived")                                                    \
	NSTAT(TcpExtTCPHystartTrainDetect, "slow starts ended by HyStart: ACK train")                                  \
	NSTAT(TcpExtTCPHystartTrainCwnd, "cwnd at those, in segments, summed")                                         \
	NSTAT(TcpExtTCPHystartDelayDetect, "slow starts ended by HyStart: delay")                                      \
	NSTAT(TcpExtTCPHystartDelayCwnd, "cwnd at those, in segments, summed")                                         \
	NSTAT(TcpExtTCPDelivered, "segments delivered to the peer, SYN, FIN and duplicates too")                       \
	NSTAT(TcpExtTCPDeliveredCE, "of these, reported as marked by ECN")                                             \
	NSTAT(TcpExtTCPOrigDataSent, "segments with new data, or a FIN")                                               \
	OWN(EcnEchoIn, "ACKs in with ECE, after the handshake")                                                        \
	OWN(CwrIn, "segments in with CWR")                                                                             \
	OWN(CeIn, "segments in marked CE")                                                                             \
	OWN(PacingWaits, "times that pacing held a segment back")                                                      \
	NSTAT(TcpExtTCPRcvCoalesce, "small segments copied together")                                                  \
	OWN(PmtuUpdates, "ICMP errors that made a path's MTU smaller")                                                 \
	NSTAT(TcpExtOfoPruned, "times that out-of-order data made room for data in order (RFC 2018 8)")                \
	OWN(RetransChained, "segments sent again while the device held them: a new header before their bytes")         \
	OWN(RetransCopied, "segments sent again while the device held them: copied")                                   \
	OWN(ChallengeLimited, "challenge ACKs not sent: as many as a second allows had gone")                          \
	OWN(SendJoined, "times that small writes were joined into one segment")                                        \
	NSTAT(TcpExtTCPACKSkippedSeq, "ACKs not sent for a segment outside the window: another went a moment ago")     \
	NSTAT(TcpExtTCPACKSkippedPAWS, "the same for one that PAWS refused")                                           \
	NSTAT(TcpExtTCPACKSkippedSynRecv, "the same in SYN-RECEIVED")                                                  \
	NSTAT(TcpExtTCPACKSkippedTimeWait, "the same in TIME-WAIT")                                                    \
	NSTAT(TcpExtTCPOFODrop, "segments beyond a gap dropped for want of memory")                                    \
	NSTAT(TcpExtTCPSynRetrans, "of the segments sent again, SYNs and SYN-ACKs")                                    \
	NSTAT(TcpExtBeyondWindow, "segments dropped that end beyond the window")                                       \
	OWN(EmbryosGivenUp, "handshakes of a listener whose SYN-ACK was never answered")

enum pb_tcp_counter {
#define X(name, what) PB_C_##name,
	PB_TCP_COUNTERS(X, X)
#undef X
		PB_TCP_COUNTER_COUNT
};

/* "?" and "" past the end. */
PB_API const char *pb_tcp_counter_name(unsigned counter);
PB_API const char *pb_tcp_counter_what(unsigned counter);
/* Whether nstat has it too. False past the end. */
PB_API bool pb_tcp_counter_is_nstat(unsigned counter);
#endif
