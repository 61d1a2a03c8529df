#!/usr/bin/env bash
# Races write(2) against page faults on real mounts with every conversion strategy and prints the verdict on each: what it was convicted
# of and after how long, what it costs, what was expected of it (stress/testdata/expect_NAME). mkwrite (convert in the page fault, what ext4
# does) must be convicted of the nil handle; its first violation is drawn in two columns. A strategy known to be bad that passes is as wrong
# as one known to be good that is convicted.
#
#   scripts/compare.sh [--duration D] [--strategies A,B] [--long] [--siblings] [--journal] [--explore FILE] [--seed N] [--out DIR] [--quiet]
#
#   --duration D    time for each strategy, over all its scenarios: 10, 10s or 2m (default 10s). A run that has not shown what it must goes
#                   on for up to 30 s.
#   --strategies L  only these, separated by commas (default: all)
#   --long          a campaign: more scenarios, the sibling races among them, 10 minutes for each strategy unless --duration says other
#   --siblings      only the sibling races (inlinefs stress --list), 2 s each unless --duration says other, with the default strategy unless
#                   --strategies says other; they must break no rule
#   --journal       images with a journal: a NULL handle is no matter of images without one
#   --explore FILE  what `inlinefs explore --json FILE` found in the model: a second row for each strategy
#   --seed N        seed of the workload, the same for all (default 1)
#   --out DIR       where the results go: STRATEGY.json of the seed image, STRATEGY-SCENARIO.json (default: out/ in the source tree)
#   --quiet         no progress of the runs, only the verdict
#
# mkwrite and mmap run in builds with their own tags (-tags mkwrite_conversion, -tags mmap_conversion), the others in one build without
# tags, mounted with -o conversion=NAME. Set BIN_MKWRITE and BIN_MMAP, and BIN_INLINEFS for the others, to use binaries that are already
# built; Go is not needed then.
# Exit codes: 0 as expected, 1 not as expected, 2 usage, 3 something missing on this machine (named), 4 not as expected, and something hung.
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

duration='' seed=1 out='' QUIET='' wanted='' mode=short explored='' journal=''
while [ $# -gt 0 ]; do
	case $1 in
	--duration | --seed | --out | --strategies | --explore) [ -n "${2:-}" ] || usage_error "$1 needs a value" ;;
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
	--strategies) wanted=$2 && shift 2 ;;
	--explore)
		explored=$(absolute "$2")
		[ -f "$explored" ] || usage_error "--explore $2: no such file"
		shift 2
		;;
	--out) out=$(absolute "$2") && shift 2 ;;
	--long) mode=long && shift ;;
	--siblings) mode=siblings && shift ;;
	--journal) journal=1 && shift ;;
	--quiet) QUIET=1 && shift ;;
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

# binary NAME VARIABLE TAGS sets bin_NAME to a program: the one that the variable names, or a fresh build.
binary() {
	local path=${!2:-}
	if [ -n "$path" ]; then
		path=$(absolute "$path")
		[ -x "$path" ] || missing "$path is no program ($2)"
	else
		[ -n "$QUIET" ] || printf 'building inlinefs%s\n' "${3:+ with -tags $3}" >&2
		path=$WORK/inlinefs-$1
		find_go || exit 3
		build_inlinefs "$path" "$3" >&2 || die "go build${3:+ -tags $3} did not work"
	fi
	printf -v "bin_$1" '%s' "$path"
}
# Without Go the mmap binary does for all.
[ -n "${BIN_INLINEFS:-}" ] || [ -z "${BIN_MKWRITE:-}" ] || [ -z "${BIN_MMAP:-}" ] || BIN_INLINEFS=$BIN_MMAP
binary plain BIN_INLINEFS ''
mapfile -t known < <("$bin_plain" version | sed -n 's/^strategies: //p' | tr ' ' '\n')
[ ${#known[@]} -gt 0 ] || die "$bin_plain version names no strategy"

strategies=()
case $wanted,$mode in
,siblings) strategies=("$("$bin_plain" version | sed -n 's/^strategy: //p')") ;;
,*) strategies=("${known[@]}") ;;
*)
	IFS=, read -ra strategies <<<"$wanted"
	for s in "${strategies[@]}"; do
		[[ " ${known[*]} " == *" $s "* ]] || usage_error "--strategies $wanted: $s is not one of ${known[*]}"
	done
	;;
