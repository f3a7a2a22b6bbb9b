#!/usr/bin/env bash
# Installs the Debian packages that a command needs, when they are missing: deps.sh [build] [test] [fuzz] [lab] [inventory] [guest] [peers].
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

build_packages="gcc libc6-dev cmake ninja-build pkg-config protobuf-c-compiler libprotobuf-c-dev
	libevent-dev libibverbs-dev librdmacm-dev liblz4-dev libzstd-dev libxxhash-dev liburing-dev libnbd-dev
	libyaml-dev libssl-dev libjansson-dev libsystemd-dev libcmocka-dev"
test_packages="socat jq curl python3 procps nbdkit qemu-utils libnbd-bin"
fuzz_packages="clang libclang-rt-14-dev"
lab_packages="qemu-system-x86 busybox-static kmod cpio binutils util-linux iproute2 rdma-core ibverbs-providers perftest jq nbd-client"
# What makes a lab node a machine that is reached by ssh (tests/lab/inventory_lab.sh).
inventory_packages="openssh-client dropbear-bin python3-minimal"
# What the bench over verbs measures Fallow against.
peers_packages="fio nvme-cli nbdkit nbd-client python3-minimal redis-server redis-tools"
guest_packages="qemu-system-x86 qemu-system-common busybox-static kmod cpio binutils util-linux e2fsprogs fio jq qemu-utils nbdkit
	libvirt-daemon libvirt-clients"

wanted=$build_packages
for group in "$@"; do
	case $group in
	build) ;;
	test) wanted="$wanted $test_packages" ;;
	fuzz) wanted="$wanted $fuzz_packages" ;;
	lab) wanted="$wanted $lab_packages" ;;
	inventory) wanted="$wanted $inventory_packages" ;;
	peers) wanted="$wanted $peers_packages" ;;
	guest) wanted="$wanted $guest_packages" ;;
	*) die "deps: no group '$group'" ;;
	esac
done

missing=""
for package in $wanted; do
	status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
	[ "$status" = "install ok installed" ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

command -v apt-get >/dev/null || die "missing packages, and no apt-get to install them:$missing"
sudo=""
if [ "$(id -u)" != 0 ]; then
	command -v sudo >/dev/null || die "missing packages, and neither root nor sudo to install them:$missing"
	sudo=sudo
fi

echo "Installing:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
install() {
	# shellcheck disable=SC2086
	$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
		-o DPkg::Lock::Timeout=300 $missing >"$log" 2>&1
}
# The lists may be missing (a fresh image) or too old to find the packages' files.
if ! ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || ! install; then
	$sudo apt-get -o DPkg::Lock::Timeout=300 update >"$log" 2>&1 || {
		cat "$log" >&2
		die "apt-get update failed"
	}
	install || {
		cat "$log" >&2
		die "apt-get install failed"
	}
fi
