#!/bin/sh
# shellcheck disable=SC2086 # lists of words throughout
# Installs the Debian packages that are missing (as root), or names them. Fetches nothing when all are there.
# Arguments: more packages.
set -u
packages="
gcc libc6-dev make pkg-config python3-dev python3-venv
libdpdk-dev dpdk libxdp-dev libbpf-dev libelf-dev clang llvm libclang-rt-14-dev
iproute2 ethtool tcpdump tshark iputils-ping
clang-format shellcheck $*"

if ! command -v dpkg-query >/dev/null; then
	echo "packages: no dpkg here. Needed, by their Debian names:" $packages >&2
	exit 0
fi

missing_packages() {
	for p in $packages; do
		dpkg-query -W -f='${db:Status-Status}\n' "$p" 2>/dev/null | grep -qx installed || echo "$p"
	done
}

missing=$(missing_packages)
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
	echo "packages: missing, and not root. As root: apt-get install" $missing >&2
	exit 0
fi

echo "packages: installing" $missing
export DEBIAN_FRONTEND=noninteractive
install="apt-get install -qq -y --no-install-recommends -o Dpkg::Use-Pty=0"
if ! $install $missing </dev/null >/dev/null 2>&1; then
	apt-get update -qq </dev/null
	known=""
	for p in $missing; do
		if apt-cache show "$p" >/dev/null 2>&1; then known="$known $p"; fi
	done
	$install $known </dev/null >/dev/null
fi
missing=$(missing_packages)
[ -z "$missing" ] || echo "packages: could not be installed, going on without:" $missing >&2
