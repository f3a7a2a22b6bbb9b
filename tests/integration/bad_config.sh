# Each wrong configuration gives one clear error that names the file, the line and the key, and exit code 78.
. "$(dirname "$0")/lib.sh"

# refused PROGRAM PATTERN LINES...: the settings must be refused with one line that matches
refused() {
	local program=$1 pattern=$2
	shift 2
	printf '%s\n' "$@" >"$T/c.yaml"
	"$BIN/$program" --config "$T/c.yaml" --check >"$T/c.out" 2>"$T/c.err"
	[ $? = 78 ] || fail "$program, $*: not refused with 78"
	[ "$(wc -l <"$T/c.err")" = 1 ] || fail "$program, $*: not one line: $(cat "$T/c.err")"
	grep -Eq "c.yaml:[0-9]+: .*$pattern" "$T/c.err" ||
		fail "$program, $*: \"$(cat "$T/c.err")\" does not match \"$pattern\""
}

for p in fallowd fallow-memserver; do
	refused $p 'nonsense' 'nonsense: 1'
	refused $p 'http' 'http: {nonsense: 1}'
	refused $p 'http.port' 'http: {port: 70000}'
	refused $p 'http.port' 'http:' '  port: abc'
	refused $p 'name' 'name: "a b"'
	refused $p '' 'name: a' 'name: b'
	refused $p '' 'http: [unclosed'
	refused $p 'log.level' 'log: {level: loud}'
done
refused fallowd 'store.size' 'store: {size: 1MiB}'
refused fallowd 'store.segment' 'store: {segment: 300KiB}'
refused fallowd 'lanes.count' 'lanes: {count: 0}'
refused fallowd 'timing.hedge' 'timing: {hedge: 20s, get_timeout: 1s}'
refused fallowd 'pools.copies' 'pools: {copies: 4}'
refused fallowd 'donors\[1\].name' 'donors:' '  - {name: a, host: h}' '  - {name: a, host: g}'
refused fallowd 'donors\[0\].host' 'donors:' '  - {name: a}'
refused fallowd 'clients\[0\].weight' 'clients:' '  - {name: a, weight: 0}'
refused fallowd 'disk.size' 'disk: {path: /tmp}'
refused fallowd 'disks\[0\].guest_memory' 'disks:' '  - {name: a, size: 1MiB, guest_memory: balloon}'
refused fallowd 'disks\[0\].guest_memory' 'disks:' '  - {name: a, kind: cached, image: /tmp/i, guest_memory: pinned}'

# Wrong arguments.
"$BIN/fallowd" --nonsense 2>"$T/c.err"
expect "an unknown option is exit code 2" [ $? = 2 ]
"$BIN/fallowd" --config "$T/no-such-file" 2>"$T/c.err"
expect "a missing file is exit code 78" [ $? = 78 ]
expect "and it is named" grep -q no-such-file "$T/c.err"
"$BIN/fallowd" --help >"$T/c.out" && grep -q discard-arenas "$T/c.out" || fail "--help"
"$BIN/fallowd" --version | grep -q '^fallowd [0-9]' || fail "--version"
"$BIN/fallowd" --dump-config >"$T/dump.yaml" || fail "--dump-config"
"$BIN/fallowd" --config "$T/dump.yaml" --check || fail "the dump does not load"

# What only shows at the start: one error, exit code 1, nothing left running.
fails_to_start() {
	"$BIN/fallowd" --config "$T/f.yaml" 2>"$T/c.err"
	[ $? = 1 ] || fail "started, or another exit code: $1"
	grep -q "level=error.*$1" "$T/c.err" || fail "\"$1\" is not in: $(cat "$T/c.err")"
}
backend_config
sed -i "s#^runtime_dir:.*#runtime_dir: /proc/nothing#" "$T/f.yaml"
fails_to_start 'runtime_dir /proc/nothing'
backend_config
sed -i "s#^state_dir:.*#state_dir: /proc/nothing#" "$T/f.yaml"
fails_to_start 'state_dir /proc/nothing'
backend_config
sed -i "s#path: $T/f.sock#path: $T/no/such/dir/f.sock#" "$T/f.yaml"
fails_to_start 'no/such/dir/f.sock'
backend_config
mkdir -p "$T/state"
echo garbage >"$T/state/identity"
fails_to_start 'identity is damaged'
rm "$T/state/identity"
mkdir -p "$T/run"
head -c 65536 /dev/urandom >"$T/run/lane-0.arena"
fails_to_start 'lane-0.arena'
rm -r "$T/run"
backend_start
expect "it starts once all is right" kill -0 "$BACKEND_PID"
passed
