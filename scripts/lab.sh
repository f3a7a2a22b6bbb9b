#!/usr/bin/env bash
# A cluster of small machines with Soft-RoCE between them, on this machine alone: lab.sh COMMAND [ARGUMENT...].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

# Real machines in place of the lab's own.
if [ "${1:-}" = --inventory ]; then
	[ $# -ge 2 ] || die "lab: --inventory needs a file"
	export FALLOW_LAB_INVENTORY=$2
	shift 2
fi
[ -z "${FALLOW_LAB_INVENTORY:-}" ] || exec scripts/lab_inventory.sh "$@"

usage() {
	cat <<'TEXT'
Usage: ./run lab [--inventory FILE] COMMAND [ARGUMENT...]

  up N                start N nodes (1 to 16) and wait until they take commands
  exec NODE CMD...    run a shell command on a node; its output and its exit code (125: the node died;
                      124: it does not answer)
  start NODE NAME CMD...
                      run a command on a node in the background; output in the node's share, NAME.log
  kill NODE           end a node as a power failure does
  reboot NODE         kill it and start it again
  hang NODE, resume NODE
                      stop a node's clock and processors; let it go on
  cut A B             drop every frame between two nodes
  delay A B MS        hold back every frame between them
  drop A B PERCENT    lose that share of the frames between them
  reorder A B PERCENT let that share of the frames arrive after later ones
  heal                undo cut, delay, drop and reorder
  log NODE            the node's kernel console
  share NODE          the host's directory that is /run/lab on the node
  address NODE, device NODE, interface NODE
                      its address on the network under test, its RDMA device, that device's network interface
  can WHAT            exit code 0 when there is such a fault here (kill, cut, ...), verbs, or an interface to take down
  nodes               how many nodes there can be
  refresh             let nodes see host files that changed since they were up (a new build)
  status              which nodes run
  check               whether a cluster can be started here; fetches what it needs
  down                end everything

With --inventory FILE (or FALLOW_LAB_INVENTORY=FILE) all of it is done on the real machines that the file names, as far as
it says how: deploy/lab/inventory.example, docs/LAB.md.

Node K is 10.77.0.K. FALLOW_LAB_DIR: where a cluster keeps its files (default /tmp/fallow-lab-UID).
FALLOW_LAB_BUILD: the build tree whose bin/lab-switch is used (default build).
FALLOW_LAB_ACCEL: kvm or tcg (default: kvm where a machine boots with it).
FALLOW_LAB_OWNER: a process id; the cluster goes down when that process is gone.
FALLOW_LAB_QEMU_ARGS_K: more arguments for QEMU of node K, separated by spaces, such as a disk.
TEXT
}

LAB=${FALLOW_LAB_DIR:-/tmp/fallow-lab-$(id -u)}
CACHE=${FALLOW_LAB_CACHE:-$PWD/build/lab}
MACHINE_NAME=lab MACHINE_DIR=$LAB
. scripts/machines.sh
BUILD=${FALLOW_LAB_BUILD:-$PWD/build}
BOOT_LIMIT_S=${FALLOW_LAB_BOOT_LIMIT_S:-180}
EXEC_LIMIT_S=${FALLOW_LAB_EXEC_LIMIT_S:-900}

# What the first mount needs, and what is loaded later.
boot_modules="virtio_pci virtio_net 9pnet_virtio 9p overlay"
late_modules="rdma_rxe ib_uverbs rdma_ucm crc32_generic crc32_pclmul crc32c_generic crc32c_intel"
# The bench's peers of Fallow, and what the kernel asks for by itself when they start.
late_modules="$late_modules nvmet_rdma nvmet_tcp nvme_rdma nvme_tcp nvme_fabrics brd nbd virtio_blk zram lzo_rle
	crct10dif_common crct10dif_generic crc64_rocksoft_generic"

node_dir() { echo "$LAB/node$1"; }

node_pid() { cat "$(node_dir "$1")/pid" 2>/dev/null || true; }

node_runs() { is_ours "$(node_pid "$1")"; }

### Kernel

# Debian's kernel, its few modules without signatures, and a first file system; made once.
prepare() {
	local work=$CACHE/unpacked release program
	[ -f "$CACHE/ready" ] && [ "$CACHE/ready" -nt deploy/lab/init.sh ] &&
		[ "$(cat "$CACHE/ready")" = "$boot_modules $late_modules" ] && return
	echo "lab: unpacking Debian's kernel into $CACHE"
	rm -rf "$CACHE/root" "$CACHE/modules" "$CACHE/unpacked"
	mkdir -p "$CACHE/root"/{bin,dev,proc}
	release=$(kernel_unpack "$work")
	# shellcheck disable=SC2086
	kernel_modules "$work" "$release" "$CACHE/modules" $boot_modules $late_modules
	# shellcheck disable=SC2086
	kernel_first_modules "$CACHE/modules" "$release" "$CACHE/root" $boot_modules
	cp /bin/busybox "$CACHE/root/bin/busybox"
	for program in sh mount umount insmod mkdir cat grep sleep poweroff switch_root; do
		ln -sf busybox "$CACHE/root/bin/$program"
	done
	install -m 755 deploy/lab/init.sh "$CACHE/root/init"
	pack_initrd "$CACHE/root" >"$CACHE/initrd"
	cp "$work"/boot/vmlinuz-* "$CACHE/vmlinuz"
	rm -rf "$work" "$CACHE/root"
	echo "$boot_modules $late_modules" >"$CACHE/ready"
}

### Nodes

node_start() { # NODE
	local node=$1 dir accel cpus extra=FALLOW_LAB_QEMU_ARGS_$1
	dir=$(node_dir "$node")
	rm -rf "$dir/share/up" "$dir/share/jobs"
	mkdir -p "$dir/share/jobs"
	rm -f "$dir"/bell.in "$dir"/bell.out
	mkfifo "$dir/bell.in" "$dir/bell.out"
	[ ! -f "$dir/console" ] || cat "$dir/console" >>"$dir/console.old"
	case $ACCEL in
	kvm) accel=kvm ;;
	*) accel=tcg,thread=multi,tb-size=96 ;;
	esac
	cpus=$([ "$node" = 1 ] && echo "${FALLOW_LAB_CPUS:-2}" || echo 1)
	# shellcheck disable=SC2086
	setsid nice -n 5 qemu-system-x86_64 -name "node$node" -M q35 -accel $accel -cpu max -smp "$cpus" \
		-m "${FALLOW_LAB_MIB:-640}" -nodefaults -no-user-config -display none -no-reboot \
		-kernel "$CACHE/vmlinuz" -initrd "$CACHE/initrd" \
		-append "$KERNEL_COMMAND_LINE lab.node=$node lab.nodes=$(cat "$LAB/nodes") lab.guest=$PWD/deploy/lab/guest.sh lab.modules=$CACHE/modules" \
		-serial "file:$dir/console" -chardev "pipe,id=bell,path=$dir/bell" -serial chardev:bell \
		-netdev "stream,id=net,server=off,addr.type=unix,addr.path=$LAB/net/port$node" \
		-device "virtio-net-pci,netdev=net,host_mtu=4200,mac=52:54:00:77:00:$(printf %02x "$node")" \
		-device virtio-rng-pci \
		-virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
		-virtfs "local,path=$dir/share,mount_tag=share,security_model=none" ${!extra:-} \
		</dev/null >"$dir/qemu.log" 2>&1 &
	echo $! >"$dir/pid"
	# Its main thread moves every frame and must not wait for processors that poll.
	chrt -R -r -p 1 $! >/dev/null 2>&1 || true
	process_began $! || true # node_wait says what became of it
}

