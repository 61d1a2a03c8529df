#!/usr/bin/env bash
# Damages images at random (superblock, descriptors, bitmaps, inode tables, directories), mounts each, walks it and changes it. An image is
# mounted or clearly refused; a panic, a request of more than 2 s, a hang or a refusal without a word is a failure.
#
#   scripts/damage.sh [--images N] [--seed N] [--bin PATH]
#
#   --images N   number of images (default 500)
#   --seed N     what the damage is made from (default: from the clock, printed)
#   --bin PATH   an inlinefs that is already built
# Exit codes: 0 all images pass, 1 one does not, 2 usage, 3 something missing on this machine.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

images=500 seed=$(date +%s) bin=''
while [ $# -gt 0 ]; do
	case $1 in
	--images | --seed | --bin) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--images) images=$2 && shift 2 ;;
	--seed) seed=$2 && shift 2 ;;
	--bin) bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done

ensure_packages mkfs.ext4:e2fsprogs debugfs:e2fsprogs dumpe2fs:e2fsprogs fusermount3:fuse3 || exit 3
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
find_go || exit 3
make_work
[ -n "$bin" ] || { bin=$WORK/inlinefs && build_inlinefs "$bin" mmap_conversion; }
printf 'seed %s\n' "$seed"
TMPDIR=$WORK INLINEFS_BIN=$bin INLINEFS_IMAGES=$images INLINEFS_SEED=$seed GOCACHE=$(go env GOCACHE) \
	go test -v -count=1 -timeout 2h ./scripts/damage | grep -v '^=== '
