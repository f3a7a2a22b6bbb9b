# shellcheck shell=bash
# A virtio disk that QEMU holds to the speed of a hard disk: 120 requests/s and 120 MiB/s (run.sh). Real machines have their own.
device_up() {
	[ "$STEP" = swap ] || { echo "its speed is given"; return 1; }
	virtio_disk fallow-slow
}
device_down() { :; }
