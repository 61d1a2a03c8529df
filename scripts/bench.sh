#!/usr/bin/env bash
# Times the same work on the kernel's ext4 (loop mount), fuse2fs, the floor of any go-fuse file system (scripts/nullfs, in memory) and inlinefs,
# one after the other on the same machine, and prints a table with inlinefs's ratio to each. Judges every image by `e2fsck -fn` afterwards.
#
#   scripts/bench.sh [--files N] [--big MIB] [--peers LIST] [--options OPTS] [--no-journal] [--out DIR] [--bin PATH]
#
#   --files N       small files (default 5000)
#   --big MIB       size of the large file (default 256)
#   --peers LIST    of kernel,fuse2fs,floor,direct,inlinefs (default all but direct, which is inlinefs with mmap=direct; the ratios are those of
#                   the last)
#   --options OPTS  mount options of inlinefs
#   --no-journal    images without a journal
#   --out DIR       keeps the results as JSON
#   --bin PATH      an inlinefs that is already built
# The kernel and the cold workloads (which drop the machine's caches) need root. Exit codes: 0 done, 1 a peer failed, 2 usage, 3 missing.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

files=5000 big=256 peers=kernel,fuse2fs,floor,inlinefs options='' journal=has_journal out='' bin=''
while [ $# -gt 0 ]; do
	case $1 in
	--files | --big | --peers | --options | --out | --bin) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--files) files=$2 && shift 2 ;;
	--big) big=$2 && shift 2 ;;
	--peers) peers=$2 && shift 2 ;;
	--options) options=$2 && shift 2 ;;
	--no-journal) journal=^has_journal && shift ;;
	--out) out=$(cd "$caller" && mkdir -p "$2" && realpath "$2") && shift 2 ;;
	--bin) bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done

ensure_packages mkfs.ext4:e2fsprogs e2fsck:e2fsprogs fusermount3:fuse3 || exit 3
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
find_go || exit 3
make_work
[ -n "$bin" ] || { bin=$WORK/inlinefs && build_inlinefs "$bin" mmap_conversion; }
go build -o "$WORK/bench" ./scripts/bench
go build -o "$WORK/nullfs" ./scripts/nullfs
out=${out:-$WORK}
img=$WORK/image mnt=$WORK/mnt
mkdir "$mnt"

# A mount is taken down and put up again in the middle of a run by this helper, so it is a script of its own.
cat >"$WORK/mount" <<END
#!/usr/bin/env bash
# mount KIND: puts the image up; mount -u: takes it down and waits until nobody has the image open.
set -euo pipefail
. '$PWD/scripts/lib.sh'
case \$1 in
kernel) mount -t ext4 -o loop,nodiscard '$img' '$mnt' ;;
fuse2fs) fuse2fs -o fakeroot,rw '$img' '$mnt' >>'$WORK/mount.log' 2>&1 ;;
inlinefs) '$bin' mount ${options:+-o '$options'} '$img' '$mnt' >>'$WORK/mount.log' 2>&1 ;;
direct) '$bin' mount -o 'mmap=direct${options:+,$options}' '$img' '$mnt' >>'$WORK/mount.log' 2>&1 ;;
floor) '$WORK/nullfs' '$mnt' >>'$WORK/mount.log' 2>&1 </dev/null & ;;
-u)
	unmount '$mnt'
	for ((i = 0; i < 600; i++)); do
		open=0
		for fd in /proc/[0-9]*/fd/*; do
			[ "\$(readlink "\$fd" 2>/dev/null)" != '$img' ] || open=1
		done
		[ "\$open" = 1 ] || exit 0
		sleep 0.1
	done
	exit 1
	;;
esac
for ((i = 0; i < 300; i++)); do
	mountpoint -q '$mnt' && exit 0
	sleep 0.1
done
exit 1
END
chmod +x "$WORK/mount"

# one PEER mounts a fresh image, runs the work, and judges the image.
one() {
	local cold='' code
	rm -f "$img"
	mkfs.ext4 -q -F -I 256 -O "inline_data,$journal" "$img" 2G >"$WORK/mkfs" 2>&1 || { cat "$WORK/mkfs"; return 1; }
	: >"$WORK/mount.log"
	"$WORK/mount" "$1" || { cat "$WORK/mount.log"; printf '%s: not mounted\n' "$1"; return 1; }
	# The floor forgets everything when it is unmounted.
	if is_root && [ "$1" != floor ]; then
		cold="'$WORK/mount' -u && sync && echo 3 >/proc/sys/vm/drop_caches && '$WORK/mount' $1"
	fi
	code=0
	"$WORK/bench" run -files "$files" -big "$big" -cold "$cold" -label "$1" -json "$out/$1.json" "$mnt" || code=$?
	"$WORK/mount" -u || { printf '%s: not unmounted\n' "$1"; return 1; }
	if [ "$1" != floor ] && ! e2fsck -fn "$img" >"$WORK/fsck" 2>&1; then
		tail -n 20 "$WORK/fsck"
		printf '%s: e2fsck -fn is not content\n' "$1"
		code=1
	fi
	return "$code"
}

bad=0
results=()
IFS=, read -r -a list <<<"$peers"
for peer in "${list[@]}"; do
	case $peer in
	kernel) is_root || { printf 'skipped: kernel (needs root)\n'; continue; } ;;
	fuse2fs) ensure_packages fuse2fs:fuse2fs || { printf 'skipped: fuse2fs (not installed)\n'; continue; } ;;
	floor | direct | inlinefs) ;;
	*) usage_error "--peers: unknown peer $peer" ;;
	esac
	printf '\n== %s\n' "$peer"
	if one "$peer"; then
		results+=("$out/$peer.json")
	else
		bad=$((bad + 1))
		[ ! -s "$out/$peer.json" ] || results+=("$out/$peer.json")
	fi
done
is_root || printf 'skipped: cold workloads (dropping caches needs root)\n'
printf '\n%s small files of 100 bytes, a large one of %s MiB, %s\n\n' "$files" "$big" "$journal"
[ ${#results[@]} = 0 ] || "$WORK/bench" table "${results[@]}"
[ "$bad" = 0 ] || die "$bad peers failed"
