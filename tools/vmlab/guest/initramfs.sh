#!/bin/busybox sh
# shellcheck shell=dash
# /init of the initramfs: the erofs root from the virtio disk, under an overlay in memory, then the guest's own init.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /ro /rw /new
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev 2>/dev/null
while read -r module; do $b insmod "/modules/$module"; done </modules.list

tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 100 ]; do
	$b usleep 20000
	tries=$((tries + 1))
done
$b mount -t erofs -o ro /dev/vda /ro || {
	echo "vmlab: no root"
	$b poweroff -f
}
$b mount -t tmpfs -o mode=755 tmpfs /rw
$b mkdir -p /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work overlay /new
for place in proc sys dev; do $b mount --move /$place /new/$place; done
exec $b switch_root /new /usr/sbin/vmlab-init
