# shellcheck shell=bash
# A RAM disk of the target as an NVMe-oF namespace: nvme_up TRANSPORT PORT RAM-DISK, nvme_down TRANSPORT PORT.
nvme_up() {
	lab exec $TARGET "set -e
		modprobe brd rd_nr=2 rd_size=$((DEVICE_MIB * 1024))
		modprobe -a nvmet nvmet_$1
		mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
		cd /sys/kernel/config/nvmet
		mkdir subsystems/fallow-$1 subsystems/fallow-$1/namespaces/1 ports/$2
		echo 1 >subsystems/fallow-$1/attr_allow_any_host
		echo -n $3 >subsystems/fallow-$1/namespaces/1/device_path
		echo 1 >subsystems/fallow-$1/namespaces/1/enable
		echo $1 >ports/$2/addr_trtype
		echo ipv4 >ports/$2/addr_adrfam
		echo $(address $TARGET) >ports/$2/addr_traddr
		echo $2 >ports/$2/addr_trsvcid
		ln -s /sys/kernel/config/nvmet/subsystems/fallow-$1 ports/$2/subsystems/" || return 1
	lab exec 1 "modprobe nvme_$1 && nvme connect -t $1 -a $(address $TARGET) -s $2 -n fallow-$1 -i 1 \
			-q nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-000000000077 >/dev/null || exit 1
		for i in \$(seq 100); do
			for disk in /sys/block/nvme*n1; do
				[ \"\$(cat \$disk/hidden)\" = 0 ] || continue
				[ \"\$(cat \$disk/device/subsysnqn 2>/dev/null)\" != fallow-$1 ] || { echo /dev/\${disk##*/}; exit; }
			done
			sleep 0.1
		done
		echo 'no device came'; exit 1"
}

nvme_down() {
	lab exec 1 "nvme disconnect -n fallow-$1"
	lab exec $TARGET "cd /sys/kernel/config/nvmet && rm ports/$2/subsystems/fallow-$1 && rmdir ports/$2 \
		subsystems/fallow-$1/namespaces/1 subsystems/fallow-$1
		[ -n \"\$(ls subsystems)\" ] || modprobe -r brd"
}