node_wait() { # NODE: until it takes jobs
	local dir end=$((SECONDS + BOOT_LIMIT_S))
	dir=$(node_dir "$1")
	until [ -f "$dir/share/up" ]; do
		if ! node_runs "$1" || [ $SECONDS -ge $end ]; then
			tail -n 20 "$dir/qemu.log" "$dir/console" >&2
			die "lab: node $1 did not start"
		fi
		sleep 0.1
	done
}

need_node() {
	number "${1:-}" 1 16 "a node"
	[ -d "$(node_dir "$1")" ] || die "lab: there is no node $1 (lab up N)"
}

lab_address() {
	number "${1:-}" 1 16 "a node"
	echo "10.77.0.$1"
}
lab_device() { echo rxe0; }
lab_interface() { echo eth0; }
lab_nodes() { echo 16; }
lab_transport() { echo verbs; }

lab_can() {
	case ${1:-} in
	verbs | interface | kill | reboot | hang | resume | cut | delay | drop | reorder | heal) ;;
	*) exit 1 ;;
	esac
}

switch_tell() { "$BUILD/bin/lab-switch" "$LAB/net" tell "$@"; }

### Commands

lab_check() {
	scripts/deps.sh build lab
	[ -x "$BUILD/bin/lab-switch" ] || build_preset release lab-switch >/dev/null
	prepare
	choose_accel "$CACHE/vmlinuz" "$CACHE/initrd" "${FALLOW_LAB_ACCEL:-}"
}

