# fallowd is killed, again and again: every page it acknowledged is there afterwards, on the same leases.
. "$(dirname "$0")/lib.sh"

donor_start 1
donor_start 2
backend_config
backend_start
wait_for "both donors are up" donors_up 2
expect_pages "$(all_ok 12288)" put p 0 12288 21
for round in 1 2 3; do
	# Something is under way when it dies.
	pages put busy 0 4096 "$round" >"$T/busy.out" 2>&1 &
	busy=$!
	sleep 0.0$((RANDOM % 9 + 1))
	backend_kill KILL
	wait $busy
	backend_start
	expect_pages "$(all_ok 12288)" check p 0 12288 21
	wait_for "both donors are up after kill $round" donors_up 2
done
expect "no region was lost" json_is donors '[.donors[].lost_regions] | add == 0'
expect "no page was lost" json_is status '.gets_lost == 0'

# The pool is the same one, not a new one of that name.
expect "two pools" json_is pools '[.pools[].name] | sort == ["busy", "p"]'

# Lanes are part of the arenas' geometry.
backend_kill TERM
sed -i 's/^lanes:.*/lanes: {count: 1}/' "$T/f.yaml"
"$BIN/fallowd" --config "$T/f.yaml" 2>"$T/g.log"
expect "another lane count is refused" [ $? = 1 ]
expect "it says what to do" grep -q 'discard-arenas' "$T/g.log"
backend_start --discard-arenas
wait_for "both donors are up" donors_up 2
expect "the pages are gone" json_is status '.pages == 0'
wait_for "the leases were given back" json_is donors '[.donors[].leased_bytes] | add == 0'
expect_pages "$(all_ok 1024)" put p 0 1024 22
expect_pages "$(all_ok 1024)" check p 0 1024 22
passed
