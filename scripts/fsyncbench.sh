#!/usr/bin/env bash
# Times what the journal costs: write+fsync of new files and appends from 1 and 4 threads, and storms of create and unlink, on the kernel's
# ext4 (loop mount), fuse2fs (which writes no journal), inlinefs, and inlinefs on an image without a journal. All in one run: the peers take
# turns, round after round, each on a fresh image of the same kind, which `e2fsck -fn` judges afterwards. Prints medians and ratios, also of
# the calls of fsync(2) alone: how often a thread could have called it in the time that it spent there.
#
#   scripts/fsyncbench.sh [--bin PATH] [--dir DIR] [-rounds N] [-syncs N] [-files N] [-peers LIST] [-options OPTS]
#
#   --bin PATH   an inlinefs that is already built
#   --dir DIR    where the images are (default: a temporary directory; must be on the disk that is to be timed)
#   -rounds N    rounds (default 5)          -syncs N  fsyncs of the one-thread workloads (default 400; twice that with 4 threads)
#   -files N     files of a storm (3000)     -peers    of kernel,fuse2fs,inlinefs,no-journal
# Needs root (the kernel's mount). Exit codes: 0 done, 1 a peer failed, 2 usage, 3 missing.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

bin='' dir=''
args=()
while [ $# -gt 0 ]; do
	case $1 in
	--bin) [ $# -ge 2 ] || usage_error "$1 needs a value" && bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
	--dir) [ $# -ge 2 ] || usage_error "$1 needs a value" && dir=$(cd "$caller" && mkdir -p "$2" && realpath "$2") && shift 2 ;;
	-rounds | -syncs | -files | -peers | -options | -size) [ $# -ge 2 ] || usage_error "$1 needs a value" && args+=("$1" "$2") && shift 2 ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done
ensure_packages mkfs.ext4:e2fsprogs e2fsck:e2fsprogs fuse2fs:fuse2fs fusermount3:fuse3 || exit 3
is_root || missing "root: the kernel's loop mount"
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
find_go || exit 3
make_work
[ -n "$bin" ] || { bin=$WORK/inlinefs && build_inlinefs "$bin" mmap_conversion; }
go build -o "$WORK/fsyncbench" ./scripts/fsyncbench
"$WORK/fsyncbench" -bin "$bin" -dir "${dir:-$WORK}" "${args[@]}"
