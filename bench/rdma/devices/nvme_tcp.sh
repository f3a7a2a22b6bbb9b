# shellcheck shell=bash
# NVMe-oF over TCP to a RAM disk.
. bench/rdma/nvme.sh
device_up() { nvme_up tcp 4421 /dev/ram1; }
device_down() { nvme_down tcp 4421; }
