#!/bin/bash
# Builds the guest of the laboratory of emulated NICs: a tree with QEMU, a Debian 13 root with the project in it, kernels.
#
# Usage: build-image.sh OUT
#
# Needs root and mmdebstrap, cpio, zstd, xz. All comes from the Debian mirror that apt of this machine uses (MIRROR= for
# another). What is there already and still fits is kept. Works in a mount namespace of its own: nothing stays mounted.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build-image.sh OUT}
if [ -z "${VMLAB_MOUNTS:-}" ]; then
	mkdir -p "$out"
	VMLAB_MOUNTS=1 exec unshare --mount -- "$0" "$(cd "$out" && pwd)"
fi
cd "$out"

suite=trixie
# The newest QEMU and kernel: igb and virtio-net do zero copy only with late kernels.
qemu_packages=qemu-system-x86/$suite-backports,qemu-system-common/$suite-backports,qemu-system-data/$suite-backports
qemu_packages+=,seabios/$suite-backports,erofs-utils,kmod
guest_packages=busybox-static,kmod,mount,iproute2,ethtool,procps,libxdp1,libbpf1
guest_packages+=,python3-numpy,python3-pyelftools,python3-pyroute2,python3-pytest
# To compile the project inside; these stay out of the image.
guest_packages+=,gcc,libc6-dev,make,pkgconf,python3-dev,cython3,python3-setuptools,clang,libxdp-dev,libbpf-dev,libelf-dev
# DPDK 24.11; its drivers are found through the libraries of the link, so all of them stay in.
guest_packages+=,libdpdk-dev,pci.ids
# Drivers; what they depend on is added from modules.dep.
modules="virtio_blk virtio_net virtio_iommu e1000e igb vmxnet3 9p 9pnet_virtio erofs overlay veth 8021q xsk_diag"
modules+=" vfio-pci vfio_iommu_type1 uio_pci_generic"
# Flow rules of DPDK's net_tap.
modules+=" tun sch_multiq sch_ingress cls_flower act_gact act_skbedit act_mirred"
# What the initramfs loads to reach the root.
boot_modules="virtio_blk erofs overlay"

say() { echo "vmlab: [${SECONDS} s] $*"; }

mirror() {
	# shellcheck disable=SC2016 # the words are apt's
	apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' |
		awk '$1 == "Debian" && $2 !~ /-/ {print $3; exit}'
}

