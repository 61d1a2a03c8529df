#!/usr/bin/env bash
# The real kernel as a witness: boots one in QEMU (software emulation, two processors), lets it mount the seed image with its own ext4, runs
# the workload of `inlinefs stress` on it, and reads the serial console. Then runs the same workload on inlinefs with the mkwrite strategy,
# and prints both side by side: the check that fires and the chain of calls that leads to it must be the same.
#
# Sibling races (inlinefs stress --list) can be put to the same witness: each in a boot of its own, on a healthy image, beside inlinefs with
# mkwrite and with its default strategy. What they show is told, it does not decide.
#
# Nothing here touches the host's kernel: the image is only ever mounted inside the guest, and on the host by inlinefs.
#
#   scripts/kernel-oracle.sh [--kernel PATH [--modules DIR]] [--siblings LIST] [--timeout D] [--duration D] [--seed N] [--out DIR] [--quiet]
#
#   --kernel PATH   boot this kernel image (x86-64) instead of Debian's, which is downloaded (not installed) with apt-get
#   --modules DIR   where that kernel's modules are, if ext4 or virtio-blk are modules
#   --siblings LIST sibling races, separated by commas, healthy for the main race where conversions succeed, or none (default
#                   healthy,seek-hole), up to 30 s in the guest
#   --timeout D     bound on the guest: 120, 120s or 2m (default 120s); a guest that does not fall is booted up to three times
#   --duration D    length of a race (default 10s); inlinefs is tried up to four times, for one, two, three and six times as long
#   --seed N        seed of the workload, the same for both (default 1)
#   --out DIR       keep the console (console.log) and the result of inlinefs (mkwrite.json) there, and those of the siblings (NAME.log,
#                   NAME-mkwrite.json, NAME-default.json)
#   --quiet         no progress, only the comparison
#
# Set BIN_MKWRITE to use a static binary that is already built.
# Exit codes: 0 the kernel fell with the BUG of the nil handle and inlinefs was convicted of the same, 1 not so, 2 usage, 3 something missing
# on this machine (named).
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

absolute() {
	case $1 in
	/*) printf '%s\n' "$1" ;;
	*) printf '%s\n' "$caller/$1" ;;
	esac
}

kernel='' modules='' timeout=120 duration=10 seed=1 out='' QUIET='' siblings=healthy,seek-hole
# The guest is slow: it gets more time, and needs it only when it does not fall.
sibling_duration=10 guest_duration=30
while [ $# -gt 0 ]; do
	case $1 in
	--kernel | --modules | --siblings | --timeout | --duration | --seed | --out)
		[ -n "${2:-}" ] || usage_error "$1 needs a value"
		;;
	esac
	case $1 in
	--kernel) kernel=$(absolute "$2") && shift 2 ;;
	--modules) modules=$(absolute "$2") && shift 2 ;;
	--siblings) siblings=$2 && shift 2 ;;
	--timeout | --duration)
		n=$(seconds "$2") || usage_error "$1 $2: want seconds, as in 20, 20s or 1m"
		[ "$n" -gt 0 ] || usage_error "$1 $2: want at least a second"
		if [ "$1" = --timeout ]; then timeout=$n; else duration=$n; fi
		shift 2
		;;
	--seed)
		[[ $2 =~ ^[0-9]+$ ]] || usage_error "--seed $2: want a number"
		seed=$2
		shift 2
		;;
	--out) out=$(absolute "$2") && shift 2 ;;
	--quiet) QUIET=1 && shift ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done
[ -z "$modules" ] || [ -n "$kernel" ] || usage_error "--modules without --kernel"
[ -z "$kernel" ] || [ -f "$kernel" ] || usage_error "--kernel $kernel: no such file"
[ -z "$modules" ] || [ -d "$modules" ] || usage_error "--modules $modules: no such directory"

[ "$(uname -m)" = x86_64 ] || missing "an x86-64 machine: the guest runs this machine's busybox (found $(uname -m))"
ensure_packages qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio mkfs.ext4:e2fsprogs debugfs:e2fsprogs \
	e2fsck:e2fsprogs fusermount3:fuse3 || exit 3
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"
is_static "$(command -v busybox)" || missing "a static busybox (package busybox-static); the one here needs libraries"
find_go || exit 3
make_work
out=${out:-$WORK/out}
mkdir -p "$out"

# pack_modules DIR copies the modules that the guest may need, uncompressed, into DIR.
pack_modules() {
	local name file base n=10
	mkdir -p "$1"
	[ -n "$modules" ] || return 0
	for name in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci virtio_blk crc16 crc32c_generic \
		crc32c-cryptoapi libcrc32c mbcache jbd2 ext4; do
		n=$((n + 1))
		while read -r file; do
			base=$n-${file##*/}
			case $file in
			*.ko) cp "$file" "$1/$base" ;;
			*.ko.xz) need_cmd xz xz-utils && xz -dc "$file" >"$1/${base%.xz}" ;;
			*.ko.zst) need_cmd zstd zstd && zstd -qdc "$file" >"$1/${base%.zst}" ;;
			*.ko.gz) gzip -dc "$file" >"$1/${base%.gz}" ;;
			esac
		done < <(find "$modules" -type f \( -name "$name.ko" -o -name "$name.ko.*" \))
	done
}

