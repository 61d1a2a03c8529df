#!/usr/bin/env bash
# Appends to files while another thread maps their last page, stores and unmaps, on the kernel's ext4 (a loop mount without inline_data, where
# the race is harmless), fuse2fs, and inlinefs in its three mmap modes; prints how many files lost appended bytes. The kernel's FUSE loses them since
# Linux 6.17, whatever the file system (docs/fuse-append.md); inlinefs must lose none where its mode says so, and then the exit code is 0.
#
#   scripts/appendrace.sh [--rounds N] [--appends N] [--bin PATH] [--guest]
#
#   --rounds N    files for each line (default 100)
#   --appends N   appends of 8 bytes to each file (default 100)
#   --bin PATH    an inlinefs that is already built
#   --guest       the mode cached once more on Debian's kernel, which is downloaded (not installed) and booted in QEMU, 20 files
# Exit codes: 0 no line lost bytes that must not, 1 one did, 2 usage, 3 something missing on this machine.
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

rounds=100 appends=100 bin='' guest=''
while [ $# -gt 0 ]; do
	case $1 in
	--rounds | --appends | --bin) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--rounds) rounds=$2 && shift 2 ;;
	--appends) appends=$2 && shift 2 ;;
	--bin) bin=$(cd "$caller" && realpath "$2") && shift 2 ;;
	--guest) guest=1 && shift ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done
for n in "$rounds" "$appends"; do
	case $n in
	'' | *[!0-9]* | 0) usage_error "$n is no count" ;;
	esac
done
ensure_packages mkfs.ext4:e2fsprogs e2fsck:e2fsprogs fuse2fs:fuse2fs fusermount3:fuse3 || exit 3
if [ -n "$guest" ]; then
	[ "$(uname -m)" = x86_64 ] || missing "an x86-64 machine: the guest runs this machine's busybox (found $(uname -m))"
	ensure_packages qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio || exit 3
	is_static "$(command -v busybox)" || missing "a static busybox (package busybox-static); the one here needs libraries"
fi
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
find_go || exit 3
make_work
[ -n "$bin" ] || { bin=$WORK/inlinefs && build_inlinefs "$bin"; }
go build -o "$WORK/appendrace" ./scripts/appendrace

img=$WORK/image mnt=$WORK/mnt
mkdir "$mnt"
bad=0

# up PEER and down PEER mount and unmount the image.
up() {
	case $1 in
	kernel) mount -t ext4 -o loop "$img" "$mnt" ;;
	fuse2fs)
		fuse2fs -f -o rw,fakeroot "$img" "$mnt" >>"$WORK/mount.log" 2>&1 &
		MOUNT_PID=$!
		PIDS+=("$MOUNT_PID")
		for _ in $(seq 100); do
			mountpoint -q "$mnt" && return
			sleep 0.1
		done
		return 1
		;;
	*) start_mount "$bin" "$img" "$mnt" "mmap=$1" ;;
	esac
}

down() {
	case $1 in
	kernel) umount "$mnt" ;;
	*) stop_mount "$mnt" ;;
	esac
}

# line PEER FEATURES START MUST prints one line; MUST is "none" where nothing may be lost.
line() {
	local peer=$1 start=$3 must=$4 out files added maps lost bytes
	truncate -s 64M "$img" && mkfs.ext4 -q -F -O "$2" "$img"
	up "$peer" && "$WORK/appendrace" -dir "$mnt" -rounds "$rounds" -start "$start" -prepare && down "$peer" || die "$peer: no files"
	# Mounted anew, nothing is known of the files but what is on the disk.
	up "$peer" && out=$("$WORK/appendrace" -dir "$mnt" -rounds "$rounds" -appends "$appends" -start "$start") && down "$peer" || die "$peer: no race"
	read -r files added maps lost bytes <<<"$out"
	e2fsck -fn "$img" >"$WORK/fsck" 2>&1 || { cat "$WORK/fsck"; die "$peer: e2fsck"; }
	printf '%-16s %6d %8d %9d %9d %11d %8d\n' "$peer" "$start" "$files" "$added" "$maps" "$lost" "$bytes"
	[ "$must" != none ] || [ "$lost" = 0 ] || bad=$((bad + 1))
}

# in_guest boots Debian's kernel with this inlinefs and races there.
in_guest() {
	local root=$WORK/root
	fetch_kernel
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,mnt,modules}
	cp -L "$(command -v busybox)" "$root/bin/busybox"
	find "$modules" -name fuse.ko -exec cp {} "$root/modules" \;
	[ -s "$root/modules/fuse.ko" ] || missing "an uncompressed fuse.ko in ${modules##*/}: compressed modules are not unpacked here"
	CGO_ENABLED=0 build_inlinefs "$root/inlinefs"
	CGO_ENABLED=0 go build -o "$root/appendrace" ./scripts/appendrace
	truncate -s 16M "$root/image" && mkfs.ext4 -q -F -O inline_data,^has_journal "$root/image"
	cp scripts/appendrace/init.sh "$root/init"
	chmod 755 "$root/init"
	printf 'ROUNDS=20 APPENDS=%d\n' "$appends" >"$root/race.conf"
	(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$WORK/initramfs.gz"
	timeout 300 qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 1024 -nodefaults -no-user-config -display none -monitor none \
		-no-reboot -kernel "$kernel" -initrd "$WORK/initramfs.gz" -append 'console=ttyS0 panic=1 quiet' -serial "file:$WORK/console" \
		</dev/null >"$WORK/qemu.log" 2>&1 || { cat "$WORK/qemu.log" "$WORK/console" || true; die "the guest did not end"; }
	grep -aq '^race: end' "$WORK/console" || { tail -n 20 "$WORK/console"; die "no race in the guest"; }
	tr -d '\r' <"$WORK/console" | sed -n 's/^race: //p' | while read -r what start files added maps lost bytes; do
		case $what in
		kernel) printf 'Linux %s, in QEMU\n' "$start" ;;
		cached) printf '%-16s %6d %8d %9d %9d %11d %8d\n' "$what" "$start" "$files" "$added" "$maps" "$lost" "$bytes" ;;
		esac
	done
}

printf 'Linux %s\n%-16s %6s %8s %9s %9s %11s %8s\n' "$(uname -r)" 'file system' size files appends mappings 'files lost' bytes
for start in 42 5000; do
	if is_root; then
		line kernel ^inline_data "$start" none
	else
		printf 'kernel: skipped, a loop mount needs root\n'
	fi
	line fuse2fs ^inline_data "$start" any
	line cached inline_data "$start" any
	# observe sees what is inline when it is opened, and a file in blocks not.
	line observe inline_data "$start" "$([ "$start" = 42 ] && echo none || echo any)"
	line direct inline_data "$start" none
done
[ -z "$guest" ] || in_guest
[ "$bad" = 0 ] || die "$bad lines lost bytes that must not"