esac
for s in "${strategies[@]}"; do
	case $s in
	mkwrite) binary mkwrite BIN_MKWRITE mkwrite_conversion ;;
	mmap) binary mmap BIN_MMAP mmap_conversion ;;
	esac
done

# What is run, and how many parts of the time each gets.
mapfile -t siblings < <("$bin_plain" stress --list | sed -n 's/^\([^ ].*\) (image: .*/\1/p')
case $mode in
short)
	plan=(seed:4 healthy:3 write-from-mapping:2 map-only:1)
	duration=${duration:-10}
	;;
long)
	plan=(seed:8 healthy:8 enospc:2 seed,mapped-buffer,two-files:2 healthy,mapped-buffer,one-process:2 healthy,late-open:2)
	for s in "${siblings[@]}"; do
		plan+=("$s:1" "seed,$s:1")
	done
	duration=${duration:-600}
	;;
siblings)
	plan=("${siblings[@]/%/:1}")
	duration=${duration:-$((2 * ${#siblings[@]}))}
	;;
esac
parts=0
for p in "${plan[@]}"; do
	parts=$((parts + ${p##*:}))
done

out=${out:-$PWD/out}
mkdir -p "$out"
results=()
hung=''

# stress STRATEGY SCENARIO SECONDS runs the workload. Clean, convicted and hung are all results, anything else ends the script.
stress() {
	local code=0 json=$out/$1.json bin=$bin_plain
	local -a how=(--conversion "$1")
	[ "$2" = seed ] || json=$out/$1-$(tr ',^' '--' <<<"$2").json
	case $1 in
	mkwrite) bin=$bin_mkwrite how=(--strategy mkwrite) ;;
	mmap) bin=$bin_mmap how=(--strategy mmap) ;;
	esac
	[ "$mode" = siblings ] || how+=(--expected)
	[ -z "$journal" ] || how+=(--journal)
	rm -f "$json"
	[ -n "$QUIET" ] || printf '%-18s %-24s %4d s: ' "$1" "$2" "$3" >&2
	"$bin" stress --scenario "$2" --duration "$3s" --seed "$seed" --json "$json" --quiet "${how[@]}" >"$WORK/stress.log" 2>&1 || code=$?
	case $code in
	0 | 1) ;;
	4) hung=1 ;;
	*)
		tail -n 40 "$WORK/stress.log" >&2
		DIE_CODE=$code die "the run of $1 on $2 ended with exit code $code, want 0 (clean), 1 (violation found) or 4 (hang)"
		;;
	esac
	if [ ! -s "$json" ]; then
		tail -n 40 "$WORK/stress.log" >&2
		die "the run of $1 on $2 left no result in $json"
	fi
	[ -n "$QUIET" ] || sed -n 's/^  violations: //p' "$WORK/stress.log" >&2
	results+=("$json")
}

for s in "${strategies[@]}"; do
	for p in "${plan[@]}"; do
		length=$((duration * ${p##*:} / parts))
		stress "$s" "${p%:*}" $((length > 0 ? length : 1))
	done
done

say ""
code=0
how=(--expect)
if [ "$mode" = siblings ]; then
	how=()
	for s in "${strategies[@]}"; do
		how+=(--expect-clean "$s")
	done
fi
"$bin_plain" compare "${results[@]}" "${how[@]}" ${explored:+--explore "$explored"} || code=$?
say "results: ${#results[@]} files in $out"
[ "$code" != 1 ] || [ -z "$hung" ] || code=4
exit "$code"
