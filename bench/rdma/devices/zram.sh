# shellcheck shell=bash
# Compressed memory of node 1 itself: no network, but memory of its own.
device_up() {
	lab exec 1 "modprobe zram num_devices=1 && echo ${DEVICE_MIB}M >/sys/block/zram0/disksize && echo /dev/zram0"
}
device_down() { lab exec 1 'echo 1 >/sys/block/zram0/reset; modprobe -r zram'; }
