# A swap storm: a guest of 256 MiB walks three times its memory on a swap disk of ours, and every page comes back right.
. "$(dirname "$0")/lib.sh"

say "seed $SEED"
disks_start 2 swap:800:2
guest_start_with --mib 256 --cpus 2 swap:2
swap_on /dev/vda
walk_figures 768 "$(in_guest "swapwalk --mib 768 --seed $SEED --steps 20000")"
no_errors_seen
in_guest 'swapoff /dev/vda'
# The disk is nobody's swap any more: it takes a new one.
swap_on /dev/vda
walk_figures 384 "$(in_guest "swapwalk --mib 384 --seed $((SEED + 1)) --steps 1000")"
no_errors_seen
passed
