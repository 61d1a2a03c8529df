#!/usr/bin/env bash
# Builds inlinefs with each of the two conversion strategies, races write(2) against page faults on a real mount of the seed image with
# each, and compares: mkwrite (convert in the page fault) must be convicted of the nil handle, mmap (convert before the mapping) must be
# clean. Ends with the verdict of `inlinefs compare`.
#
#   scripts/compare.sh [--duration D] [--seed N] [--out DIR] [--quiet]
#
#   --duration D  length of a run: 20, 20s or 1m (default 20s). A mkwrite run that shows no nil handle is repeated up to three times,
#                 two, three and six times as long; mmap runs as long as the last of them.
#   --seed N      seed of the workload, the same for both strategies (default 1)
#   --out DIR     where mkwrite.json and mmap.json go (default: out/ in the source tree)
#   --quiet       no progress of the runs, only the verdict
#
# Set BIN_MKWRITE and BIN_MMAP to use binaries that are already built; Go is not needed then.
# Exit codes: 0 as expected, 1 not as expected, 2 usage, 3 something missing on this machine (named), 4 hang.
set -euo pipefail
# Paths given by the caller are meant from where the caller is.
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

absolute() {
	case $1 in
	/*) printf '%s\n' "$1" ;;
	*) printf '%s\n' "$caller/$1" ;;
	esac
}

duration=20 seed=1 out='' QUIET=''
while [ $# -gt 0 ]; do
	case $1 in
	--duration | --seed | --out) [ $# -ge 2 ] || usage_error "$1 needs a value" ;;
	esac
	case $1 in
	--duration)
		duration=$(seconds "$2") || usage_error "--duration $2: want seconds, as in 20, 20s or 1m"
		[ "$duration" -gt 0 ] || usage_error "--duration $2: want at least a second"
		shift 2
		;;
	--seed)
		[[ $2 =~ ^[0-9]+$ ]] || usage_error "--seed $2: want a number"
		seed=$2
		shift 2
		;;
	--out)
		[ -n "$2" ] || usage_error "--out needs a directory"
		out=$(absolute "$2")
		shift 2
		;;
	--quiet)
		QUIET=1
		shift
		;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done

ensure_packages mkfs.ext4:e2fsprogs debugfs:e2fsprogs e2fsck:e2fsprogs fusermount3:fuse3 || {
	have_cmd mkfs.ext4 && have_cmd debugfs && have_cmd e2fsck && is_root || exit 3
}
fuse=$(fuse_missing)
[ -z "$fuse" ] || missing "$fuse"

make_work

# binary STRATEGY PREBUILT prints the path of the binary, building it when none is given.
binary() {
	if [ -n "$2" ]; then
		local path
		path=$(absolute "$2")
		[ -x "$path" ] || missing "$path is no program (BIN_${1^^})"
		printf '%s\n' "$path"
		return
	fi
	[ -n "$QUIET" ] || printf 'building inlinefs with -tags %s_conversion\n' "$1" >&2
	build_inlinefs "$WORK/inlinefs-$1" "$1_conversion" >&2 || die "go build -tags $1_conversion did not work"
	printf '%s\n' "$WORK/inlinefs-$1"
}
if [ -z "${BIN_MKWRITE:-}" ] || [ -z "${BIN_MMAP:-}" ]; then
	find_go || exit 3
fi
mkwrite=$(binary mkwrite "${BIN_MKWRITE:-}")
mmap=$(binary mmap "${BIN_MMAP:-}")
out=${out:-$PWD/out}
mkdir -p "$out"

# stress STRATEGY BINARY SECONDS SEED runs the workload; clean and convicted are both results, anything else ends the script.
stress() {
	local code=0
	local json=$out/$1.json
	rm -f "$json"
	if [ -n "$QUIET" ]; then
		"$2" stress --scenario seed --duration "$3s" --seed "$4" --json "$json" --strategy "$1" >"$WORK/$1.log" 2>&1 || code=$?
	else
		"$2" stress --scenario seed --duration "$3s" --seed "$4" --json "$json" --strategy "$1" || code=$?
	fi
	case $code in
	0 | 1) ;;
	*)
		[ -z "$QUIET" ] || tail -n 40 "$WORK/$1.log" >&2
		DIE_CODE=$code die "the $1 run ended with exit code $code, want 0 (clean) or 1 (violation found)"
		;;
	esac
	if [ ! -s "$json" ]; then
		[ -z "$QUIET" ] || tail -n 40 "$WORK/$1.log" >&2
		die "the $1 run left no result in $json"
	fi
}

# convicted: does the mkwrite result count a nil handle?
convicted() { grep -Eq '"nil-handle"[[:space:]]*:[[:space:]]*[1-9]' "$out/mkwrite.json"; }

attempt=0
for factor in 1 2 3 6; do
	attempt=$((attempt + 1))
	length=$((duration * factor))
	say "mkwrite, attempt $attempt of 4: $length s, seed $seed"
	stress mkwrite "$mkwrite" "$length" "$seed"
	if convicted; then
		break
	fi
	say "no nil handle in $length s"
done
say "mmap: $length s, seed $seed"
stress mmap "$mmap" "$length" "$seed"

say ""
code=0
"$mmap" compare "$out/mkwrite.json" "$out/mmap.json" --expect-convicted mkwrite=nil-handle --expect-clean mmap || code=$?
say "results: $out/mkwrite.json $out/mmap.json"
exit "$code"
