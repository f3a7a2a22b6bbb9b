# Harness of the guest tests: real daemons on loopback and a guest whose disks they are. Sourced by a test with the
# directory of the programs as its first argument. Exit code 77: no guest can be started here.
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

guest() { "$ROOT/scripts/guest.sh" "$@"; }

if ! why=$(guest check 2>&1); then
	echo "guest tests are left out, this machine cannot run them: $why"
	exit 77
fi
# Arenas, images and memory files are memory, as they are in service.
[ ! -w /dev/shm ] || TMPDIR=/dev/shm
. "$ROOT/tests/integration/lib.sh"

SEED=${FALLOW_GUEST_SEED:-$RANDOM}
# `run test --long` has the long versions.
amount() { [ "${FALLOW_GUEST_LONG:-0}" = 1 ] && echo "$2" || echo "$1"; } # SHORT LONG
export FALLOW_GUEST_DIR=$T/guest FALLOW_GUEST_OWNER=$$
# What serves the disks: fallowd, or QEMU's own back end, which tells a fault of the harness from one of ours.
BACKEND=${FALLOW_GUEST_BACKEND:-fallowd}
declare -A STAND_IN=()

guest_finish() {
	local code=$? pid dir
	if [ "$FAILED" = 1 ] || [ $code != 0 ]; then
		echo "guest's console:"
		guest log 2>/dev/null | tail -n 40
	fi
	for dir in "$T"/guest*/; do
		FALLOW_GUEST_DIR=${dir%/} guest down
	done
	for pid in ${STAND_IN[@]+"${STAND_IN[@]}"}; do
		kill -KILL "$pid" 2>/dev/null
	done
	(exit $code)
	finish
}
trap guest_finish EXIT

say() { printf '   %s\n' "$*"; }

need_fallowd() { # WHAT
	[ "$BACKEND" = fallowd ] || { say "left out with this back end: $1"; passed; exit 0; }
}

### The back end

backend_socket() { echo "$T/$1.sock"; } # DISK

# Disks served by QEMU's own storage daemon from files in memory.
stand_in_start() { # NAME MIB QUEUES
	truncate -s "$2M" "$T/$1.img"
	"${DAEMON[@]}" qemu-storage-daemon --blockdev "driver=file,node-name=d,filename=$T/$1.img,discard=unmap" --export \
		"type=vhost-user-blk,id=e,node-name=d,addr.type=unix,addr.path=$T/$1.sock,writable=on,num-queues=$3" \
		>"$T/$1.log" 2>&1 &
	STAND_IN[$1]=$!
	wait_for "the socket of disk $1" test -S "$T/$1.sock"
}

# disks_start DONORS NAME:MIB[:QUEUES]...: donors, the backend and its disks
disks_start() {
	local donors=$1 n disk name mib queues total=0 list="disks:"
	shift
	for disk in "$@"; do
		IFS=: read -r name mib queues <<<"$disk"
		if [ "$BACKEND" = stand-in ]; then
			stand_in_start "$name" "$mib" "${queues:-1}"
		fi
		list="$list
  - {name: $name, kind: swap, size: ${mib}MiB, socket: $(backend_socket "$name"), queues: ${queues:-1}}"
		total=$((total + mib))
	done
	[ "$BACKEND" = fallowd ] || return 0
	# Two copies of all of it, incompressible and with dead bytes between: room is promised, so it must be there.
	DONOR_SETTINGS=("memory: {min: $((total * 4))MiB, max: $((total * 4))MiB, floor: 1%}" 'region: {size: 64MiB}')
	for n in $(seq "$donors"); do
		donor_start "$n" "${DONOR_SETTINGS[@]}"
	done
	backend_config "$list" "store: {size: 64MiB, max_pages: $((total * 256 * 2))}" 'pools: {copies: 2}' \
		"remote: {max_lease: $((total * 8))MiB, heartbeat: 200ms, suspect: 1s, dead: 3s, reconnect_max: 500ms}"
	backend_start
	wait_for "the donors are up" donors_up "$donors"
	for disk in "$@"; do
		wait_for "the socket of disk ${disk%%:*}" test -S "$(backend_socket "${disk%%:*}")"
	done
}

### The guest

