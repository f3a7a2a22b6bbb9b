#!/usr/bin/env bash
# One small virtual machine in stock QEMU with Debian's kernel, for tests, demo and benches: guest.sh COMMAND [ARGUMENT...].
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

usage() {
	cat <<'TEXT'
Usage: ./run guest COMMAND [ARGUMENT...]

  up [OPTION...]      start a guest and wait until it takes commands
    --mib N           its memory (64 to 16384; default 256), without KVM 128 KiB less: a size that can migrate
    --max-mib N       up to this it can grow by hotplug (default: as --mib)
    --cpus N          processors (default 1)
    --disk vhost:SOCKET[,queues=N]
                      a disk by vhost-user, virtio_blk in the guest: /dev/vda, /dev/vdb ... in this order
    --disk file:PATH[,bps=N][,iops=N]
                      a raw image or device as disk, throttled by QEMU to bytes and requests per second
    --program FILE    a static program for the guest's /bin
    --host            this machine's files read-only under /host, for `chroot /host PROGRAM`; costs page cache
    --append WORDS    for the kernel's command line; fallow.root=ro (or rw) boots into the ext4 on /dev/vda, whose
                      /sbin/init takes the commands (tests/guest/jobs.sh)
    --incoming DIR    takes over the guest of that FALLOW_GUEST_DIR, with the same other options, when that is told
                      to migrate to here
  make [--program FILE]...
                      make the files of a guest and start none: another program does, with the kernel `vmlinuz`, the first
                      file system `initrd` and the words in `append` from FALLOW_GUEST_DIR, and three serial ports there:
                      the file `console`, the pipe `jobs`, the file `answers`
  attach PID          wait until that guest, whose QEMU has this process id, takes commands; all but plug, reset, migrate,
                      hang, resume, qmp and tasks, which need QEMU's monitor, can be done with it
  exec CMD...         run a shell command in the guest; its output and its exit code (125: the guest died or was
                      reset; 124: it does not answer)
  start NAME CMD...   run a command in the background; output in the guest's /tmp/NAME.log, exit code in /tmp/NAME.code
  plug MIB            add memory (a multiple of 128)
  reset               as its reset button does; waits until it takes commands again
  migrate DIR         move the running guest to the one that was started with --incoming in that FALLOW_GUEST_DIR; when
                      it fails the guest goes on here
  kill                end it as a power failure does
  hang, resume        stop its processors and its clock; let them go on
  qmp JSON            a command for QEMU's monitor; prints the answer
  log                 the kernel's console
  tasks               have the kernel tell its console what each processor and each blocked task is at (its magic key)
  status              whether it runs
  check               whether a guest can be started here; fetches what it needs
  down                end everything

FALLOW_GUEST_DIR: where a guest keeps its files, one guest each (default /tmp/fallow-guest-UID).
FALLOW_GUEST_ACCEL: kvm or tcg (default: kvm where a machine boots with it).
FALLOW_GUEST_OWNER: a process id; the guest goes down when that process is gone.
FALLOW_GUEST_QEMU: another QEMU than qemu-system-x86_64.
TEXT
}

GUEST=${FALLOW_GUEST_DIR:-/tmp/fallow-guest-$(id -u)}
CACHE=$PWD/build/guest
QEMU=${FALLOW_GUEST_QEMU:-qemu-system-x86_64}
BOOT_LIMIT_S=${FALLOW_GUEST_BOOT_LIMIT_S:-180}
EXEC_LIMIT_S=${FALLOW_GUEST_EXEC_LIMIT_S:-900}
MACHINE_NAME=guest MACHINE_DIR=$GUEST
. scripts/machines.sh

modules="virtio_pci virtio_blk ext4 crc32c_generic crc32c_intel 9pnet_virtio 9p"

guest_pid() { cat "$GUEST/pid" 2>/dev/null || true; }

guest_runs() { is_ours "$(guest_pid)"; }

### Kernel and first file system

