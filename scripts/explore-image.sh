#!/usr/bin/env bash
# Builds the images that `inlinefs explore` starts every execution from: explore/testdata/plain.img.gz (no journal, 256 KiB) and
# journal.img.gz (jbd2, 3 MiB). They are checked in, so that explore needs no e2fsprogs. Usage: scripts/explore-image.sh [--help]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
case ${1:-} in
'') ;;
-h | --help)
	sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
	exit 0
	;;
*) usage_error "unknown argument $1" ;;
esac
need_cmd mkfs.ext4 e2fsprogs
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export E2FSPROGS_FAKE_TIME=1700000000
uuid=6c6e0001-0000-4000-8000-000000000001
truncate -s 256K "$work/plain.img"
mkfs.ext4 -q -b 1024 -I 256 -N 16 -m 0 -U $uuid -E hash_seed=$uuid,lazy_itable_init=0 -O inline_data,64bit,^has_journal,^resize_inode,^metadata_csum "$work/plain.img"
truncate -s 3M "$work/journal.img"
mkfs.ext4 -q -b 1024 -I 256 -N 16 -m 0 -U $uuid -E hash_seed=$uuid,lazy_itable_init=0 -J size=1 -O inline_data,64bit,has_journal,^resize_inode,^metadata_csum "$work/journal.img"
for n in plain journal; do
	e2fsck -fn "$work/$n.img" >/dev/null
	gzip -9n <"$work/$n.img" >"explore/testdata/$n.img.gz"
	ls -l "explore/testdata/$n.img.gz"
done
