# The domains of deploy/guests under libvirt, as QEMU's user and not root: each is valid and comes up, and its disk of ours works
# there, through a kill of fallowd. What is changed in them stands in domain_make(), and nothing else is.
for tool in virsh virt-qemu-run; do
	command -v $tool >/dev/null || {
		echo "left out: there is no $tool"
		exit 77
	}
done
. "$(dirname "$0")/lib.sh"
need_fallowd "libvirt's domains"

# A root of libvirt's own, for its driver without a daemon. As root it would want the user that Debian's daemon has.
LIBVIRT=$T/libvirt
AS_USER=()
chmod 711 "$T"
mkdir -p "$LIBVIRT/etc"
echo 'stdio_handler = "file"' >"$LIBVIRT/etc/qemu.conf" # without virtlogd
if [ "$(id -u)" = 0 ]; then
	AS_USER=(setpriv --reuid nobody --regid nogroup)
	[ -c /dev/kvm ] && AS_USER+=(--groups "$(stat -c %g /dev/kvm)") || AS_USER+=(--clear-groups)
	chown -R nobody:nogroup "$LIBVIRT"
fi
# In a shell of its own: it becomes the program.
libvirt_exec() {
	cd "$LIBVIRT" || exit 1
	exec ${AS_USER[@]+"${AS_USER[@]}"} "${DAEMON[@]}" env HOME="$LIBVIRT" XDG_RUNTIME_DIR="$LIBVIRT" "$@"
}

# The domain of an example with this machine's accelerator, a small memory, the paths of this test; and with the tests' kernel
# in place of a boot loader and the tests' serial ports in place of a console.
domain_make() { # NAME EXAMPLE
	local accel
	accel=$(cat "$ROOT/build/kernel/accel")
	sed -e "s|<domain type='kvm'>|<domain type='${accel/tcg/qemu}'>|" \
		-e "s|<memory unit='GiB'>2<|<memory unit='MiB'>256<|" \
		-e "s|/run/fallow/|$T/|" -e "s|/var/lib/libvirt/images/|$T/|" \
		-e "s|^  </os>|<kernel>$FALLOW_GUEST_DIR/vmlinuz</kernel><initrd>$FALLOW_GUEST_DIR/initrd</initrd><cmdline>$(cat "$FALLOW_GUEST_DIR/append")</cmdline>&|" \
		-e "s|<console type='pty'/>|<serial type='file'><source path='$FALLOW_GUEST_DIR/console'/></serial><serial type='pipe'><source path='$FALLOW_GUEST_DIR/jobs'/></serial><serial type='file'><source path='$FALLOW_GUEST_DIR/answers'/></serial>|" \
		"$ROOT/deploy/guests/$2" >"$LIBVIRT/$1.xml"
}

domain_pid() { cat "$LIBVIRT/run/qemu/$1.pid" 2>/dev/null; }
domain_began() { domain_pid "$1" || ! kill -0 "$RUN_PID"; }

domain_start() { # NAME EXAMPLE
	export FALLOW_GUEST_DIR=$T/guest-$1
	guest make --program "$BIN/swapwalk" || fail "no files for a guest"
	domain_make "$1" "$2"
	[ "$(id -u)" != 0 ] || chown -R nobody:nogroup "$FALLOW_GUEST_DIR"
	# Elements that libvirt does not know it leaves out, unless it is asked about them.
	(libvirt_exec virsh -q -c "qemu:///embed?root=$LIBVIRT" "define --validate $1.xml; undefine $1" >"$T/define.log" 2>&1) ||
		fail "libvirt refuses $2: $(cat "$T/define.log")"
	libvirt_exec virt-qemu-run --root "$LIBVIRT" "$1.xml" >"$T/$1.run.log" 2>&1 &
	RUN_PID=$!
	STAND_IN[$1]=$RUN_PID
	wait_for "libvirt starts QEMU" domain_began "$1"
	guest attach "$(domain_pid "$1")" ||
		fail "libvirt's guest does not come up: $(cat "$T/$1.run.log" "$LIBVIRT"/log/qemu/*.log 2>/dev/null)"
	say "$2: up by libvirt $(virsh --version)"
}

domain_end() { # NAME
	guest down
	kill -KILL "$RUN_PID"
	wait "$RUN_PID" 2>/dev/null
	unset "STAND_IN[$1]"
}

queues_are() { [ "$(in_guest "ls /sys/block/$1/mq | wc -l")" = "$2" ]; }
fallowd_again() { # DEVICE: killed and started again, with the guest at work on it
	wait_progress "$1" 20
	backend_kill KILL
	backend_start
	wait_progress "$1" 20
}

mkdir "$T/files"
head -c 24M /dev/urandom >"$T/files/a"
mkfs.ext4 -q -F -d "$T/files" "$T/vm2.img" 64M >/dev/null || fail "mkfs"
qemu-img create -q -f qcow2 "$T/vm1.qcow2" 16M || fail "qemu-img"
[ "$(id -u)" != 0 ] || chown nobody "$T/vm1.qcow2"
DONOR_SETTINGS=('memory: {min: 1GiB, max: 1GiB, floor: 1%}' 'region: {size: 16MiB}')
donor_start 1 "${DONOR_SETTINGS[@]}"
donor_start 2 "${DONOR_SETTINGS[@]}"
backend_config "disks:
  - {name: vm1, kind: swap, size: 256MiB, socket: $T/vm1.sock, queues: 4, mode: 0666}
  - {name: vm2, kind: cached, image: $T/vm2.img, socket: $T/vm2.sock, queues: 2, mode: 0666}" \
	'store: {size: 64MiB, max_pages: 262144}' 'remote: {max_lease: 2GiB, heartbeat: 200ms, suspect: 1s, dead: 3s, reconnect_max: 500ms}'
backend_start
wait_for "the disks" test -S "$T/vm1.sock" -a -S "$T/vm2.sock"
say "seed $SEED"

domain_start vm1 swap-disk.xml
expect "four queues" queues_are vdb 4
swap_on /dev/vdb
walk_start 300
fallowd_again vdb
walk_end 300
no_errors_seen
domain_end vm1

domain_start vm2 cached-disk.xml
expect "two queues" queues_are vda 2
# shellcheck disable=SC2016
guest start files 'mount -t ext4 /dev/vda /mnt && n=0 && while [ ! -f /tmp/enough ]; do n=$((n + 1))
	cp /mnt/a /mnt/b && sync && echo 3 >/proc/sys/vm/drop_caches && cmp /mnt/a /mnt/b || exit 1; done; umount /mnt && echo "rounds $n"'
fallowd_again vda
in_guest 'touch /tmp/enough'
wait_for "the end of files" guest_is '[ -f /tmp/files.code ]'
# shellcheck disable=SC2016
say "files: $(in_guest 'cat /tmp/files.log; exit $(cat /tmp/files.code)')"
no_errors_seen
domain_end vm2
backend_kill TERM
e2fsck -f -n "$T/vm2.img" >"$T/fsck.out" 2>&1 || fail "the image on the host: $(cat "$T/fsck.out")"
debugfs -R "dump b $T/b" "$T/vm2.img" >/dev/null 2>&1
expect "what the guest wrote is in the image" cmp "$T/files/a" "$T/b"
passed
