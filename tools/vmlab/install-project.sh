#!/bin/bash
# Copies the project into the guest's root and compiles it there, by chroot: under emulation a compiler is slow.
#
# Usage: install-project.sh ROOT
set -euo pipefail

root=${1:?usage: install-project.sh ROOT}
project=$(cd "$(dirname "$0")/../.." && pwd)
target=$root/opt/pybypass

# What git knows, so that a change of one file compiles one file.
rm -rf "$target/tests" # a test that was removed or renamed here must not run there
mkdir -p "$target"
cd "$project"
git ls-files -z --cached --others --exclude-standard -- . ':!docs' ':!tests/fuzz' | while IFS= read -r -d '' file; do
	if [ -f "$file" ] && ! cmp -s "$file" "$target/$file"; then
		mkdir -p "$target/$(dirname "$file")"
		cp "$file" "$target/$file"
	fi
done
rm -f "$target"/pybypass/bpf/*.o # the build goes on without those that clang refuses; here that is a failure
log=$root/../project.log
if ! chroot "$root" sh -c 'cd /opt/pybypass && LC_ALL=C.UTF-8 python3 setup.py -q build_ext --inplace' >"$log" 2>&1 ||
	! ls "$target"/pybypass/bpf/pb_xdp_generic.bpf.o "$target"/pybypass/bpf/pb_xdp_meta.bpf.o >/dev/null; then
	cat "$log" >&2
	exit 1
fi