# make_initramfs FILE packs what the guest runs.
make_initramfs() {
	local root=$WORK/root
	mkdir -p "$root"/{bin,dev,proc,sys,tmp,mnt}
	cp -L "$(command -v busybox)" "$root/bin/busybox"
	cp "$bin" "$root/inlinefs"
	cp scripts/oracle/init.sh "$root/init"
	chmod 755 "$root/init" "$root/inlinefs" "$root/bin/busybox"
	printf 'DURATION=%d SIBLING=%d SEED=%s WRITES=200\n' "$duration" "$guest_duration" "$seed" >"$root/oracle.conf"
	pack_modules "$root/modules"
	(cd "$root" && find . | cpio -o -H newc --quiet) | gzip -1 >"$1"
}

# make_seed FILE makes the image: 8 MiB whose group 0 claims more free blocks than it has.
make_seed() {
	rm -f "$1"
	truncate -s 8M "$1"
	mkfs.ext4 -q -F -b 4096 -I 256 -O inline_data,^has_journal,^metadata_csum,64bit -N 64 "$1"
	debugfs -w -R 'set_bg 0 free_blocks_count 150994969' "$1" >"$WORK/debugfs.log" 2>&1 || die "debugfs set_bg did not work"
}

# make_healthy FILE BLOCKSIZE makes an image of 64 MiB on which conversions succeed, as inlinefs stress makes it.
make_healthy() {
	rm -f "$1"
	truncate -s 64M "$1"
	mkfs.ext4 -q -F -b "$2" -I 256 -O inline_data,^has_journal,metadata_csum,64bit "$1"
}

# boot IMAGE CONSOLE [SIBLING] runs the guest until it says that it is done, QEMU ends, or the time is up.
boot() {
	local console=$2 pid i
	: >"$console"
	qemu-system-x86_64 -accel tcg,thread=multi -cpu max -smp 2 -m 768 -nodefaults -no-user-config -display none -monitor none -no-reboot \
		-kernel "$kernel" -initrd "$WORK/initramfs.gz" -append 'console=ttyS0 printk.time=1 panic=1 loglevel=7'"${3:+ oracle_sibling=$3}" \
		-drive "file=$1,format=raw,if=none,id=seed" -device virtio-blk-pci,drive=seed \
		-serial "file:$console" </dev/null >"$WORK/qemu.log" 2>&1 &
	pid=$!
	PIDS+=("$pid")
	for ((i = 0; i < timeout * 2; i++)); do
		kill -0 "$pid" 2>/dev/null || break
		if grep -aq 'oracle: end:' "$console"; then
			break
		fi
		sleep 0.5
	done
	((i < timeout * 2)) || printf 'oracle: the time limit of %d s ended the guest\n' "$timeout" >>"$console"
	kill "$pid" 2>/dev/null || true
	reap "$pid" 2>/dev/null || true
	if [ ! -s "$console" ]; then
		tail -n 5 "$WORK/qemu.log" >&2
		die "the guest left nothing on its console"
	fi
}