lab_up() {
	local nodes=${1:-} node begin=$SECONDS
	number "$nodes" 1 16 "the number of nodes"
	lab_check
	lab_down
	mkdir -p "$LAB"
	chmod 700 "$LAB"
	echo "$nodes" >"$LAB/nodes"
	mkdir "$LAB/net"
	echo "$ACCEL" >"$LAB/accel"
	setsid nice -n 5 "$BUILD/bin/lab-switch" "$LAB/net" serve "$nodes" </dev/null >"$LAB/switch.log" 2>&1 &
	echo $! >"$LAB/switch.pid"
	chrt -R -r -p 1 $! >/dev/null 2>&1 || true
	for _ in $(seq 100); do
		[ -S "$LAB/net/control" ] && break
		sleep 0.05
	done
	[ -S "$LAB/net/control" ] || die "lab: the switch did not start: $(cat "$LAB/switch.log")"
	[ -z "${FALLOW_LAB_OWNER:-}" ] || watch_owner "$FALLOW_LAB_OWNER" scripts/lab.sh down
	for node in $(seq "$nodes"); do
		node_start "$node"
	done
	for node in $(seq "$nodes"); do
		node_wait "$node"
	done
	echo "lab: $nodes nodes up ($ACCEL) after $((SECONDS - begin)) s"
}

lab_down() {
	local pid_file
	[ ! -d "$LAB" ] || [ -f "$LAB/nodes" ] || [ -z "$(ls -A "$LAB")" ] ||
		die "lab: $LAB holds something else than a cluster"
	for pid_file in "$LAB/watch.pid" "$LAB"/node*/pid "$LAB/switch.pid"; do
		[ ! -f "$pid_file" ] || [ "$(cat "$pid_file")" = $$ ] || end_process "$(cat "$pid_file")"
	done
	rm -rf "$LAB"
}

lab_exec() {
	local node=$1 dir job code end=$((SECONDS + EXEC_LIMIT_S))
	need_node "$node"
	shift
	[ $# -gt 0 ] || die "lab: exec needs a command"
	node_runs "$node" || { echo "lab: node $node does not run" >&2; exit 125; }
	dir=$(node_dir "$node")
	job=$(mktemp -d "$dir/share/jobs/XXXXXXXX")
	chmod 755 "$job"
	printf 'cd %q\n%s\n' "$PWD" "$*" >"$job/command"
	basename "$job" 1<>"$dir/bell.in" # opened both ways it does not wait for a reader
	while [ ! -f "$job/code" ]; do
		if [ $SECONDS -ge $end ]; then
			cat "$job/output" 2>/dev/null || true
			echo "lab: node $node has not answered for $EXEC_LIMIT_S s" >&2
			exit 124
		fi
		if ! node_runs "$node"; then
			cat "$job/output" 2>/dev/null || true
			cat "$job/errors" >&2 2>/dev/null || true
			echo "lab: node $node died" >&2
			exit 125
		fi
		sleep 0.02
	done
	cat "$job/output"
	cat "$job/errors" >&2
	code=$(cat "$job/code")
	rm -rf "$job"
	exit "$code"
}

lab_start() {
	local node=$1 name=$2
	shift 2
	lab_exec "$node" "setsid bash -c $(printf %q "$*") </dev/null >/run/lab/$name.log 2>&1 & echo \$!"
}

lab_kill() {
	need_node "$1"
	end_process "$(node_pid "$1")"
}

lab_reboot() {
	lab_kill "$1"
	ACCEL=$(cat "$LAB/accel")
	node_start "$1"
	node_wait "$1"
}

lab_refresh() {
	local node
	for node in $(seq "$(cat "$LAB/nodes")"); do
		! node_runs "$node" || (lab_exec "$node" 'sync; echo 3 >/proc/sys/vm/drop_caches')
	done
}

lab_status() {
	local dir node
	[ -f "$LAB/nodes" ] || die "lab: nothing is up"
	for node in $(seq "$(cat "$LAB/nodes")"); do
		printf 'node%d %s\n' "$node" "$(node_runs "$node" && echo "runs, process $(node_pid "$node")" || echo dead)"
	done
	switch_tell show
}

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
up | check | exec | start | kill | reboot | refresh | status | down) "lab_$command" "$@" ;;
address | device | interface | transport | can | nodes) "lab_$command" "$@" ;;
cut | delay | drop | reorder | heal) switch_tell "$command" "$@" ;;
hang | resume)
	need_node "$1"
	node_runs "$1" || die "lab: node $1 does not run"
	kill -"$([ "$command" = hang ] && echo STOP || echo CONT)" "$(node_pid "$1")"
	;;
log)
	need_node "$1"
	cat "$(node_dir "$1")"/console.old "$(node_dir "$1")"/console 2>/dev/null || true
	;;
share)
	need_node "$1"
	echo "$(node_dir "$1")/share"
	;;
help | -h | --help) usage ;;
*)
	usage >&2
	exit 2
	;;
esac
