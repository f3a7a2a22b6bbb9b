# shellcheck shell=bash
# What the steps of the bench share: samples, the programs on the nodes, the peers' devices. Sourced by run.sh.
TARGET=2                  # the node that holds what node 1 asks for
DEVICE_MIB=192 SET_MIB=32 # of each peer's device, and how much of it fio uses

device() { lab device "$1"; } # for verbs
address() { lab address "$1"; }

# sample NAME JSON: one line of figures
sample() {
	jq -cn --arg step "$STEP" --arg name "$1" --argjson round "$ROUND" --argjson figures "$2" \
		'{step: $step, name: $name, round: $round} + $figures' >>"$SAMPLES" || fail "$1: no figures: $2"
}

# measure NAME COMMAND...: that prints one JSON object
measure() {
	local name=$1 line
	shift
	line=$("$@") || fail "$name: $line"
	sample "$name" "$line"
	say "$(jq -r --arg name "$name" '[$name, (if .p50_us then "p50 \(.p50_us) us, p99 \(.p99_us) us" else empty end),
		(if .mib_s then "\(.mib_s) MiB/s" else empty end), (if .per_s then "\(.per_s)/s" else empty end)] | join("  ")' <<<"$line")"
}

machine() { # FILE: what all of it ran on
	local cpu
	cpu=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)
	STEP=machine ROUND=0
	sample machine "$(jq -cn --arg cpu "$cpu" --arg kernel "$(uname -r)" --arg guest "$(lab exec 1 uname -r)" \
		--arg accel "$(cat "$LAB_DIR/accel" 2>/dev/null || echo none)" --argjson cores "$(nproc)" \
		--arg date "$(date -u +%F)" --arg commit "$(git rev-parse --short HEAD 2>/dev/null)" \
		--arg load "$(cut -d' ' -f1-3 /proc/loadavg)" --arg versions "$(lab exec 1 'fio --version; nvme version | head -n 1; nbdkit --version' | paste -sd' ')" \
		'{date: $date, cpu: $cpu, cores: $cores, kernel: $kernel, node_kernel: $guest, accelerator: $accel,
		commit: $commit, load_at_end: $load, peers: $versions}')"
}

### Raw verbs

# perftest LATENCY|BANDWIDTH PROGRAM BYTES OPTION...: between node 1 and the target; figures as JSON. The ends agree over
# TCP: with rdma_cm (-R) the idle end would poll all the time and take a small machine's only processor.
perftest() {
	local kind=$1 program=$2 bytes=$3 target=${PERF_NODE:-$TARGET} out
	shift 3
	lab start "$target" perftest "timeout 120 stdbuf -oL $program -d $(device "$target") -F -s $bytes $*" >/dev/null
	lab exec "$target" 'for i in $(seq 300); do grep -q "Waiting for client" /run/lab/perftest.log && exit; sleep 0.1; done; exit 1' ||
		{ echo "the server of $program did not start"; return 1; }
	out=$(lab exec 1 "timeout 120 $program -d $(device 1) -F -s $bytes $* $(address "$target")" 2>&1) ||
		{ echo "$out"; return 1; }
	awk -v kind="$kind" -v bytes="$bytes" '
		$1 == bytes && kind == "latency" && NF >= 9 {
			printf "{\"p50_us\":%s,\"p99_us\":%s,\"p999_us\":%s,\"mean_us\":%s,\"max_us\":%s,\"samples\":%s}\n", $5, $8, $9, $6, $4, $2
			found = 1
		}
		$1 == bytes && kind == "bandwidth" && NF >= 4 {
			printf "{\"mib_s\":%s,\"peak_mib_s\":%s,\"samples\":%s}\n", $4, $3, $2
			found = 1
		}
		END { exit !found }' <<<"$out" || { echo "$out"; return 1; }
}

read_server_start() {
	lab start $TARGET reads "$BIN/bench_read serve 7500" >/dev/null
	wait_for "the READ loop's server" lab exec $TARGET 'grep -q ready /run/lab/reads.log'
}

read_server_end() { lab exec $TARGET 'pkill -KILL -x bench_read' || true; }

read_loop() { # DEPTH READS [BYTES [beside]]
	lab exec 1 "timeout 120 $BIN/bench_read run $(address $TARGET) 7500 ${3:-4096} $1 $2 ${4:-}" 2>&1
}