bin=${BIN_MKWRITE:+$(absolute "$BIN_MKWRITE")}
if [ -n "$bin" ]; then
	[ -x "$bin" ] || missing "$bin is no program (BIN_MKWRITE)"
	is_static "$bin" || missing "$bin is not static (BIN_MKWRITE; build it with CGO_ENABLED=0)"
else
	say "building inlinefs with -tags mkwrite_conversion"
	bin=$WORK/inlinefs
	CGO_ENABLED=0 build_inlinefs "$bin" mkwrite_conversion
fi
go build -o "$WORK/oracle" ./scripts/oracle
[ -n "$kernel" ] || fetch_kernel
make_initramfs "$WORK/initramfs.gz"
for attempt in 1 2 3; do
	say "booting ${kernel##*/} in QEMU, attempt $attempt of 3: race of $duration s, seed $seed, at most $timeout s"
	make_seed "$WORK/seed.img"
	boot "$WORK/seed.img" "$out/console.log"
	! grep -aq 'kernel BUG at fs/ext4/ext4_jbd2\.c' "$out/console.log" || break
done

attempt=0
for factor in 1 2 3 6; do
	attempt=$((attempt + 1))
	code=0
	say "inlinefs mkwrite, attempt $attempt of 4: $((duration * factor)) s, seed $seed"
	rm -f "$out/mkwrite.json"
	"$bin" stress --scenario seed --strategy mkwrite --seed "$seed" --duration "$((duration * factor))s" --json "$out/mkwrite.json" \
		>"$WORK/stress.log" 2>&1 || code=$?
	case $code in
	0 | 1) ;;
	*)
		tail -n 20 "$WORK/stress.log" >&2
		[ "$code" = 3 ] && exit 3
		die "inlinefs stress ended with exit code $code, want 0 or 1"
		;;
	esac
	! grep -Eq '"nil-handle"[[:space:]]*:[[:space:]]*[1-9]' "$out/mkwrite.json" || break
done

# sibling NAME runs one sibling race in the guest and on inlinefs.
sibling() {
	local code size=4096 name=${1//^/-} strategy conversion
	[ "$1" != small-blocks ] || size=1024
	say "$1: booting ${kernel##*/}, $guest_duration s at most, then inlinefs, $sibling_duration s"
	make_healthy "$WORK/healthy.img" "$size"
	boot "$WORK/healthy.img" "$out/$name.log" "$1"
	for strategy in mkwrite default; do
		code=0 conversion=$strategy
		[ "$strategy" != default ] || conversion=$default
		rm -f "$out/$name-$strategy.json"
		"$plain" stress --scenario "$1" --conversion "$conversion" --seed "$seed" --duration "${sibling_duration}s" --quiet \
			--json "$out/$name-$strategy.json" >"$WORK/stress.log" 2>&1 || code=$?
		case $code in
		0 | 1 | 4) ;;
		*)
			tail -n 20 "$WORK/stress.log" >&2
			die "inlinefs stress --scenario $1 ended with exit code $code, want 0, 1 or 4"
			;;
		esac
	done
	pairs+=("$1=$out/$name")
}

pairs=()
if [ "$siblings" != none ]; then
	plain=$WORK/inlinefs-plain
	build_inlinefs "$plain" ''
	default=$("$plain" version | sed -n 's/^strategy: //p')
	IFS=, read -ra list <<<"$siblings"
	for s in "${list[@]}"; do
		[ "$s" = healthy ] || "$plain" stress --list | grep -qF "$s (image:" || usage_error "--siblings $siblings: inlinefs stress --list knows no $s"
	done
	for s in "${list[@]}"; do
		sibling "$s"
	done
fi

say ""
code=0
"$WORK/oracle" "$out/console.log" "$out/mkwrite.json" "${pairs[@]}" || code=$?
[ "$code" = 0 ] || exit 1
