# shellcheck shell=bash
# A virtio disk whose blocks are a file in the host's memory; real machines have none.
device_up() { virtio_disk fallow-peer; }
device_down() { :; }
