#!/bin/bash
# Boots the guest with pairs of emulated NICs, each pair joined back to back, and runs a command in it.
#
# Usage: run-guest.sh [-k KERNEL] [-n "NIC ..."] [-i] [-N] [-c CPUS] [-m MIB] [-a "KERNEL ARGUMENTS"] [-t SECONDS] [-s DIR] COMMAND...
#
#   -n  each makes TWO such NICs: TYPE[:QUEUES[:QEMU DEVICE OPTIONS]], TYPE one of virtio, igb, e1000e, vmxnet3.
#       Pair N is the interfaces pN0 and pN1 of the guest.
#   -i  with an IOMMU (virtio does zero copy only then)
#   -N  two NUMA nodes with half of the memory each: CPU 0 on node 0, the others on node 1, and so the second end of
#       each pair; the first is of none
#   -k  one of those that build-image.sh found, as "6.12"; default: the newest
#   -s  a directory that is /host in the guest; the kernel's console is written to console.log there. QEMU's monitor (QMP) is at
#       qmp.sock, and reached from the guest through files (monitor.py); each NIC has its interface's name as its id, and how to
#       plug it in again is in monitor.ID.device.
#   -t  seconds for the command
#
# VMLAB_OUT is where build-image.sh put the image (default: build/vmlab). VMLAB_ACCEL=kvm or tcg,thread=multi instead of what is found.
# The command runs as root in /host; its output is ours. Exits with its status; 124: too long; 125: the guest died.
# Works in network and mount namespaces of its own: nothing is left behind.
set -u

out=$(realpath "${VMLAB_OUT:-$(dirname "$0")/../../build/vmlab}")
if [ -z "${VMLAB_NAMESPACES:-}" ]; then
	VMLAB_NAMESPACES=1 exec unshare --net --mount -- "$0" "$@"
fi

kernel='' nics='' iommu='' numa='' cpus=2 memory=2048 arguments='' seconds=240 share=''
while getopts k:n:iNc:m:a:t:s: option; do
	case $option in
	k) kernel=$OPTARG ;;
	n) nics=$OPTARG ;;
	i) iommu=1 ;;
	N) numa=1 ;;
	c) cpus=$OPTARG ;;
	m) memory=$OPTARG ;;
	a) arguments=$OPTARG ;;
	t) seconds=$OPTARG ;;
	s) share=$OPTARG ;;
	*) exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ -n "$kernel" ] || kernel=$(head -n 1 "$out/releases" | cut -d. -f1,2)
[ -e "$out/vmlinuz-$kernel" ] || {
	echo "vmlab: no kernel $kernel in $out" >&2
	exit 2
}
if [ -z "$share" ]; then
	share=$(mktemp -d)
	trap 'rm -rf "$share"' EXIT
fi
share=$(cd "$share" && pwd)
rm -f "$share/status" "$share/console.log" "$share/qmp.sock" "$share"/monitor.*
printf '%s\n' "$*" >"$share/command.sh"

# KVM where it is the processor's own; nested ones without it cannot run a stock kernel at a usable speed.
accel=${VMLAB_ACCEL:-}
if [ -z "$accel" ]; then
	accel=tcg,thread=multi
	if [ -w /dev/kvm ] && { [ -d /sys/module/kvm_intel ] || [ -d /sys/module/kvm_amd ]; }; then accel=kvm; fi
fi
case $accel in
kvm) cpu=host irqchip=,kernel-irqchip=split ;;
*) cpu=max irqchip= ;;
esac

