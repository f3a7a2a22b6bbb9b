# shellcheck shell=bash
# NVMe-oF over RDMA to a RAM disk.
. bench/rdma/nvme.sh
device_up() { nvme_up rdma 4420 /dev/ram0; }
device_down() { nvme_down rdma 4420; }