# Debian's kernel, busybox and the modules that are needed; made once.
prepare() {
	local work=$CACHE/unpacked release
	[ -f "$CACHE/ready" ] && [ "$(cat "$CACHE/ready")" = "$modules" ] && return
	echo "guest: unpacking Debian's kernel into $CACHE"
	rm -rf "$CACHE"
	mkdir -p "$CACHE/root/bin"
	release=$(kernel_unpack "$work")
	# shellcheck disable=SC2086
	kernel_modules "$work" "$release" "$CACHE/modules" $modules
	# shellcheck disable=SC2086
	kernel_first_modules "$CACHE/modules" "$release" "$CACHE/root" $modules
	cp /bin/busybox "$CACHE/root/bin/busybox"
	pack_initrd "$CACHE/root" >"$CACHE/initrd"
	cp "$work"/boot/vmlinuz-* "$CACHE/vmlinuz"
	rm -rf "$work" "$CACHE/root" "$CACHE/modules" "$CACHE/modules.base"
	echo "$modules" >"$CACHE/ready"
}

# The kernel takes several archives in one file: the common one, and what this guest has besides.
make_initrd() { # FILE PROGRAM...
	local file=$1 extra
	shift
	extra=$(mktemp -d)
	mkdir "$extra/bin"
	install -m 755 tests/guest/init.sh "$extra/init"
	install -m 755 tests/guest/jobs.sh "$extra/bin/jobs"
	[ $# -eq 0 ] || install -m 755 -s "$@" "$extra/bin/"
	{
		cat "$CACHE/initrd"
		pack_initrd "$extra"
	} >"$file"
	rm -rf "$extra"
}

### QEMU

disk_arguments() { # INDEX SPEC: sets DISK
	local n=$1 kind=${2%%:*} rest=${2#*:} path option queues=1 drive
	path=${rest%%,*}
	drive="if=none,id=drive$n,format=raw,cache=writeback,discard=unmap,file=$path"
	while [[ $rest == *,* ]]; do
		rest=${rest#*,} option=${rest%%,*}
		case $kind:$option in
		vhost:queues=*) queues=${option#*=} && number "$queues" 1 16 "the number of queues" ;;
		file:bps=*) drive="$drive,throttling.bps-total=${option#*=}" ;;
		file:iops=*) drive="$drive,throttling.iops-total=${option#*=}" ;;
		*) die "guest: a disk of kind '$kind' has no '$option'" ;;
		esac
	done
	case $kind in
	vhost)
		DISK=(-chardev "socket,id=disk$n,path=$path,reconnect=1"
			-device "vhost-user-blk-pci,id=vdisk$n,chardev=disk$n,num-queues=$queues")
		;;
	file) DISK=(-drive "$drive" -device "virtio-blk-pci,id=vdisk$n,drive=drive$n") ;;
	*) die "guest: a disk is vhost:SOCKET or file:PATH, not '$2'" ;;
	esac
}

# Whoever reads the monitor's answers; without it QEMU would wait.
start_monitor() {
	# shellcheck disable=SC2016
	setsid bash -c 'exec cat "$1" >"$2"' drain "$GUEST/monitor.out" "$GUEST/monitor.log" </dev/null >/dev/null 2>&1 &
	echo $! >"$GUEST/drain.pid"
}

# An empty directory for a guest, which ends with its owner.
begin_guest() {
	guest_down
	(umask 077 && mkdir -p "$GUEST")
	touch "$GUEST/guest"
	[ -z "${FALLOW_GUEST_OWNER:-}" ] || watch_owner "$FALLOW_GUEST_OWNER" scripts/guest.sh down
}