# shellcheck disable=SC2054 # the commas are QEMU's
qemu=(
	qemu-system-x86_64 -accel "$accel" -cpu "$cpu" -M "q35$irqchip" -m "$memory" -smp "$cpus"
	-nodefaults -nographic -no-reboot -monitor none -qmp unix:/share/qmp.sock,server=on,wait=off
	-chardev file,id=console,path=/share/console.log -serial chardev:console
	-chardev stdio,id=output,signal=off -serial chardev:output
	-kernel "/out/vmlinuz-$kernel" -initrd "/out/initrd-$kernel.gz"
	-drive file=/out/root.erofs,format=raw,if=none,id=root,readonly=on -device virtio-blk-pci,drive=root
	-fsdev local,id=host,path=/share,security_model=none -device virtio-9p-pci,fsdev=host,mount_tag=host
)
behind_iommu=''
if [ -n "$iommu" ]; then
	# shellcheck disable=SC2054
	qemu+=(-device intel-iommu,intremap=on,caching-mode=on,device-iotlb=on)
	behind_iommu=,iommu_platform=on,disable-legacy=on,ats=on
	arguments="intel_iommu=on $arguments"
fi

far_bus=pcie.0
if [ -n "$numa" ]; then
	# shellcheck disable=SC2054
	qemu+=(
		-object "memory-backend-ram,id=near,size=$((memory / 2))M" -numa node,nodeid=0,memdev=near,cpus=0
		-object "memory-backend-ram,id=far,size=$((memory / 2))M" -numa "node,nodeid=1,memdev=far,cpus=1-$((cpus - 1))"
		-device pxb-pcie,id=farbus,bus_nr=128,numa_node=1,bus=pcie.0,addr=0x7
	)
	far_bus=farbus
fi

# Nothing is to be on the wire but what the guest sends.
echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6

# A bridge without a mind of its own: it forwards everything, PTP and LLDP frames too, and learns nothing.
bridge() {
	ip link add "$1" type bridge stp_state 0 ageing_time 0 mcast_snooping 0 group_fwd_mask 0xfff8
	ip link set "$1" up
}

pair=0 slot=8
for nic in $nics; do
	IFS=: read -r type queues options <<<"$nic"
	queues=${queues:-1} options=${options:+,$options}
	[ "$type" != virtio ] || bridge "br$pair"
	for side in 0 1; do
		id=p$pair$side
		# A root port for each NIC: only so does each have an IOMMU group of its own.
		bus=pcie.0
		[ $side = 0 ] || bus=$far_bus
		qemu+=(-device "pcie-root-port,id=r$id,bus=$bus,chassis=$((slot + 1)),addr=$(printf '0x%x' $slot)")
		slot=$((slot + 1))
		device="id=$id,netdev=$id,mac=52:54:00:0$pair:00:0$side,bus=r$id,romfile="
		if [ "$type" = virtio ]; then
			multi=''
			[ "$queues" -le 1 ] || multi=multi_queue
			ip tuntap add dev "$id" mode tap $multi vnet_hdr
			ip link set "$id" mtu 9000 master "br$pair" up
			qemu+=(-netdev "tap,id=$id,ifname=$id,script=no,downscript=no,queues=$queues,vhost=off")
			device="virtio-net-pci,$device,mq=on,vectors=$((2 * queues + 2))$behind_iommu$options"
		else
			qemu+=(-netdev "hubport,id=$id,hubid=$pair")
			device="$type,$device$options"
		fi
		qemu+=(-device "$device")
		echo "$device" >"$share/monitor.$id.device"
	done
	pair=$((pair + 1))
done

tree=$out/qemuroot
mkdir -p "$tree/out" "$tree/share"
mount --bind "$out" "$tree/out"
mount --bind "$share" "$tree/share"
mount --bind /dev "$tree/dev"
mount -t proc proc "$tree/proc"
mount -t sysfs sys "$tree/sys"
"$(dirname "$0")/monitor.py" "$share" &
timeout -k 5 $((seconds + 60)) chroot "$tree" "${qemu[@]}" </dev/null \
	-append "console=ttyS0 panic=-1 quiet loglevel=4 vmlab.timeout=$seconds $arguments" 2> >(grep -v 'is not connected to host network' >&2)
ended=$?
if [ -s "$share/status" ]; then exit "$(cat "$share/status")"; fi
if [ $ended = 124 ]; then
	echo "vmlab: still running after $((seconds + 60)) s" >&2
	exit 124
fi
echo "vmlab: QEMU ended with $ended and the guest left no status; its console:" >&2
tail -n 20 "$share/console.log" >&2
exit 125
