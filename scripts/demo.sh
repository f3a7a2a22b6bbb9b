#!/usr/bin/env bash
# The main job on this machine alone: two donors and a backend on loopback, real files stored and read back, a guest that swaps.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
	cat <<'EOF'
Usage: ./run demo [--keep | --stop] [--mib N] [--source DIR]

Builds Fallow, starts two memory servers and a backend whose local tier is an eighth of the data,
stores at least 1 GiB of real files, reads everything back, compares SHA-256 and prints figures. Then a virtual
machine whose memory is a quarter of its working set swaps on Fallow, and on a throttled disk image for comparison.

  --keep        leave the daemons and the guest running and say how to look at them
  --stop        end what --keep left running
  --mib N       how much to store (default 1024)
  --source DIR  whose files (default /usr)
EOF
}

dir=${FALLOW_DEMO_DIR:-/tmp/fallow-demo-$(id -u)}
arenas=/dev/shm/fallow-demo-$(id -u)
mib=1024
source=/usr
keep=0
bin=$PWD/build/bin
. scripts/demo_guest.sh

is_ours() { # PID: the id may be another process's by now
	grep -qsE '^(fallowd|fallow-memserve)' "/proc/$1/comm"
}

# The backend goes first. A donor that is asked twice does not wait for its clients.
stop_all() {
	local pid_file pid
	demo_guest_stop
	for pid_file in "$dir"/fallowd.pid "$dir"/donor*.pid; do
		[ -f "$pid_file" ] || continue
		pid=$(cat "$pid_file")
		for _ in $(seq 100); do
			is_ours "$pid" || break
			kill "$pid" 2>/dev/null || true
			sleep 0.1
		done
		if is_ours "$pid"; then
			kill -9 "$pid" 2>/dev/null || true
		fi
		rm -f "$pid_file"
	done
	rm -rf "$arenas" "$dir"
}

while [ $# -gt 0 ]; do
	case $1 in
	--keep) keep=1 ;;
	--stop)
		stop_all
		echo "demo: stopped"
		exit 0
		;;
	--mib)
		mib=${2:?--mib needs a number}
		shift
		;;
	--source)
		source=${2:?--source needs a directory}
		shift
		;;
	-h | --help)
		usage
		exit 0
		;;
	*)
		usage >&2
		exit 2
		;;
	esac
	shift
done
[[ $mib =~ ^[0-9]+$ ]] && [ "$mib" -ge 64 ] || die "demo: --mib takes a number from 64"

scripts/deps.sh build
build_preset release fallowd fallow-memserver fallow_client fallow fallow-demo swapwalk >/dev/null ||
	die "demo: the build failed"

stop_all
mkdir -p -m 700 "$dir" "$arenas"
finish() {
	local status=$?
	if [ "$status" != 0 ] || [ "$keep" = 0 ]; then
		if [ "$status" != 0 ]; then
			echo "demo: failed; the daemons' last lines:" >&2
			tail -n 5 "$dir"/*.log >&2 || true
		fi
		stop_all
	fi
}
trap finish EXIT

# A port nobody listens on.
free_port() {
	local port
	while :; do
		port=$((20000 + RANDOM % 12000))
		if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
			echo "$port"
			return
		fi
	done
}

start() { # NAME COMMAND...
	local name=$1
	shift
	setsid "$@" </dev/null >>"$dir/$name.log" 2>&1 &
	echo $! >"$dir/$name.pid"
}

wait_for() { # WHAT COMMAND...
	local what=$1
	shift
	for _ in $(seq 300); do
		"$@" >/dev/null 2>&1 && return
		sleep 0.1
	done
	die "demo: $what did not come up within 30 s (see $dir)"
}

ports=()
for n in 1 2; do
	ports[n]=$(free_port)
	cat >"$dir/donor$n.yaml" <<EOF
name: donor$n
listen:
  port: ${ports[n]}
memory:
  max: $((mib * 2 + guest_swap_mib * 2))MiB
  floor: 0
lease:
  ttl: 60s
http:
  socket: $dir/donor$n-http.sock
EOF
	start "donor$n" "$bin/fallow-memserver" --config "$dir/donor$n.yaml"
done
cat >"$dir/fallowd.yaml" <<EOF
runtime_dir: $arenas
state_dir: $dir/state
socket:
  path: $dir/fallowd.sock
  mode: "0600"
lanes:
  count: 1
store:
  size: $((mib / 8))MiB
pools:
  copies: 2
  disk: never
timing:
  put_wait: 5s
remote:
  max_lease: $((mib * 4 + guest_swap_mib * 4))MiB
donors:
  - { name: donor1, host: 127.0.0.1, port: ${ports[1]} }
  - { name: donor2, host: 127.0.0.1, port: ${ports[2]} }
http:
  socket: $dir/http.sock
EOF
start fallowd "$bin/fallowd" --config "$dir/fallowd.yaml"
wait_for "fallowd's socket" test -S "$dir/fallowd.sock"
wait_for "fallowd" "$bin/fallow" --http "$dir/http.sock" status

echo "Two donors and a backend run on loopback; local tier $((mib / 8)) MiB, data $mib MiB of $source, 2 copies."
"$bin/fallow-demo" --socket "$dir/fallowd.sock" --source "$source" --mib "$mib"
echo
"$bin/fallow" --http "$dir/http.sock" status
echo
"$bin/fallow" --http "$dir/http.sock" donors
echo
guest=0
if demo_guest_check; then
	demo_guest_run
	guest=1
fi
echo
echo "demo: passed"
if [ "$keep" = 1 ]; then
	cat <<EOF
The daemons go on running. To look at them:
  build/bin/fallow --http $dir/http.sock status
  build/bin/fallow --http $dir/http.sock capacity
  curl --unix-socket $dir/http.sock http://localhost/metrics
  build/bin/fallow --socket $dir/fallowd.sock bench
EOF
	if [ $guest = 1 ]; then
		echo "and at the guest:"
		echo "  FALLOW_GUEST_DIR=$dir/guest-fallow ./run guest exec 'cat /proc/swaps'"
	fi
	cat <<EOF
To end them: ./run demo --stop
socket: $dir/fallowd.sock
EOF
fi
