#!/bin/bash
# Runs tests/vm in the guest: `make test-vm`. Builds the guest first when it is missing or the project has changed.
#
# Usage: test.sh [PYTEST ARGUMENTS]
#
# VMLAB_NICS: some of "igb e1000e vmxnet3 virtio" (default: all). VMLAB_KERNEL: another than the newest ("6.12").
# Needs root. Ends with pytest's summary and status.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
build=$(realpath -m "$here/../../build")
out=${VMLAB_OUT:-$build/vmlab}
share=$build/vmlab-share
[ "$(id -u)" -eq 0 ] || {
	echo "test-vm: needs root" >&2
	exit 4
}

missing=()
for pair in mmdebstrap:mmdebstrap cpio:cpio zstd:zstd xz:xz-utils unshare:util-linux ip:iproute2; do
	command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
done
if [ ${#missing[@]} -gt 0 ]; then
	echo "test-vm: installing ${missing[*]}"
	DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" </dev/null >/dev/null
fi
"$here/build-image.sh" "$out"

nics='' expect=''
for type in ${VMLAB_NICS:-igb e1000e vmxnet3 virtio}; do
	case $type in
	# As many queues as CPUs, spread by the card. Not hash=on: QEMU then spreads by itself, with a fault (README).
	virtio) nics+=' virtio:2:rss=on' expect+=' virtio_net' ;;
	*) nics+=" $type" expect+=" $type" ;;
	esac
done
kernel=()
[ -z "${VMLAB_KERNEL:-}" ] || kernel=(-k "$VMLAB_KERNEL")
mkdir -p "$share"
arguments=''
[ $# -eq 0 ] || arguments=$(printf '%q ' "$@")
export VMLAB_OUT=$out
# Huge pages for DPDK's drivers of cards, which do not work on others; an IOMMU (-i) for vfio-pci and virtio's zero copy;
# two NUMA nodes (-N).
exec "$here/run-guest.sh" "${kernel[@]}" -i -N -n "$nics" -m 3072 -a hugepages=256 -t 1800 -s "$share" \
	"cd /opt/pybypass && VMLAB_EXPECT='${expect# }' python3 -m pytest -ra -p no:cacheprovider --durations=5 ${arguments:-tests/vm}"
