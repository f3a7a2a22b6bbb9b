# The channel by which the tests talk to a guest: no job is lost, whatever the guest and its kernel do meanwhile; and a
# guest that cannot be started, or does not answer, says why.
. "$(dirname "$0")/lib.sh"

console_says() { guest log | grep -q "$1"; }
answered() { grep -qx "$1" "$FALLOW_GUEST_DIR/answers"; }

if why=$(FALLOW_GUEST_QEMU=/bin/false guest up 2>&1); then fail "a guest without QEMU is up"; fi
expect "the exit code of QEMU is said, not: $why" grep -q 'exit code 1$' <<<"$why"

guest up --mib 128 --cpus 2 || fail "no guest"

# Children of the guest's first process end while half of a job has arrived.
in_guest 'for n in 1 2 3 4 5; do (sleep 1.$n; echo "nap $n is over" >/dev/console) & done'
job=$(printf 'echo whole' | base64)
printf 'halves %s' "${job%????}" 1<>"$FALLOW_GUEST_DIR/jobs.in"
wait_for "the naps" console_says 'nap 5 is over'
printf '%s\n' "${job: -4}" 1<>"$FALLOW_GUEST_DIR/jobs.in"
wait_for "the answer to a job that came in halves" answered "halves 0 $(echo whole | base64) \."
say "a job that came in halves is answered"

# Big answers, long jobs, jobs at once, orphans that end and a kernel that talks, all together.
# shellcheck disable=SC2016
guest start noise 'while [ ! -f /tmp/enough ]; do (sleep 0.0$((RANDOM % 10)) &) ; echo noise >/dev/kmsg; sleep 0.05; done'
long=$(head -c 1500 /dev/zero | tr '\0' x)
rounds=$(amount 8 200)
for round in $(seq "$rounds"); do
	pids=()
	for n in 1 2 3; do
		guest exec "head -c ${n}0000 /dev/zero | tr '\\0' $n" >"$T/big.$n" &
		pids+=($!)
	done
	[ "$(in_guest "echo $round; : $long")" = "$round" ] || fail "round $round has another answer"
	for n in 1 2 3; do
		wait "${pids[n - 1]}" || fail "round $round: no big answer $n: exit code $?"
		[ "$(wc -c <"$T/big.$n").$(tr -d "$n" <"$T/big.$n")" = "${n}0000." ] || fail "round $round: a wrong big answer $n"
	done
done
in_guest 'touch /tmp/enough'
say "$((rounds * 4)) jobs amid noise are answered"

# What ends for want of memory is told, too.
code=0
guest exec 'head -c 300m /dev/zero | tail -c 300m >/dev/null; exit 9' || code=$?
expect "a job that wanted too much memory ends with 9, not $code" [ $code = 9 ]
code=0
# shellcheck disable=SC2016
guest exec 'kill -KILL $$' || code=$?
expect "a killed job ends with 137, not $code" [ $code = 137 ]

# A guest that does not answer can be asked by its keyboard.
FALLOW_GUEST_EXEC_LIMIT_S=2 guest exec 'sleep 20' && fail "a sleep was over too soon"
wait_for "what the processors are at" console_says 'Show backtrace of all active CPUs'
passed
