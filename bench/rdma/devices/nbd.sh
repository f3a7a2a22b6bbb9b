# shellcheck shell=bash
# NBD over TCP to nbdkit's memory plugin.
device_up() {
	lab start $TARGET nbdkit "exec nbdkit -f -p 10809 -P /tmp/fallow-nbdkit.pid memory size=${DEVICE_MIB}M" >/dev/null
	lab exec 1 "modprobe nbd nbds_max=2
		for i in \$(seq 100); do
			nbd-client $(address $TARGET) 10809 /dev/nbd0 >/run/fallow-lab/nbd.log 2>&1 && { echo /dev/nbd0; exit; }
			sleep 0.1
		done
		cat /run/fallow-lab/nbd.log; exit 1"
}
device_down() {
	lab exec 1 'nbd-client -d /dev/nbd0'
	lab exec $TARGET 'kill $(</tmp/fallow-nbdkit.pid)'
}
