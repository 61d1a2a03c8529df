# shellcheck shell=bash
# Functions shared by the scripts of this directory. Source it; it sets no options and runs nothing.
# Exit codes of every script: 0 as expected, 1 not as expected, 2 usage, 3 something missing on this machine (named).

# say prints a line, unless QUIET is set.
say() { [ -n "${QUIET:-}" ] || printf '%s\n' "$*"; }

# die ends the script with a line on standard error; the exit code is 1, or $DIE_CODE.
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit "${DIE_CODE:-1}"
}

# usage_error ends the script with exit code 2.
usage_error() { DIE_CODE=2 die "$* (--help shows the options)"; }

# missing ends the script with exit code 3.
missing() { DIE_CODE=3 die "$*"; }

# have_cmd NAME: is the command in PATH or in the sbin directories (which this function then adds)?
have_cmd() {
	case ":$PATH:" in
	*:/usr/sbin:*) ;;
	*) PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin ;;
	esac
	command -v "$1" >/dev/null 2>&1
}

# need_cmd NAME [PACKAGE]: ends the script (3) when the command is missing.
need_cmd() { have_cmd "$1" || missing "$1 is missing${2:+ (package $2)}"; }

# is_root: is this the superuser?
is_root() { [ "$(id -u)" = 0 ]; }

# is_debian: a Debian or Ubuntu with apt-get?
is_debian() {
	have_cmd apt-get && grep -Eqs '^ID(_LIKE)?=.*(debian|ubuntu)' /etc/os-release
}

# packages_missing COMMAND:PACKAGE... prints the packages whose command is missing.
packages_missing() {
	local pair
	for pair in "$@"; do
		have_cmd "${pair%%:*}" || printf '%s\n' "${pair##*:}"
	done | sort -u
}

