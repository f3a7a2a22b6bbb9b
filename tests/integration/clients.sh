# The list of clients: rights, the number of pools and the quota of an account are kept to, and counted.
. "$(dirname "$0")/lib.sh"

uid=$(id -u)
donor_start 1
backend_config 'pools: {copies: 1}' 'clients:' \
	"  - {name: me, uid: $uid, quota: 4MiB, weight: 7, ephemeral: false, max_pools: 2}"
backend_start
wait_for "the donor is up" donors_up 1

# 1024 pages are 4 MiB.
expect_pages "ok=1024 refused=1024 miss=0 lost=0 wrong=0 failed=0" put p 0 2048 51
expect_pages "ok=1024 refused=0 miss=1024 lost=0 wrong=0 failed=0" check p 0 2048 51
expect "the account is named and full" json_is clients \
	'.accounts[] | select(.name == "me") | .pages == 1024 and .quota_pages == 1024 and .weight == 7'
expect_pages "$(all_ok 512)" flush p 0 512
expect_pages "$(all_ok 512)" put q 0 512 52
pages put r 0 1 53 2>"$T/c.err" && fail "a third pool was opened"
"$BIN/fallow" bench --socket "$T/f.sock" --size 1MiB --ephemeral 2>"$T/c.err" && fail "an ephemeral pool was opened"
grep -q 'cannot open a pool' "$T/c.err" || fail "bench said $(cat "$T/c.err")"

# A restart keeps the account's pages, SIGHUP changes its quota.
backend_kill KILL
backend_start
expect "the pages still count" json_is clients '.accounts[] | select(.name == "me") | .pages == 1024'
sed -i 's/quota: 4MiB/quota: 8MiB/' "$T/f.yaml"
kill -HUP "$BACKEND_PID"
wait_for "the quota is larger" json_is clients '.accounts[] | select(.name == "me") | .quota_pages == 2048'
wait_for "the donor is up" donors_up 1
expect_pages "$(all_ok 1024)" put q 512 1024 52

# Someone whom the list does not name is turned away when others are not allowed.
backend_kill TERM
sed -i "s/uid: $uid/uid: $((uid + 1))/" "$T/f.yaml"
echo 'others_allowed: false' >>"$T/f.yaml"
backend_start
pages check p 0 1 51 2>"$T/c.err" && fail "a stranger was let in"
grep -q 'cannot connect' "$T/c.err" || fail "the stranger was told $(cat "$T/c.err")"
passed
