# Packets that are lost, late or out of order change no byte and lose no request (DESIGN, rules 1 and 3).
needs nodes:3 drop reorder heal
donor_start 2
donor_start 3
backend_config "2 3"
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "$(all_ok 4096)" put p 0 4096 51
for how in "drop 1 2 2" "reorder 1 3 5" "delay 1 2 10"; do
	load_start reads watch p 0 4096 51
	load_start writes churn q 0 1024 52
	# shellcheck disable=SC2086
	lab $how
	sleep 3
	load_goes_on reads
	load_goes_on writes
	expect_load reads
	say "$how: $LOAD_PAGES pages read, longest get $LOAD_MS ms"
	expect_load writes refused
	expect_pages "$(all_ok 1024)" check p 0 1024 51
	lab heal
done
wait_for "all copies" all_copies
expect "no get was lost" json_is status '.gets_lost == 0'
