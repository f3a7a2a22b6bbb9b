# A donor that stops answering costs time only, and no get waits for it while another holder is there (DESIGN, rule 3):
# a machine that hangs for a moment, for longer than donors live, and goes on.
needs nodes:4 hang resume
for node in 2 3 4; do
	donor_start $node
done
backend_config "2 3 4" "timing: {hedge: 20ms, put_wait: 60s, get_timeout: 60s, io_timeout: 5s}"
backend_start
wait_for "three donors are up" donors_up 3
expect_pages "$(all_ok 8192)" put p 0 8192 41
wait_for "all copies" all_copies

phase_is() { json_is donors ".donors[] | select(.name == \"d3\") | .phase == \"$1\""; }

for phase in suspect dead; do
	load_start reads watch p 0 8192 41
	load_start writes churn q 0 1024 42
	load_goes_on reads
	lab hang 3
	wait_for "the donor is $phase" phase_is $phase
	load_goes_on reads
	load_goes_on writes
	load_end reads
	expect "every get was right" [ "$LOAD_TALLY" = "$(all_ok "$LOAD_PAGES")" ]
	say "hanging donor, until it is $phase: $LOAD_PAGES pages read, longest get $LOAD_MS ms"
	expect "a get waited for the donor that hangs" [ "$LOAD_MS" -lt 30000 ]
	[ $phase != dead ] || wait_for "all copies on the others" all_copies
	lab resume 3
	wait_for "three donors are up again" donors_up 3
	expect_load writes refused
	wait_for "all copies" all_copies
	expect_pages "$(all_ok 8192)" check p 0 8192 41
done
expect "no get was lost" json_is status '.gets_lost == 0'