start_qemu() { # MIB MAX_MIB CPUS APPEND ARGUMENT...
	local mib=$1 max=$2 cpus=$3 append=$4 accel=kvm size kib=$(($1 * 1024))
	shift 4
	# Without KVM, QEMU before 9.0 loses stores to what it copies for a migration, unless the memory's size is no
	# multiple of 256 KiB (docs/GUESTS.md).
	[ "$ACCEL" = kvm ] || accel=tcg,thread=multi,tb-size=128 kib=$((kib - 128))
	size=${kib}K
	[ "$max" = "$mib" ] || size="$size,slots=8,maxmem=${max}M"
	mkfifo "$GUEST"/{jobs,monitor}.{in,out}
	: >"$GUEST/answers"
	start_monitor
	setsid nice -n 5 "$QEMU" -name fallow-guest -M q35,memory-backend=ram -accel "$accel" -cpu max -smp "$cpus" \
		-m "$size" -object "memory-backend-memfd,id=ram,size=${kib}K,share=on" \
		-nodefaults -no-user-config -display none -no-reboot \
		-kernel "$CACHE/vmlinuz" -initrd "$GUEST/initrd" -append "$KERNEL_COMMAND_LINE memhp_default_state=online $append" \
		-serial "file:$GUEST/console" -chardev "pipe,id=jobs,path=$GUEST/jobs" -serial chardev:jobs \
		-serial "file:$GUEST/answers" \
		-chardev "pipe,id=monitor,path=$GUEST/monitor" -mon chardev=monitor,mode=control \
		-device virtio-rng-pci "$@" </dev/null >"$GUEST/qemu.log" 2>&1 &
	echo $! >"$GUEST/pid"
	process_began $! || guest_failed
}

# Says all that is known of a QEMU of this shell that did not do what it should.
guest_failed() {
	local pid code=0
	pid=$(guest_pid)
	tail -n 20 "$GUEST/qemu.log" "$GUEST/console" >&2 || true
	if kill -0 "$pid" 2>/dev/null; then
		die "guest: it has not come up in $BOOT_LIMIT_S s"
	fi
	wait "$pid" 2>/dev/null || code=$?
	[ $code != 127 ] || die "guest: QEMU has ended"
	die "guest: QEMU ended with exit code $code$([ $code -le 128 ] || echo ", by signal $((code - 128))")"
}

times_up() { grep -c '^up .* \.$' "$GUEST/answers" || true; }

wait_until() { # COMMAND...: as long as the guest runs
	local end=$((SECONDS + BOOT_LIMIT_S))
	until "$@"; do
		guest_runs && [ $SECONDS -lt $end ] || guest_failed
		sleep 0.1
	done
}

was_up() { [ "$(times_up)" -ge "$1" ]; } # TIMES

# What is written to its pipe before QEMU has opened that is lost.
monitor_greets() { grep -qs '"QMP"' "$GUEST/monitor.log"; }

need_guest() {
	guest_runs || {
		echo "guest: it does not run" >&2
		exit 125
	}
}

### Commands

guest_check() {
	scripts/deps.sh build guest
	command -v "$QEMU" >/dev/null || die "guest: there is no $QEMU"
	prepare
	if [ -z "${FALLOW_GUEST_ACCEL:-}" ] && [ ! -f "$KERNEL_CACHE/accel" ]; then
		make_initrd "$KERNEL_CACHE/probe.initrd"
		choose_accel "$CACHE/vmlinuz" "$KERNEL_CACHE/probe.initrd" ""
		rm -f "$KERNEL_CACHE/probe.initrd"
	fi
	choose_accel "$CACHE/vmlinuz" "" "${FALLOW_GUEST_ACCEL:-}"
}

