# Pages come back from donors, at R=1 to 3; the donors' processors have no part in it (DESIGN, rule 1, and Processes: "its
# CPU never touches a page that moves").
needs nodes:3
donors=$(seq -s " " 2 "$NODES") count=$((NODES - 1))
for node in $donors; do
	donor_start "$node"
done
backend_config "$donors"
backend_start
wait_for "$count donors are up" donors_up $count
for copies in $(seq $count); do
	expect_pages "$(all_ok 6144)" put "r$copies" 0 6144 "$copies" "$copies"
	expect_pages "$(all_ok 6144)" check "r$copies" 0 6144 "$copies"
done
expect "all donors hold segments" json_is donors '[.donors[].segments > 0] | all'
expect "gets were served by donors" json_is status '[.lanes[].gets_remote] | add > 6000'
wait_for "all copies of what was spilled" all_copies
expect "nothing was corrupt" json_is status '[.lanes[].records_corrupt] | add == 0'

before=$(donor_cpu 2)
begin=$SECONDS
while [ $((SECONDS - begin)) -lt 10 ]; do
	expect_pages "$(all_ok 6144)" check r1 0 6144 1
	expect_pages "$(all_ok 6144)" check r2 0 6144 2
done
used=$(($(donor_cpu 2) - before)) seconds=$((SECONDS - begin))
say "memory server's processor time: $used ticks of 10 ms in $seconds s of gets"
# Heartbeats are in it, on a processor that is emulated; a copy of every page would be far more.
[ "$TRANSPORT" != verbs ] || expect "a memory server's processor stays out of it" [ "$used" -le $((seconds * 2)) ]
for copies in $(seq $count); do
	expect_pages "$(all_ok 6144)" flush "r$copies" 0 6144
done
lab exec 1 "$BIN/fallow bench --socket /run/fallow-lab/f.sock --size 32MiB --gets 2000 --depth 1 --copies 1 --compressible 0" 2>/dev/null |
	while read -r line; do say "$line"; done
