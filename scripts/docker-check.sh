#!/usr/bin/env bash
# Builds the Dockerfile and runs the image's default command. With a Docker daemon it does just that. Without one it uses buildah; when the
# registry's base images cannot be pulled, it makes stand-ins for them (Debian by debootstrap, with this machine's Go copied in), so that
# the Dockerfile's own steps and the image's content are tried all the same. It then runs the container under runc, with the rights that
# the Dockerfile names and no others, and shows that without them the refusal names what is missing. Says how far it went.
#
#   scripts/docker-check.sh [--duration D] [--build-only] [--no-pull]
#
#   --duration D   pass it to scripts/compare.sh in the container (default: the image's default command as it is)
#   --build-only   build, do not run
#   --no-pull      with buildah: make the stand-ins without asking the registry first
#
# Exit codes: 0 built (and run), 1 not, 2 usage, 3 something missing on this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

command=() build_only='' pull=1
while [ $# -gt 0 ]; do
	case $1 in
	--duration)
		[ $# -ge 2 ] || usage_error "$1 needs a value"
		seconds "$2" >/dev/null || usage_error "--duration $2: want seconds, as in 20, 20s or 1m"
		command=(scripts/compare.sh --duration "$2")
		shift 2
		;;
	--build-only) build_only=1 && shift ;;
	--no-pull) pull='' && shift ;;
	-h | --help)
		sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
		exit 0
		;;
	*) usage_error "unknown argument $1" ;;
	esac
done
image=inlinefs-check
make_work

if have_cmd docker && docker info >/dev/null 2>&1; then
	docker build -t "$image" .
	printf 'built by docker\n'
	[ -z "$build_only" ] || exit 0
	docker run --rm --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined "$image" "${command[@]}"
	printf 'run by docker\n'
	exit 0
fi
printf 'no Docker daemon here: trying buildah\n'
is_root || missing "root (buildah with chroot isolation and debootstrap)"
ensure_packages buildah:buildah || exit 3

# A storage of its own, which goes with the work directory. Chroot isolation, for the build, needs nothing of the kernel.
export BUILDAH_ISOLATION=chroot
b() { buildah --root "$WORK/storage" --runroot "$WORK/run" "$@"; }

bases=()
# The images named by FROM, but for the stage's own names.
mapfile -t from < <(awk '$1 == "FROM" { print $2 }' Dockerfile | sort -u)
# stand_in NAME makes a Debian that has what the real image has of use here.
stand_in() {
	local root=$WORK/debian c
	if [ ! -d "$root" ]; then
		ensure_packages debootstrap:debootstrap || exit 3
		debootstrap --variant=minbase --include=ca-certificates bookworm "$root" "${DEBIAN_MIRROR:-http://deb.debian.org/debian}" \
			>"$WORK/debootstrap.log" 2>&1 || { tail -n 5 "$WORK/debootstrap.log"; missing "a Debian mirror for debootstrap"; }
	fi
	c=$(b from scratch)
	b add -q "$c" "$root" / >/dev/null
	# Downloads inside go by this machine's way out, which may have a certificate of its own.
	[ ! -s /etc/ssl/certs/ca-certificates.crt ] ||
		b add -q "$c" /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt >/dev/null
	case $1 in
	golang:*)
		find_go || exit 3
		b add -q "$c" "$(go env GOROOT)" /usr/local/go >/dev/null
		b config --env PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin --env "GOPROXY=$(go env GOPROXY)" "$c"
		;;
	esac
	b commit -q "$c" "localhost/stand-in-${1%%:*}" >/dev/null
	b rm "$c" >/dev/null
}
for name in "${from[@]}"; do
	if [ -n "$pull" ] && timeout 300 buildah --root "$WORK/storage" --runroot "$WORK/run" pull -q "docker.io/library/$name" >"$WORK/pull.log" 2>&1; then
		printf 'pulled %s\n' "$name"
		bases+=(--build-context "$name=container-image://docker.io/library/$name")
		continue
	fi
	[ -z "$pull" ] || printf 'cannot pull %s (%s)\n' "$name" "$(tail -n 1 "$WORK/pull.log" | cut -c1-120)"
	printf 'making a stand-in for %s\n' "$name"
	stand_in "$name"
	bases+=(--build-context "$name=container-image://localhost/stand-in-${name%%:*}")
done

b build "${bases[@]}" -t "$image" .
printf 'built by buildah\n'
[ -z "$build_only" ] || exit 0

fuse=$(fuse_missing)
if [ -n "$fuse" ]; then
	printf 'not run: %s\n' "$fuse"
	exit 0
fi
# OCI isolation makes the namespaces, the devices and the system call filter of a Docker container; where the machine does not let runc do
# that, chroot isolation is left, which has the capabilities only.
plain=$(b from "localhost/$image")
isolation=chroot
if ensure_packages runc:runc && b run --isolation oci --runtime runc --network none "$plain" -- true 2>"$WORK/oci.log"; then
	isolation=oci
else
	printf 'no OCI isolation here: %s\n' "$(tail -n 1 "$WORK/oci.log" | cut -c1-160)"
fi
in_container() {
	if [ "$isolation" = oci ]; then b run --isolation oci --runtime runc --network none "$@"; else b run --isolation chroot "$@"; fi
}

# refused CONTAINER WHAT: without a right the default command ends with exit code 3 and names it.
refused() {
	local code=0
	in_container "$1" -- "${command[@]}" >"$WORK/refused.log" 2>&1 || code=$?
	grep -q -e "$2" "$WORK/refused.log" || {
		cat "$WORK/refused.log" >&2
		die "a container without $2 ended with exit code $code and did not name it"
	}
	[ "$code" = 3 ] || die "a container without $2 ended with exit code $code, want 3"
	printf 'refused, as it should be: %s\n' "$(grep -m 1 -e "$2" "$WORK/refused.log")"
}
if [ ${#command[@]} = 0 ]; then
	# buildah run knows no default command.
	mapfile -t command < <(b inspect --type image --format '{{range .OCIv1.Config.Cmd}}{{println .}}{{end}}' "localhost/$image" | sed '/^$/d')
	[ ${#command[@]} -gt 0 ] || die "the image has no default command"
fi
in_container "$plain" -- sh -c 'inlinefs version && inlinefs-mkwrite version && inlinefs-mmap version && inlinefs-explore explore --list' \
	>"$WORK/programs.log" || die "a program of the image does not run"
[ "$isolation" = chroot ] || refused "$plain" '--device /dev/fuse'
refused "$(b from --device /dev/fuse "localhost/$image")" '--cap-add SYS_ADMIN'
in_container "$(b from --device /dev/fuse --cap-add SYS_ADMIN "localhost/$image")" -- "${command[@]}"
printf 'run by buildah, %s isolation: %s\n' "$isolation" "${command[*]}"
