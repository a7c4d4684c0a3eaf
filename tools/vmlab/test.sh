#!/bin/bash
# Runs tests/vm in the guest: `make test-vm`. Builds the guest first when it is missing or the project has changed.
#
# Usage: test.sh [PYTEST ARGUMENTS]
#
# Two boots: with an IOMMU for all of tests/vm but test_uio_vm.py and test_giant_vm.py, and without one for those; with
# arguments, the one that they name. VMLAB_NICS: some of "igb e1000e vmxnet3 virtio" (default: all). VMLAB_KERNEL: another than the newest ("6.12").
# Needs root. Ends with pytest's summaries and the status of the last boot that failed.
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

# boot NAME SECONDS OPTION...: a guest with these options of run-guest.sh, in which pytest gets $arguments.
# Huge pages for DPDK's drivers of cards, which do not work on others; two NUMA nodes (-N).
status=0
boot() {
	local name=$1 seconds=$2
	shift 2
	echo "test-vm: $name"
	"$here/run-guest.sh" "${kernel[@]}" -N -n "$nics" -m 3072 -a hugepages=256 -t "$seconds" -s "$share" "$@" \
		"cd /opt/pybypass && VMLAB_EXPECT='${expect# }' python3 -m pytest -ra -p no:cacheprovider --durations=5 $arguments" || status=$?
}

# An IOMMU (-i) for vfio-pci and virtio's zero copy. Without one cards go to DPDK by uio_pci_generic; that guest has pages of
# 1 GB, and memory for some more on each node: the kernel, which leaves nothing of a gigabyte whole, has its own there too.
giant=(-m 12288 -a 'nokaslr hugepages=256 hugepagesz=1G hugepages=0:1,1:2')
case $arguments in
'')
	arguments=tests/vm boot 'with an IOMMU' 2700 -i
	arguments='tests/vm/test_uio_vm.py tests/vm/test_giant_vm.py' boot 'without an IOMMU' 900 "${giant[@]}"
	;;
*test_uio_vm* | *test_giant_vm*) boot 'without an IOMMU' 900 "${giant[@]}" ;;
*) boot 'with an IOMMU' 2700 -i ;;
esac
exit $status
