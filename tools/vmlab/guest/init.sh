#!/bin/sh
# Process 1 of the guest: sets the machine up, runs /host/command.sh, and hands its exit status to the host.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 TERM=dumb
mkdir -p /dev/pts /dev/shm /dev/hugepages /run /tmp /host
mount -t devpts devpts /dev/pts
for place in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $place; done
mount -t hugetlbfs hugetlbfs /dev/hugepages
mount -t bpf bpf /sys/fs/bpf
ip link set lo up
modprobe -a 9pnet_virtio 9p
mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache=none host /host

# There is no udev: drivers by the modaliases of what is there.
for device in /sys/bus/pci/devices/*; do modprobe -q -b "$(cat "$device/modalias")" & done
wait
for device in /sys/bus/virtio/devices/*; do
	[ -e "$device" ] && modprobe -q -b "$(cat "$device/modalias")"
done
sleep 0.3

# Names that stay: the MAC address says pair and side (run-guest.sh); pair 0 is p00 and p01, pair 1 p10 and p11.
for file in /sys/class/net/*/address; do
	name=${file%/address}
	name=${name##*/}
	case $(cat "$file") in
	52:54:00:0?:00:0?)
		wanted=p$(cut -c 11 "$file")$(cut -c 17 "$file")
		[ "$name" = "$wanted" ] || ip link set "$name" name "$wanted"
		sysctl -qw "net.ipv6.conf.$wanted.disable_ipv6=1"
		;;
	esac
done

read -r up _ </proc/uptime
echo "vmlab: up after $up s, $(uname -r), $(nproc) CPUs" >/dev/console
cd /host || exit
limit=$(sed -n 's/.*vmlab\.timeout=\([0-9]*\).*/\1/p' /proc/cmdline)
setsid timeout -k 5 "${limit:-300}" sh /host/command.sh </dev/null >/dev/ttyS1 2>&1
status=$?
echo $status >/host/status
sync
sleep 0.2
poweroff -f 2>/dev/null || busybox poweroff -f