### Fallow

# fallow_pages put|get OPTION...
fallow_pages() {
	local what=$1
	shift
	lab exec 1 "timeout 600 $BIN/bench_pages $what --socket /run/fallow-lab/f.sock --http /run/fallow-lab/f.http $*" 2>&1
}

# A daemon's processor time so far, the time now, both in ns, and how often its threads woke: as its own kernel counts.
cpu_ns() { # NODE PID-FILE
	lab exec "$1" "cd /proc/\$(<$2)/task && awk '{sum += \$1} END {printf \"%.0f \", sum}' */schedstat &&
		awk '/^voluntary/ {sum += \$2} END {printf \"%d \", sum}' */status; date +%s%N"
}

### Devices

# virtio_disk SERIAL: prints the disk that QEMU gave node 1 under that name (run.sh); real machines have none
virtio_disk() {
	lab exec 1 "modprobe virtio_blk
		for i in \$(seq 50); do
			for disk in /sys/block/vd*; do
				[ \"\$(cat \$disk/serial 2>/dev/null)\" != $1 ] || { echo /dev/\${disk##*/}; exit; }
			done
			sleep 0.1
		done
		echo 'no such disk here'; exit 1"
}

device_names() { printf '%s\n' "${!DEVICE[@]}" | sort; }

devices_up() {
	local file name out path
	for file in bench/rdma/devices/*.sh; do
		name=$(basename "$file" .sh)
		[ -z "${DEVICE[$name]:-}" ] || continue
		# shellcheck disable=SC1090
		if out=$(. "$file" && device_up 2>&1) && path=$(tail -n 1 <<<"$out") && [[ $path = /dev/* ]]; then
			DEVICE[$name]=$path
			MADE="${MADE:-} $name"
		else
			say "$name is left out: $out"
			sample "left_out.$name" "$(jq -cn --arg device "$name" --arg why "$out" '{device: $device, why: $why}')"
		fi
	done
}

devices_down() {
	local name
	for name in ${MADE:-}; do
		# shellcheck disable=SC1090
		(. "bench/rdma/devices/$name.sh" && device_down) >/dev/null 2>&1 || say "$name could not be taken down"
	done
	MADE=""
}

# The part that is read was written before, everywhere alike.
device_fill() { # PATH
	lab exec 1 "dd if=/dev/urandom of=$1 bs=1M count=$SET_MIB oflag=direct status=none" || fail "cannot write $1"
}

# fio_device NAME PATH: random 4 KiB reads and writes, one and sixteen in flight. The time of a request is all of it, as a
# program waits: some devices do most of their work in the submission, which fio's completion latency leaves out.
fio_device() {
	local name=$1 out kind seconds
	seconds=$([ $QUICK = 1 ] && echo 1 || echo 2)
	out=$(lab exec 1 "timeout 300 fio --output-format=json --filename=$2 --size=${SET_MIB}M --bs=4k --direct=1 \
		--ioengine=libaio --time_based --runtime=$seconds --lat_percentiles=1 --clat_percentiles=1 --buffer_compress_percentage=50 --buffer_compress_chunk=4096 --randseed=$((ROUND + 1)) \
		--name=read_1 --rw=randread --iodepth=1 --stonewall --name=write_1 --rw=randwrite --iodepth=1 \
		--stonewall --name=read_16 --rw=randread --iodepth=16 --stonewall --name=write_16 --rw=randwrite --iodepth=16" 2>&1) ||
		fail "fio on $name: $out"
	out=$(sed -n '/^{/,$p' <<<"$out")
	for kind in read_1 write_1 read_16 write_16; do
		measure "$name.$kind" jq -c --arg job $kind '.jobs[] | select(.jobname == $job) | .[$job | split("_")[0]] |
			def us(from; at): (from.percentile[at] / 1000);
			{p50_us: us(.lat_ns; "50.000000"), p99_us: us(.lat_ns; "99.000000"), p999_us: us(.lat_ns; "99.900000"),
			max_us: (.lat_ns.max / 1000), mean_us: (.lat_ns.mean / 1000), clat_p50_us: us(.clat_ns; "50.000000"),
			clat_p99_us: us(.clat_ns; "99.000000"), clat_p999_us: us(.clat_ns; "99.900000"),
			per_s: .iops, mib_s: (.iops / 256), samples: .total_ios}' <<<"$out"
	done
}
