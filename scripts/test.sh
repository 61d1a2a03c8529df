#!/usr/bin/env bash
# Runs every check of the project: formatting, vet, the build tags, the tests (plain, with the race detector, with the lock checker, under
# the explorer), the exhaustive search in memory and a short comparison of the strategies on real mounts. Ends with "all tests passed".
# Usage: scripts/test.sh [--help]
#
# On Debian or Ubuntu as root it installs what is missing. Elsewhere it says what is missing and runs what can run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

case ${1:-} in
'') ;;
-h | --help)
	sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
	exit 0
	;;
*) usage_error "unknown argument $1" ;;
esac

started=$SECONDS
skipped=()
skip() {
	skipped+=("$*")
	printf 'skipped: %s\n' "$*"
}
step() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }

step "tools"
find_go || exit 3
go version
ensure_packages mkfs.ext4:e2fsprogs fusermount3:fuse3 setfattr:attr setfacl:acl ||
	skip "the tests that need what is missing above"
fuse=$(fuse_missing)
[ -z "$fuse" ] || skip "tests on a real mount: $fuse"
is_root || skip "tests that need root: loop mounts by the kernel"
make_work

step "gofmt"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || die "gofmt wants to change: $unformatted"

for tags in "" mkwrite_conversion mmap_conversion deadlock explore; do
	step "go vet ${tags:+-tags $tags }./..."
	go vet -tags "$tags" ./...
done

step "two conversion tags must not compile"
if go build -tags "mkwrite_conversion mmap_conversion" -o "$WORK/both" ./cmd/inlinefs 2>"$WORK/both.log"; then
	die "go build -tags \"mkwrite_conversion mmap_conversion\" compiled: the default strategy is ambiguous"
fi
printf 'refused, as it must be: %s\n' "$(grep -v '^#' "$WORK/both.log" | head -n 1)"

# testfmt prints one line per package, the output of what failed, and the reasons of what was skipped.
go build -o "$WORK/testfmt" ./scripts/testfmt
# A package that fails is run once more, and named: a mount test can fail because the machine stood still. Failing twice is failing.
gotest() {
	step "go test $*"
	if ! go test -json -timeout 10m "$@" | "$WORK/testfmt"; then
		step "ONCE MORE, SOMETHING FAILED ABOVE: go test $*"
		go test -json -timeout 10m "$@" | "$WORK/testfmt"
	fi
}

gotest ./...

# The race detector needs cgo, that is a C compiler.
if ensure_packages gcc:gcc && echo '#include <stdlib.h>' | gcc -E - >/dev/null 2>&1; then
	mapfile -t packages < <(go list ./... | grep -Ev '/(cmd|scripts|ondisk|lint|testimage)(/|$)')
	CGO_ENABLED=1 gotest -race -short "${packages[@]}"
else
	skip "go test -race: needs a C compiler and the C library's headers (packages gcc, libc6-dev)"
fi

gotest -tags deadlock -short ./...

gotest -tags explore -short ./explore ./internal/lock ./internal/sched ./inline ./mm ./journal

step "every interleaving of two actors under each strategy"
scripts/explore.sh --timelines=false 2>/dev/null

step "comparison of the strategies on real mounts"
if [ -n "$fuse" ]; then
	skip "comparison: $fuse"
elif ! have_cmd mkfs.ext4 || ! have_cmd debugfs || ! have_cmd e2fsck; then
	skip "comparison: needs mkfs.ext4, debugfs and e2fsck (package e2fsprogs)"
else
	scripts/compare.sh --duration 10s --quiet --out "$WORK/compare"
	step "comparison of mkwrite and mmap on images with a journal"
	scripts/compare.sh --journal --strategies mkwrite,mmap --duration 10s --quiet --out "$WORK/compare-journal"
fi

printf '\n'
if [ ${#skipped[@]} -gt 0 ]; then
	printf 'skipped on this machine:\n'
	printf '  %s\n' "${skipped[@]}"
fi
printf 'all tests passed (%d s)\n' $((SECONDS - started))