mirror=${MIRROR:-$(mirror)}
[ -n "$mirror" ] || {
	echo "vmlab: apt knows no Debian mirror: run apt-get update, or set MIRROR" >&2
	exit 1
}
keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# tree NAME PACKAGES: a Debian root, made anew when the list of packages changed.
tree() {
	local name=$1 packages=$2
	if [ "$(cat "$name.packages" 2>/dev/null)" = "$packages" ]; then return; fi
	rm -rf "$name" "$name.packages"
	mmdebstrap -q --variant=apt --mode=root --include="$packages" \
		--dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
		--dpkgopt='path-exclude=/usr/share/locale/*' --aptopt='APT::Install-Recommends "false"' \
		$suite "$PWD/$name" "deb [signed-by=$keyring] $mirror $suite main" \
		"deb [signed-by=$keyring] $mirror $suite-backports main"
	rm -rf "$name"/var/cache/apt/* "$name"/var/lib/apt/lists/*
	echo "$packages" >"$name.packages"
	say "$name"
}

# Debian packages of the guest's suites, without touching this machine's apt.
apt_options=(
	-qq -o APT::Sandbox::User=root -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$out/apt/sources"
	-o "Dir::State::lists=$out/apt/lists" -o "Dir::Cache=$out/apt/cache" -o Dir::State::status=/dev/null
)

guest_apt() {
	mkdir -p apt/sources apt/lists/partial apt/cache/archives/partial apt/debs
	printf 'Types: deb\nURIs: %s\nSuites: %s %s-backports\nComponents: main\nSigned-By: %s\n' \
		"$mirror" $suite $suite "$keyring" >apt/sources/guest.sources
	apt-get update "${apt_options[@]}"
}

# The newest kernel of the suite and of its backports, newest first.
kernel_releases() {
	apt-cache "${apt_options[@]}" show linux-image-amd64 | grep ^Depends | grep -o 'linux-image-[0-9][^ ,]*' |
		sed s/linux-image-// | sort -ruV
}

# in_qemu_tree DIRECTORY COMMAND...: with the directory as /mnt there; its kmod and mkfs.erofs fit the guest.
in_qemu_tree() {
	local directory=$1 status=0
	shift
	mount --bind "$directory" qemuroot/mnt
	chroot qemuroot "$@" || status=$?
	umount qemuroot/mnt
	return $status
}

# needed RELEASE TREE MODULE...: paths of the modules and of what they need, in the order to load them.
needed() {
	local release=$1 tree=$2
	shift 2
	for module; do
		in_qemu_tree "$tree" modprobe -d /mnt -S "$release" --show-depends "$module" 2>/dev/null ||
			echo "vmlab: kernel $release has no module $module" >&2
	done | awk '$1 == "insmod" && !seen[$2]++ {print $2}'
}

# kernel RELEASE: vmlinuz-X.Y, initrd-X.Y.gz and, in the guest's root, the modules that we want.
kernel() {
	local release=$1 short unpacked source target
	short=$(echo "$release" | cut -d. -f1,2)
	unpacked=kernel-$short
	target=guestroot/usr/lib/modules/$release
	if [ -e "initrd-$short.gz" ] && [ -d "$target" ]; then return; fi
	rm -rf "$unpacked" "$target"
	mkdir -p "$unpacked" "$target"
	(
		cd apt/debs
		apt-get "${apt_options[@]}" download "linux-binary-$release" "linux-modules-$release" 2>/dev/null ||
			apt-get "${apt_options[@]}" download "linux-image-$release"
	)
	for package in apt/debs/linux-*-"$release"_*.deb; do dpkg-deb -x "$package" "$unpacked"; done
	source=$unpacked/usr/lib/modules/$release
	if [ ! -d "$source" ]; then
		mkdir -p "$unpacked/usr/lib"
		mv "$unpacked/lib/modules" "$unpacked/usr/lib/"
	fi
	[ -e "$unpacked/lib" ] || ln -s usr/lib "$unpacked/lib"
	cp "$(find "$unpacked" -name 'vmlinuz*' | head -n 1)" "vmlinuz-$short"
	touch "$source/modules.order" "$source/modules.builtin" "$source/modules.builtin.modinfo" # newer packages have none
	in_qemu_tree "$unpacked" depmod -b /mnt "$release"
	# shellcheck disable=SC2086 # a list of words
	needed "$release" "$unpacked" $modules | while read -r file; do
		file=${file##*"/modules/$release/"}
		mkdir -p "$target/$(dirname "$file")"
		xz -dc "$source/$file" >"$target/${file%.xz}" # unpacked here, not by the emulated machine
	done
	cp "$source"/modules.builtin* "$source/modules.order" "$target/"
	in_qemu_tree guestroot depmod -b /mnt "$release"
	initramfs "$release" "$short"
	rm -rf "$unpacked"
	say "kernel $release"
}

initramfs() {
	local release=$1 short=$2 tree=initramfs-$2
	rm -rf "$tree"
	mkdir -p "$tree/bin" "$tree/modules"
	cp guestroot/bin/busybox "$tree/bin/"
	install -m 755 "$here/guest/initramfs.sh" "$tree/init"
	# shellcheck disable=SC2086 # a list of words
	needed "$release" guestroot $boot_modules | while read -r file; do
		cp "guestroot/${file#/mnt/}" "$tree/modules/"
		basename "$file" >>"$tree/modules.list"
	done
	(cd "$tree" && find . | cpio --quiet -o -H newc | gzip -1) >"initrd-$short.gz"
	rm -rf "$tree"
}

root_image() {
	install -m 755 "$here/guest/init.sh" guestroot/usr/sbin/vmlab-init
	install -m 755 "$here/guest/igb-rxlatch.py" guestroot/usr/local/bin/
	"$here/install-project.sh" "$out/guestroot"
	in_qemu_tree "$out" mkfs.erofs --quiet --exclude-regex='^usr/(lib/(llvm|gcc)|include|lib/x86_64-linux-gnu/[^/]*\.a$)' \
		--exclude-regex='^usr/lib/x86_64-linux-gnu/lib(LLVM|clang)' /mnt/root.new /mnt/guestroot >/dev/null
	mv root.new root.erofs
	say "root.erofs, $(du -h root.erofs | cut -f 1)"
}

tree qemuroot "$qemu_packages"
tree guestroot "$guest_packages"
if [ "$(cat modules 2>/dev/null)" != "$modules" ]; then rm -rf releases modules initrd-*.gz; fi
if [ ! -e releases ] || [ ! -d "guestroot/usr/lib/modules/$(head -n 1 releases)" ]; then
	guest_apt
	kernel_releases >releases.new
	while read -r release; do kernel "$release" </dev/null; done <releases.new
	mv releases.new releases
	echo "$modules" >modules
fi
root_image
