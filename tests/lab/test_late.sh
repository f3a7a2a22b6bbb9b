# A backend that comes back when its leases are over, with the old keys and writes under way, neither reads nor harms what
# is another client's by now (DESIGN, rules 1 and 4: never another client's bytes; regions are wiped before another gets them).
needs nodes:3
for node in 2 3; do
	donor_start $node "memory: {min: 24MiB, max: 24MiB, floor: 1%}" "lease: {ttl: 3s}" "region: {size: 2MiB, keep: 12}"
done
backend_config "2 3" "pools: {copies: 1}"
backend_start
wait_for "two donors are up" donors_up 2
expect_pages "$(all_ok 8192)" put p 0 8192 81
load_start writes churn q 0 2048 82
load_goes_on writes

leases_over() { metric_is 2 fallow_memserver_leased_bytes 0 && metric_is 3 fallow_memserver_leased_bytes 0; }

lab exec 1 'kill -STOP $(</run/fallow-lab/f.pid)'
wait_for "the leases are over" leases_over
wait_for "the regions are wiped" metric_at_least 2 fallow_memserver_wipes_total 1
# The next client: another identity, the same memory.
sed -e 's,/dev/shm/fallow,/dev/shm/fallow/next,; s,/run/fallow-lab/state,/run/fallow-lab/state/next,; s,/run/fallow-lab/f\.,/run/fallow-lab/next.,; s/^name: .*/name: next/' \
	"$BACKEND_SHARE/f.yaml" >"$BACKEND_SHARE/next.yaml"
lab exec 1 "mkdir -p /dev/shm/fallow/next /run/fallow-lab/state/next
	setsid $BIN/fallowd --config /run/lab/next.yaml </dev/null >/dev/null 2>>/run/lab/next.log & echo \$! >/run/fallow-lab/next.pid"
next() { lab exec 1 "$BIN/test-pages $1 /run/fallow-lab/next.sock n 0 6144 83"; }
wait_for "the next client's backend is ready" grep -q 'msg="ready"' "$BACKEND_SHARE/next.log"
tally=$(next put)
say "next client: put $tally"
taken=$(metric 2 fallow_memserver_leased_bytes)
expect "the next client has the memory" [ "$taken" -gt 0 ]
before=$(next check)
lab exec 1 'kill -CONT $(</run/fallow-lab/f.pid)'
load_goes_on writes
expect_load writes lost refused
tally=$(pages check p 0 8192 81)
say "late client: $tally"
[[ $tally = *" refused=0 miss=0 lost="*" wrong=0 failed=0" ]] || fail "the late client: $tally"
got=$(next check)
say "next client: check $got"
expect "the next client's pages are as they were ($before)" [ "$got" = "$before" ]
[[ $got = *" lost=0 wrong=0 failed=0" ]] || fail "the next client's pages: $got"
