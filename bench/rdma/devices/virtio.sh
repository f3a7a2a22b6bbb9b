# shellcheck shell=bash
# A virtio disk whose blocks are a file in the host's memory; real machines have none.
device_up() {
	lab exec 1 'modprobe virtio_blk
		for i in $(seq 50); do
			for disk in /sys/block/vd*; do
				[ "$(cat $disk/serial 2>/dev/null)" != fallow-peer ] || { echo /dev/${disk##*/}; exit; }
			done
			sleep 0.1
		done
		echo "no such disk here"; exit 1'
}
device_down() { :; }