guest_start_with() { # [OPTION...] DISK[:QUEUES]...: disks are /dev/vda, /dev/vdb ... in this order
	local options=() name queues
	while [[ ${1:-} == --* ]]; do
		options+=("$1")
		[ "$1" = --host ] || { options+=("$2") && shift; }
		shift
	done
	for name in "$@"; do
		IFS=: read -r name queues <<<"$name"
		options+=(--disk "vhost:$(backend_socket "$name"),queues=${queues:-1}")
	done
	GUEST_OPTIONS=("${options[@]}" --program "$BIN/swapwalk" --program "$BIN/blockwalk" --program "$BIN/memwalk")
	guest up "${GUEST_OPTIONS[@]}" || fail "no guest"
}

# A second QEMU with the same disks, to which the guest of the first can migrate.
guest_next() { # DIRECTORY
	FALLOW_GUEST_DIR=$1 guest up --incoming "$FALLOW_GUEST_DIR" "${GUEST_OPTIONS[@]}" || fail "no place for the guest to go to"
}

in_guest() { guest exec "$@" || fail "in the guest: exit code $?: $*"; }

# A short question; a guest that does not answer within the time of any single wait never will.
guest_is() { FALLOW_GUEST_EXEC_LIMIT_S=$LIMIT_S guest exec "$@" >/dev/null; }

# Busybox's plain -d asks for both and gets "once": the kernel wants to be told of one kind. virtio_blk calls every disk
# rotational, and the kernel discards freed swap only on those that are not.
swap_on() { # DEVICE [pages|once]: discards freed pages as it goes, or everything at the beginning
	in_guest "echo 0 >/sys/block/${1#/dev/}/queue/rotational && mkswap $1 >/dev/null && swapon -d${2:-pages} $1" >/dev/null
}

# Background walk: goes on until walk_end.
walk_start() { # MIB
	guest start walk "rm -f /tmp/enough; swapwalk --mib $1 --seed $SEED --steps 2000 --until /tmp/enough" ||
		fail "cannot start the walk"
	wait_for "the working set is filled" guest_is 'grep -q filled /tmp/walk.log || [ -f /tmp/walk.code ]'
}

walk_alive() { guest exec '[ ! -f /tmp/walk.code ]' || fail "the walk ended: $(guest exec 'cat /tmp/walk.log')"; }

walk_end() { # MIB
	in_guest 'touch /tmp/enough'
	wait_for "the walk's last check" guest_is '[ -f /tmp/walk.code ]'
	walk_figures "$1" "$(in_guest 'cat /tmp/walk.log; exit $(cat /tmp/walk.code)')"
}

walk_figures() { # MIB OUTPUT: every page was checked, and there were faults
	local figures
	figures=$(printf '%s\n' "$2" | grep '^{') || fail "the walk ended without figures: $2"
	say "$figures"
	[ "$(jq -r ".wrong == 0 and .checked == $1 * 256 and .major_faults > 0" <<<"$figures")" = true ] ||
		fail "a walk with wrong pages or no faults"
}

# Requests that a disk of the guest has finished so far.
requests_done() { in_guest "awk '{print \$1 + \$5 + \$12}' /sys/block/$1/stat"; }

# Until the guest got something done on a disk after this was called.
wait_progress() { # DEVICE REQUESTS
	local want
	want=$(($(requests_done "$1") + $2))
	wait_for "requests on $1 go on" requests_reach "$1" "$want"
}
requests_reach() { [ "$(requests_done "$1")" -ge "$2" ]; }

# A guest that saw an error on a disk says so on its console. That a large allocation failed, for which the kernel takes
# small ones instead (memory plugged in), is none, though it comes with a call trace.
no_errors_seen() {
	in_guest 'dmesg' >"$T/dmesg"
	if grep -qE 'I/O error|Read-error|Write-error|EXT4-fs error|blk_update_request|BUG:|WARNING:|Oops|general protection|blocked for more than|Out of memory' "$T/dmesg"; then
		tail -n 60 "$T/dmesg"
		fail "the guest's kernel complains"
	fi
}

donor_gone() { # N: it ended by itself
	! kill -0 "${DONOR_PID[$1]}" 2>/dev/null || grep -q '^State:.Z' "/proc/${DONOR_PID[$1]}/status"
}