# ensure_packages COMMAND:PACKAGE... installs the packages whose command is missing (Debian or Ubuntu, as root); else, or when that does
# not work, says exactly what is missing and returns 1.
ensure_packages() {
	local -a want=()
	local log
	mapfile -t want < <(packages_missing "$@")
	[ ${#want[@]} -gt 0 ] || return 0
	if is_root && is_debian; then
		printf 'installing: %s\n' "${want[*]}" >&2
		log=$(mktemp) || return 1
		if ! { DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${want[@]}" ||
			{ apt-get update -q &&
				DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${want[@]}"; }; } >"$log" 2>&1; then
			printf 'apt-get did not install them:\n' >&2
			tail -n 5 "$log" >&2
		fi
		rm -f "$log"
		mapfile -t want < <(packages_missing "$@")
		[ ${#want[@]} -gt 0 ] || return 0
	fi
	printf 'missing on this machine: %s\n' "${want[*]}" >&2
	if is_debian; then
		printf 'install with: sudo apt-get install %s\n' "${want[*]}" >&2
	fi
	return 1
}

# find_go puts a Go toolchain into PATH, looking where the official archive puts it. Returns 1 with a message when there is none that can
# build this module. Call it from inside the module.
find_go() {
	local want out
	want=$(awk '$1 == "go" { print $2; exit }' go.mod)
	if ! command -v go >/dev/null 2>&1 && [ -x /usr/local/go/bin/go ]; then
		PATH=$PATH:/usr/local/go/bin
	fi
	if ! command -v go >/dev/null 2>&1; then
		printf 'Go %s or newer is missing: see https://go.dev/dl/\n' "$want" >&2
		return 1
	fi
	# An older go fetches the wanted toolchain itself, unless it may not; asking for the module's version tells.
	if ! out=$(go version 2>&1); then
		printf 'Go %s or newer is missing: %s\n' "$want" "$out" >&2
		return 1
	fi
}

# fuse_missing prints why this machine can't mount a FUSE file system, or nothing when it can.
fuse_missing() {
	if [ ! -e /dev/fuse ] && is_root && have_cmd modprobe; then
		modprobe fuse >/dev/null 2>&1 || true
	fi
	if [ ! -e /dev/fuse ]; then
		echo "/dev/fuse is missing (no fuse module, or a container without --device /dev/fuse)"
	elif ! (exec 3<>/dev/fuse) 2>/dev/null; then
		echo "/dev/fuse cannot be opened by user $(id -un)"
	elif ! is_root && ! have_cmd fusermount3; then
		echo "neither root nor fusermount3 (package fuse3)"
	elif is_root && ! ((0x$(awk '$1 == "CapEff:" { print $2 }' /proc/self/status) >> 21 & 1)); then
		echo "root without CAP_SYS_ADMIN may not mount (a container without --cap-add SYS_ADMIN)"
	fi
}

# unmount DIR takes a mount down, by whichever way works; a busy one lazily.
unmount() {
	local i
	for i in 1 2 3 4 5; do
		mountpoint -q "$1" 2>/dev/null || return 0
		if is_root; then
			umount "$1" 2>/dev/null && return 0
		else
			fusermount3 -u "$1" 2>/dev/null && return 0
		fi
		sleep 0.2
	done
	printf 'unmount %s: still busy after %d tries, detaching it\n' "$1" "$i" >&2
	if is_root; then umount -l "$1"; else fusermount3 -u -z "$1"; fi
}

# on_exit_clean unmounts what is mounted under $WORK, ends the processes of PIDS, removes $WORK. Set up by make_work.
on_exit_clean() {
	local code=$? m pid
	trap - EXIT
	while read -r m; do
		[ -z "$m" ] || unmount "$m" || true
	done < <(awk -v w="$WORK/" 'index($5, w) == 1 { print $5 }' /proc/self/mountinfo | sort -r)
	for pid in "${PIDS[@]}"; do
		kill "$pid" 2>/dev/null || true
		wait "$pid" 2>/dev/null || true
	done
	rm -rf --one-file-system -- "$WORK"
	exit "$code"
}

# make_work makes a private directory, $WORK, which goes (with what is mounted below it) when the script ends. Add to PIDS the processes
# that must not outlive the script.
make_work() {
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/inlinefs.XXXXXX") || die "no temporary directory"
	PIDS=()
	trap on_exit_clean EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
}

# build_inlinefs OUT [TAGS] builds the program from the module's root.
build_inlinefs() { go build ${2:+-tags "$2"} -o "$1" ./cmd/inlinefs; }

# start_mount BIN IMAGE DIR [OPTIONS] mounts in the background, remembers the process in MOUNT_PID and PIDS, and waits until the mount is
# there. The daemon's words go to $WORK/mount.log. Returns 1 when the daemon ends without having mounted.
start_mount() {
	local i
	mkdir -p "$3"
	"$1" mount -f ${4:+-o "$4"} "$2" "$3" >>"$WORK/mount.log" 2>&1 &
	MOUNT_PID=$!
	PIDS+=("$MOUNT_PID")
	for ((i = 0; i < 600; i++)); do
		mountpoint -q "$3" && return 0
		kill -0 "$MOUNT_PID" 2>/dev/null || break
		sleep 0.1
	done
	kill "$MOUNT_PID" 2>/dev/null || true
	reap "$MOUNT_PID" || true
	return 1
}

# reap PID waits for a process of PIDS, takes it out (its number may be another's next) and returns its exit code.
reap() {
	local code=0 pid
	local -a rest=()
	wait "$1" || code=$?
	for pid in "${PIDS[@]}"; do
		[ "$pid" = "$1" ] || rest+=("$pid")
	done
	PIDS=("${rest[@]}")
	return "$code"
}

# stop_mount DIR unmounts and waits for the daemon of start_mount, whose write-back may outlast the unmount; returns its exit code.
stop_mount() {
	unmount "$1"
	reap "$MOUNT_PID"
}

# seconds DURATION turns 90, 90s or 2m into seconds on standard output; returns 1 for anything else.
seconds() {
	case $1 in
	*[!0-9sm]* | '' | s | m) return 1 ;;
	*[!0-9]*[!0-9]*) return 1 ;;
	*m) printf '%d\n' $((10#${1%m} * 60)) ;;
	*s) printf '%d\n' $((10#${1%s})) ;;
	*[0-9]) printf '%d\n' $((10#$1)) ;;
	*) return 1 ;;
	esac
}

# is_static FILE: ldd leaves with 1 when there is nothing to link.
is_static() { ! ldd "$1" >/dev/null 2>&1; }

# fetch_kernel downloads Debian's kernel package and unpacks it in $WORK; nothing is installed. Sets kernel (its image) and modules (their directory).
fetch_kernel() {
	local package
	if ! is_debian || ! have_cmd dpkg-deb; then
		missing "a kernel to boot: this is no Debian, give --kernel PATH (and --modules DIR)"
	fi
	package=$(LC_ALL=C apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
	if [ -z "$package" ] && is_root; then
		apt-get update -q >"$WORK/apt.log" 2>&1 || true
		package=$(LC_ALL=C apt-cache depends linux-image-amd64 2>/dev/null | sed -n 's/^ *Depends: \(linux-image-[0-9].*\)$/\1/p' | head -n 1)
	fi
	[ -n "$package" ] || missing "Debian's kernel package (apt-cache knows no linux-image-amd64); give --kernel PATH"
	say "downloading $package"
	mkdir "$WORK/deb"
	(cd "$WORK/deb" && apt-get download -q "$package") >"$WORK/apt.log" 2>&1 || {
		tail -n 3 "$WORK/apt.log" >&2
		missing "$package: apt-get download did not work; give --kernel PATH"
	}
	dpkg-deb -x "$WORK"/deb/*.deb "$WORK/kernel"
	kernel=$(echo "$WORK"/kernel/boot/vmlinuz-*)
	modules=$(echo "$WORK"/kernel/lib/modules/*)
	[ -f "$kernel" ] || missing "a kernel image inside $package"
}
