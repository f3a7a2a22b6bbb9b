# A swap storm: a guest of 256 MiB walks three times its memory on a swap disk of ours, and every page comes back right.
. "$(dirname "$0")/lib.sh"

used_pages() { curl -s --unix-socket "$T/f.http" http://localhost/v1/disks | jq '.disks[0].used_pages'; }

say "seed $SEED"
disks_start 2 swap:800:2
guest_start_with --mib 256 --cpus 2 swap:2
swap_on /dev/vda
walk_figures 768 "$(in_guest "swapwalk --mib 768 --seed $SEED --steps 20000")"
no_errors_seen
[ "$BACKEND" != fallowd ] || say "$(used_pages) pages stored"
# As swap of a new life it is discarded whole.
in_guest 'swapoff /dev/vda'
swap_on /dev/vda
[ "$BACKEND" != fallowd ] || expect "discards free what was stored" [ "$(used_pages)" -lt 256 ]
no_errors_seen
passed
