# An image whose default command races and judges the conversion strategies (scripts/compare.sh) on real mounts:
#
#   docker build -t inlinefs .
#   docker run --rm --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined inlinefs
#
# What each right is for:
#   --device /dev/fuse                    the file system talks to the kernel through this device; containers have none by default
#   --cap-add SYS_ADMIN                   mount(2) and umount2(2), inside the container's own mount namespace only
#   --security-opt apparmor=unconfined    Docker's default AppArmor profile denies mount(2) even with SYS_ADMIN; without AppArmor on the
#                                         host (Fedora, for one) the option does nothing
# No --privileged, no loop device, no kernel module: no image is ever mounted by the host's own ext4.
#
# Arguments go to compare.sh:    docker run ... inlinefs scripts/compare.sh --duration 60s
# Keep the results with:         docker run ... -v "$PWD/out:/out" inlinefs scripts/compare.sh --out /out
# Use the file system itself:    docker run ... -it inlinefs bash, then: inlinefs mount IMAGE DIR

FROM golang:1.26-bookworm AS build
WORKDIR /src
# The modules first: they change less often than the source.
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# No C library is used, so the programs run on any base.
ENV CGO_ENABLED=0
RUN go build -trimpath -o /out/inlinefs ./cmd/inlinefs && \
    go build -trimpath -tags explore -o /out/inlinefs-explore ./cmd/inlinefs && \
    go build -trimpath -tags mkwrite_conversion -o /out/inlinefs-mkwrite ./cmd/inlinefs && \
    go build -trimpath -tags mmap_conversion -o /out/inlinefs-mmap ./cmd/inlinefs

FROM debian:bookworm-slim
# fuse3: fusermount3, for mounting without root. e2fsprogs: mkfs.ext4 and debugfs make the images, e2fsck judges them.
RUN apt-get update && \
    apt-get install -y --no-install-recommends fuse3 e2fsprogs && \
    rm -rf /var/lib/apt/lists/*
# inlinefs, the default strategy, is the one to use as a file system; inlinefs-explore searches interleavings, without /dev/fuse.
COPY --from=build /out/inlinefs /out/inlinefs-explore /out/inlinefs-mkwrite /out/inlinefs-mmap /usr/local/bin/
WORKDIR /inlinefs
COPY LICENSE ./
COPY scripts/lib.sh scripts/compare.sh scripts/
ENV BIN_INLINEFS=/usr/local/bin/inlinefs \
    BIN_MKWRITE=/usr/local/bin/inlinefs-mkwrite \
    BIN_MMAP=/usr/local/bin/inlinefs-mmap
CMD ["scripts/compare.sh"]
