# make demo    two blank machines become Debian, before your eyes
# make test    everything, end-to-end tests included
# make check   format, lints, docs, licences
# make bench   the figures, beside the peers (ONLY=name runs one)
# make torture what takes long

# Every Debian package that building, testing and the demo need, in this one place.
PACKAGES := attr build-essential busybox-static ca-certificates curl dnsmasq-base dosfstools dpkg-dev \
    debian-archive-keyring dmsetup e2fsprogs fdisk gdisk ipxe ipxe-qemu iproute2 iputils-ping kmod minisign mmdebstrap \
    mtools openipmi openssh-client ovmf qemu-system-x86 qemu-utils skopeo strace tftp-hpa atftp uidmap umoci util-linux \
    xz-utils zstd
BENCH_PACKAGES := kea-dhcp4-server kea-admin casync nginx-light rsync bmap-tools partclone \
    udpcast zsync libssl-dev liblzma-dev libzstd-dev pkg-config

# Stories that take minutes and of which `make test` plays a shorter one.
TORTURE := bios_seed_and_guests a_dom0_whose_agent_dies torture_of

TRIPLE   := x86_64-unknown-linux-gnu
BUILT    := $(CURDIR)/target/$(TRIPLE)
DENY     := 0.20.2
COREOS   := 0.27.0
# The programs that the rack's tests are to start.
RACK     := BILLET=$(BUILT)/debug/billet BILLET_AGENT=$(BUILT)/agent/billet-agent
export PATH := $(CURDIR)/target/tools/bin:/usr/sbin:/sbin:$(PATH)

.PHONY: all deps bench-deps room check lint licences agent programs tests unit units devices system e2e xen demo test peers bench torture

all: programs

## what the machine must have
deps: NEED = $(PACKAGES)
bench-deps: NEED = $(PACKAGES) $(BENCH_PACKAGES)
deps bench-deps:
	@missing=""; for p in $(NEED); do \
	    dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; \
	done; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
	    echo "installing:$$missing"; \
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	        apt-get install -qq -y --no-install-recommends $$missing >/dev/null; \
	elif [ -n "$$missing" ]; then \
	    echo "missing packages:$$missing"; \
	    echo "install them with: sudo apt-get install --no-install-recommends$$missing"; exit 1; \
	fi
	@command -v cargo >/dev/null || { echo "missing: Rust; see https://rustup.rs"; exit 1; }

# GB that are filled: below target/ where nothing is built yet, and by stories' disks.
ROOM       := 10
DISKS_ROOM := 2

## room for it: a full disk shows only after many minutes, as failures of whatever wrote last
room:
	@free() { df --output=avail -B1000000000 "$$1" | tail -n 1 | tr -d ' '; }; \
	has() { [ "$$(free "$$1")" -ge "$$2" ] || { \
	    echo "too little room: $$2 GB are needed in $$1 for $$3, $$(free "$$1") GB are free$$4"; exit 1; }; }; \
	[ -d target/$(TRIPLE)/debug/deps ] || has "$(CURDIR)" $(ROOM) "what is built" ""; \
	has "$${TMPDIR:-/tmp}" $(DISKS_ROOM) "disks of virtual machines" " (TMPDIR names another place)"

## what CI checks first
check: lint licences

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked

licences:
	@cargo deny --version >/dev/null 2>&1 || \
	    cargo install --quiet --locked --debug --root target/tools cargo-deny@$(DENY) --target $(TRIPLE)
	cargo deny --offline check licenses bans sources

## programs
agent:
	cargo build --locked --profile agent -p agent

programs: agent
	cargo build --locked --release -p pxe

## tests
# Always of the whole workspace: cargo builds a crate anew for every selection that asks other features of it.
CARGO_TEST := cargo test --locked --workspace
# All but the rack's stories.
UNIT := $(notdir $(basename $(wildcard agent/tests/*.rs images/tests/*.rs pxe/tests/*.rs xen-config/tests/*.rs)) \
    $(patsubst %/main.rs,%,$(wildcard agent/tests/*/main.rs images/tests/*/main.rs pxe/tests/*/main.rs \
    xen-config/tests/*/main.rs)))

# What has time while there is a Xen.
PATIENT := nice -n 5

tests:
	$(CARGO_TEST) --no-run

unit: tests
	$(MAKE) --no-print-directory PATIENT= units

units:
	$(PATIENT) $(CARGO_TEST) --lib --bins $(UNIT:%=--test %)
	$(MAKE) --no-print-directory devices

## loop devices of 512 and 4096 bytes a sector, one of 10 TiB, mounted and read-only ones; files of many owners
devices:
ifeq ($(shell id -u),0)
	$(CARGO_TEST) --test device --test layers -- --ignored
else
	@echo "LEFT OUT: the tests on loop devices and of containers' layers, which need root"
endif

## a container's image as a disk that starts
system:
ifeq ($(shell id -u),0)
	$(CARGO_TEST) --test system -- --ignored
else
	@echo "LEFT OUT: the test of a container's image as a disk, which needs root"
endif

# Programs of stories. Those whose Xen has guests: one after the other, and before everything else where there is
# too little time for all, because a Xen's clock stops when its processors get none.
XEN := host bypass
# The others, in the time that a Xen leaves, and a few at a time: most of a story one machine waits for one
# processor, or for an end of its patience. The long ones begin.
STORIES := bare survival cuts kernel_slices reproducible kernel_network firmware faults operator ram ordinary refusals \
    proxy wire relay program dom0

# `billet` is built with the tests. What each printed is shown when it has ended.
e2e: tests agent
	$(MAKE) --no-print-directory -j3 -k -Otarget xen $(STORIES:%=story-%)

xen:
	@failed=0; for story in $(XEN); do \
	    $(MAKE) --no-print-directory PATIENT= story-$$story || failed=1; \
	done; exit $$failed

story-%:
	$(RACK) $(PATIENT) $(CARGO_TEST) --test $* -- $(foreach story,$(TORTURE),--skip $(story))

test: deps room
	$(MAKE) --no-print-directory -j3 check tests agent
	$(MAKE) --no-print-directory -j3 -k -Otarget xen units $(STORIES:%=story-%)

demo: deps programs
	BILLET=$(BUILT)/release/billet BILLET_AGENT=$(BUILT)/agent/billet-agent \
	    cargo run --locked --quiet --release -p rack -- demo

## a peer that Debian does not have
peers: bench-deps
	@coreos-installer --version >/dev/null 2>&1 || \
	    RUSTFLAGS="-C target-feature=-crt-static" \
	    cargo install --quiet --locked --root target/tools coreos-installer@$(COREOS) --target $(TRIPLE)

bench: bench-deps peers programs
	BILLET=$(BUILT)/release/billet BILLET_AGENT=$(BUILT)/agent/billet-agent \
	    cargo run --locked --quiet --release -p rack -- bench $(if $(ONLY),--only $(ONLY)) $(if $(RUNS),--runs $(RUNS)) \
	    $(if $(WITHOUT),--without $(WITHOUT))

torture: deps room agent
	$(CARGO_TEST) --no-run
	$(CARGO_TEST) --test power --test memory -- --ignored
	$(MAKE) --no-print-directory devices
	$(RACK) $(CARGO_TEST) --test cuts -- torture_of
	$(MAKE) --no-print-directory system
	$(RACK) $(CARGO_TEST) --test dom0 -- bios_seed_and_guests
	$(RACK) $(CARGO_TEST) --test host -- a_dom0_whose_agent_dies
