/* Makes an interface leave VLAN tags to the device, as a VLAN interface on top of it would: a tcx program that pushes
 * tag TCI on all that goes out, until stdin ends. The kernel keeps such a tag beside the packet. */
#define _GNU_SOURCE
#include "xsk_check.h"

#include <bpf/bpf.h>
#include <net/if.h>
#include <unistd.h>

#define PB_TCX_EGRESS 47 /* enum bpf_attach_type: since 6.6 */
#define INSN(c, d, s, i)                                                                                               \
	{                                                                                                              \
		.code = (c), .dst_reg = (d), .src_reg = (s), .imm = (i)                                                \
	}

int xsk_vlan(int argc, char **argv)
{
	struct xsk_args a;
	if (xsk_args_read(&a, argc, argv, "a"))
		return 2;
	const struct bpf_insn insns[] = {
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_2, 0, 0x0081), /* 0x8100, big-endian */
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_3, 0, (int)a.count),
		INSN(BPF_JMP | BPF_CALL, 0, 0, BPF_FUNC_skb_vlan_push),
		INSN(BPF_ALU64 | BPF_MOV | BPF_K, BPF_REG_0, 0, -1), /* TCX_NEXT */
		INSN(BPF_JMP | BPF_EXIT, 0, 0, 0),
	};
	int prog = bpf_prog_load(BPF_PROG_TYPE_SCHED_CLS, "push", "Dual BSD/GPL", insns, PB_ARRAY_LEN(insns), NULL);
	int link = prog < 0 ? prog : bpf_link_create(prog, (int)if_nametoindex(a.cfg.ifname), PB_TCX_EGRESS, NULL);
	printf("{\"ret\":%d}\n", link < 0 ? link : 0);
	char c;
	while (link >= 0 && read(0, &c, 1) > 0)
		;
	return link < 0;
}