guest_up() {
	local mib=256 max="" cpus=1 append="" from="" programs=() disks=() extra=() begin=$SECONDS option n=0
	while [ $# -gt 0 ]; do
		option=$1
		shift
		[ "$option" = --host ] || [ $# -gt 0 ] || die "guest: $option needs a value"
		case $option in
		--mib) number "$1" 64 16384 "a guest's memory in MiB" && mib=$1 ;;
		--max-mib) number "$1" 64 65536 "a guest's memory in MiB" && max=$1 ;;
		--cpus) number "$1" 1 16 "the number of processors" && cpus=$1 ;;
		--disk) disks+=("$1") ;;
		--program) programs+=("$1") ;;
		--append) append="$append $1" ;;
		--incoming) from=$1 && extra+=(-incoming "unix:$GUEST/incoming") ;;
		--host)
			append="$append fallow.host"
			extra+=(-virtfs "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap")
			continue
			;;
		*) die "guest: unknown option '$option'" ;;
		esac
		shift
	done
	guest_check
	begin_guest
	for option in ${disks[@]+"${disks[@]}"}; do
		disk_arguments $n "$option"
		extra+=("${DISK[@]}")
		n=$((n + 1))
	done
	# The same machine to the byte: it was built from the same files.
	if [ -n "$from" ]; then
		cp "$from/initrd" "$GUEST/initrd"
	else
		make_initrd "$GUEST/initrd" ${programs[@]+"${programs[@]}"}
	fi
	start_qemu "$mib" "${max:-$mib}" "$cpus" "$append" ${extra[@]+"${extra[@]}"}
	[ -n "$from" ] || wait_until was_up 1
	wait_until monitor_greets
	guest_qmp '{"execute":"qmp_capabilities"}' >/dev/null
	[ -z "$from" ] || { echo "guest: waits for the guest of $from" && return; }
	echo "guest: up with $mib MiB ($ACCEL) after $((SECONDS - begin)) s"
}

