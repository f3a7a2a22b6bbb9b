# The daemons start, find each other, stop cleanly on SIGTERM, and leave nothing behind but what is kept.
. "$(dirname "$0")/lib.sh"

donor_start 1
donor_start 2
backend_config
backend_start
wait_for "both donors are up" donors_up 2
expect "fallowd prints nothing on stdout" [ ! -s "$T/f.out" ]
expect "its identity is private" [ "$(stat -c %a "$T/state/identity")" = 600 ]
identity=$(cat "$T/state/identity")

# A second one over the same directories is refused, and does no harm.
sed "s#$T/f.sock#$T/g.sock#; s#$T/f.http#$T/g.http#" "$T/f.yaml" >"$T/g.yaml"
"$BIN/fallowd" --config "$T/g.yaml" 2>"$T/g.log"
expect "a second fallowd fails" [ $? = 1 ]
expect "it says why" grep -q 'level=error.*arena' "$T/g.log"
expect "the first one still answers" json_is status '.donors_up == 2'

# SIGHUP takes over what may change, and says what may not.
sed -i 's/^lanes:.*/lanes: {count: 3}/' "$T/f.yaml"
kill -HUP "$BACKEND_PID"
wait_for "the reload is logged" grep -q 'was read again' "$T/f.log.new"
expect "lanes take a restart" grep -q 'lanes changed' "$T/f.log.new"
echo 'nonsense: 1' >>"$T/f.yaml"
kill -HUP "$BACKEND_PID"
wait_for "a wrong file changes nothing" grep -q 'nothing was changed: .*f.yaml:[0-9]*: ' "$T/f.log.new"

backend_kill TERM
expect "exit code 0 on SIGTERM, not $BACKEND_CODE" [ "$BACKEND_CODE" = 0 ]
expect "the sockets are gone" [ ! -e "$T/f.sock" -a ! -e "$T/f.http" ]
backend_config
backend_start
expect "the identity stays" [ "$identity" = "$(cat "$T/state/identity")" ]
wait_for "both donors are up again" donors_up 2
backend_kill INT
expect "exit code 0 on SIGINT" [ "$BACKEND_CODE" = 0 ]
passed