guest_make() {
	local programs=()
	while [ $# -gt 0 ]; do
		[ "$1" = --program ] && [ $# -gt 1 ] || die "guest: make takes --program FILE only, not '$1'"
		programs+=("$2")
		shift 2
	done
	guest_check
	begin_guest
	cp "$CACHE/vmlinuz" "$GUEST/vmlinuz"
	make_initrd "$GUEST/initrd" ${programs[@]+"${programs[@]}"}
	echo "$KERNEL_COMMAND_LINE" >"$GUEST/append"
	mkfifo "$GUEST"/jobs.{in,out}
	: >"$GUEST/answers"
}

guest_attach() { # PID
	number "${1:-}" 1 4194304 "a process id"
	is_ours "$1" || die "guest: process $1 has none of the files of $GUEST"
	echo "$1" >"$GUEST/pid"
	wait_until was_up 1
}

guest_down() {
	local pid_file
	[ ! -d "$GUEST" ] || [ -f "$GUEST/guest" ] || [ -z "$(ls -A "$GUEST")" ] ||
		die "guest: $GUEST holds something else than a guest"
	for pid_file in "$GUEST"/{watch.pid,pid,drain.pid}; do
		[ ! -f "$pid_file" ] || [ "$(cat "$pid_file")" = $$ ] || end_process "$(cat "$pid_file")"
	done
	rm -rf "$GUEST"
}

guest_exec() {
	local id up answer code end=$((SECONDS + EXEC_LIMIT_S))
	[ $# -gt 0 ] || die "guest: exec needs a command"
	need_guest
	id=j$$.$RANDOM$RANDOM
	up=$(times_up)
	# Opened both ways a pipe does not wait for a reader.
	# shellcheck disable=SC2016
	flock "$GUEST/guest" bash -c 'printf "%s %s\n" "$1" "$2" 1<>"$3"' \
		job "$id" "$(printf '%s' "$*" | base64 -w 0)" "$GUEST/jobs.in"
	until answer=$(grep -m 1 "^$id [0-9]* [^ ]* \.\$" "$GUEST/answers"); do
		if ! guest_runs || [ "$(times_up)" != "$up" ]; then
			echo "guest: it died or was reset" >&2
			exit 125
		fi
		if [ $SECONDS -ge $end ]; then
			echo "guest: it has not answered for $EXEC_LIMIT_S s" >&2
			(guest_tasks) || true
			exit 124
		fi
		sleep 0.05
	done
	read -r _ code answer _ <<<"$answer"
	printf '%s' "${answer%.}" | base64 -d
	exit "$code"
}

guest_start() {
	local name=$1
	shift
	guest_exec "(setsid sh -c $(printf %q "$*") >/tmp/$name.log 2>&1; echo \$? >/tmp/$name.code) </dev/null >/dev/null 2>&1 &"
}

guest_qmp() { # JSON, an object with "execute" first
	local id=q$$.$RANDOM$RANDOM answer
	need_guest
	printf '{"id":"%s",%s\n' "$id" "${1#\{}" 1<>"$GUEST/monitor.in"
	for _ in $(seq 600); do
		if answer=$(grep -m 1 "\"id\": \"$id\"" "$GUEST/monitor.log"); then
			echo "$answer"
			[[ $answer != *'"error":'* ]] || exit 1
			return
		fi
		guest_runs || break
		sleep 0.05
	done
	die "guest: QEMU's monitor does not answer"
}

guest_plug() { # MIB
	local id=dimm$RANDOM$RANDOM
	number "${1:-}" 128 65536 "memory to plug in MiB"
	guest_qmp "{\"execute\":\"object-add\",\"arguments\":{\"qom-type\":\"memory-backend-memfd\",\"id\":\"$id\",\"size\":$(($1 * 1048576)),\"share\":true}}" >/dev/null
	guest_qmp "{\"execute\":\"device_add\",\"arguments\":{\"driver\":\"pc-dimm\",\"id\":\"p$id\",\"memdev\":\"$id\"}}" >/dev/null
}

# A panic ends the guest; only this reset starts it again.
guest_reset() {
	local up
	up=$(times_up)
	guest_qmp '{"execute":"set-action","arguments":{"reboot":"reset"}}' >/dev/null
	guest_qmp '{"execute":"system_reset"}' >/dev/null
	wait_until was_up $((up + 1))
	guest_qmp '{"execute":"set-action","arguments":{"reboot":"shutdown"}}' >/dev/null
}

guest_migrate() { # DIR
	local answer state="" end=$((SECONDS + BOOT_LIMIT_S))
	[ -S "${1:-}/incoming" ] || die "guest: nobody waits for a guest in '${1:-}'"
	guest_qmp "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:$1/incoming\"}}" >/dev/null
	until [[ $state == @(completed|failed|cancelled) ]]; do
		if [ $SECONDS -ge $end ]; then
			guest_qmp '{"execute":"migrate_cancel"}' >/dev/null
			die "guest: it has not migrated in $BOOT_LIMIT_S s"
		fi
		sleep 0.1
		answer=$(guest_qmp '{"execute":"query-migrate"}')
		state=$(jq -r .return.status <<<"$answer")
	done
	[ "$state" = completed ] || die "guest: the migration $state: $(jq -r '.return["error-desc"] // "no reason given"' <<<"$answer")"
	jq -r '.return | "guest: migrated in \(.["total-time"]) ms, \(.downtime) ms of them at rest; \(.ram.transferred / 1048576 | floor) MiB sent"' <<<"$answer"
}

# Needs nothing of the guest but its keyboard's interrupt: a guest that does not answer can still tell.
guest_tasks() {
	local key
	for key in 9 l w; do
		guest_qmp '{"execute":"send-key","arguments":{"keys":[{"type":"qcode","data":"alt"},{"type":"qcode","data":"sysrq"},{"type":"qcode","data":"'$key'"}]}}' >/dev/null
		sleep 1
	done
}

guest_kill() { end_process "$(guest_pid)"; }

guest_status() {
	[ -f "$GUEST/guest" ] || die "guest: nothing is up"
	if guest_runs; then
		echo "guest runs, process $(guest_pid)"
	else
		echo "guest is dead"
	fi
}

command=${1:-help}
[ $# -gt 0 ] && shift
case $command in
up | make | attach | exec | start | plug | reset | migrate | tasks | kill | qmp | status | check | down) "guest_$command" "$@" ;;
hang) guest_qmp '{"execute":"stop"}' >/dev/null ;;
resume) guest_qmp '{"execute":"cont"}' >/dev/null ;;
log) cat "$GUEST/console" ;;
help | -h | --help) usage ;;
*)
	usage >&2
	exit 2
	;;
esac
