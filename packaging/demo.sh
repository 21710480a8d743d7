#!/usr/bin/env bash
# shellcheck disable=SC2317
# `make run`: a relay with a sink behind it, a first message through both, and how to go on. Ends with Ctrl-C.
# usage: packaging/demo.sh [BINARY]      Everything it writes is in build/demo.
# Environment: RINGPOST_DEMO_PORT=2525, the relay's port (the sink's is 101 above it),
#              RINGPOST_DEMO_STATS_PORT=9125, where statistics are, and
#              RINGPOST_DEMO_FOLDER=build/demo, what is written to.
# However it ends, also when nobody reads its output any more (make run | head), it takes the relay and the sink with it.
set -euo pipefail
cd "$(dirname "$0")/.."
binary=${1:-build/ringpost}
port=${RINGPOST_DEMO_PORT:-2525}
sink_port=$((port + 101))
stats_port=${RINGPOST_DEMO_STATS_PORT:-9125}
demo=${RINGPOST_DEMO_FOLDER:-build/demo}
relay_pid='' sink_pid='' stopping=no

say() { printf '%s\n' "$*"; }
fail() { printf 'make run: error: %s\n' "$*" >&2 || true; exit 1; }

# Open as a client would: the only question that matters.
answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# start LOG COMMAND...: in the background. Where nothing can be trapped (kill -9) the kernel ends it after us.
start() {
    local log=$1
    shift
    if setpriv --pdeathsig TERM true 2>/dev/null; then
        set -- setpriv --pdeathsig TERM "$@"
    fi
    "$@" >"$log" 2>&1 &
}

end() { kill -TERM "$1" && wait "$1"; } 2>/dev/null

# All that we started, by its number and no other process; in this order, so that the relay still has its next hop.
# What is said meanwhile may have no reader: a signal or an error from that must not end us before they are gone.
stop() {
    local status=$? pid
    [ "$stopping" = no ] || return 0
    stopping=yes
    trap '' INT TERM HUP PIPE
    set +e
    for pid in $relay_pid $sink_pid; do end "$pid"; done
    for pid in $(jobs -rp); do end "$pid"; done
    for pid in ${relay_pid:+"relay (pid $relay_pid)"} ${sink_pid:+"sink (pid $sink_pid)"}; do
        say "stopped the $pid"
    done 2>/dev/null
    exit "$status"
}

[ -x "$binary" ] || fail "$binary is missing: run make first"
for number in "$port" "$sink_port" "$stats_port"; do
    if answers "$number"; then
        fail "port $number on 127.0.0.1 is in use. Choose others: RINGPOST_DEMO_PORT=12525 RINGPOST_DEMO_STATS_PORT=19125 make run"
    fi
done

mkdir -p "$demo/maildir"
if [ ! -e "$demo/key.pem" ] || [ ! -e "$demo/cert.pem" ]; then
    command -v openssl >/dev/null || fail "openssl is missing: install the package openssl (make deps-test does)"
    (umask 077 && openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 365 \
        -subj /CN=localhost -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' \
        -keyout "$demo/key.pem" -out "$demo/cert.pem" 2>"$demo/openssl.log") ||
        { cat "$demo/openssl.log" >&2; fail "openssl made no certificate"; }
fi
cat >"$demo/ringpost.yaml" <<EOF
# Written by packaging/demo.sh at each start.
hostname: demo.example.com
listen:
  smtp: { address: "127.0.0.1:$port", tls: starttls }
tls: { certificate: cert.pem, key: key.pem }
accept:
  networks: [ "127.0.0.0/8", "::1/128" ]
  domains: [ example.com ]
next_hop:
  sink: { servers: [ "127.0.0.1:$sink_port" ], tls: opportunistic }
route: { "*": sink }
delivery: { mode: cut-through, on_defer: spool }
spool: { directory: spool }
stats: { address: [ "unix:stats.sock", "127.0.0.1:$stats_port" ] }
log: { target: stderr, format: text }
user: $(id -un)
EOF

trap stop EXIT
trap 'exit 0' INT
trap 'exit 129' HUP
trap 'exit 141' PIPE
trap 'exit 143' TERM

# wait_for WHAT PORT PID LOG
wait_for() {
    local turns=0
    until answers "$2"; do
        kill -0 "$3" 2>/dev/null || { cat "$4" >&2; fail "the $1 ended; its output is above"; }
        turns=$((turns + 1))
        [ "$turns" -lt 100 ] || { cat "$4" >&2; fail "the $1 does not answer on port $2 after 10 s; its output is above"; }
        sleep 0.1
    done
}

start "$demo/sink.log" "$binary" sink "127.0.0.1:$sink_port" --maildir "$demo/maildir"
sink_pid=$!
wait_for sink "$sink_port" "$sink_pid" "$demo/sink.log"
start "$demo/relay.log" "$binary" run -c "$demo/ringpost.yaml"
relay_pid=$!
wait_for relay "$port" "$relay_pid" "$demo/relay.log"
wait_for 'statistics socket' "$stats_port" "$relay_pid" "$demo/relay.log"
say "relay   127.0.0.1:$port (STARTTLS)     pid $relay_pid, log $demo/relay.log"
say "sink    127.0.0.1:$sink_port (next hop)     pid $sink_pid, mail in $demo/maildir/new"
say ''

touch "$demo/before"
"$binary" send --server "127.0.0.1:$port" --from alice@example.com --to bob@example.com --tls starttls \
    --subject 'first message' --body 'It went through the relay.' ||
    { tail -n 20 "$demo/relay.log" >&2; fail "the first message was not accepted; the relay's log is above"; }
arrived=''
for _ in $(seq 50); do
    arrived=$(find "$demo/maildir/new" -type f -newer "$demo/before" 2>/dev/null | head -n 1)
    [ -z "$arrived" ] || break
    sleep 0.1
done
[ -n "$arrived" ] || fail "the first message was accepted but is not in $demo/maildir/new"
say "The first message arrived as $arrived:"
head -n 20 "$arrived" | tr -d '\r' | sed 's/^/    /'
cat <<EOF

Send another:
  $binary send --server 127.0.0.1:$port --from a@example.com --to b@example.com --tls starttls
  swaks --server 127.0.0.1:$port --tls --from a@example.com --to b@example.com
  printf 'Subject: hello\r\n\r\nhello\r\n' | curl -sS -k --ssl-reqd smtp://127.0.0.1:$port \\
      --mail-from a@example.com --mail-rcpt b@example.com -T -
Look at it:
  $binary stats -c $demo/ringpost.yaml
  curl -s http://127.0.0.1:$stats_port/metrics          (also /healthz and /stats.json)
  curl -s --unix-socket $demo/stats.sock http://localhost/stats.json
The configuration is $demo/ringpost.yaml. Ctrl-C ends both.
EOF
# Not wait -n: it overlooks a process that ended before.
while kill -0 "$relay_pid" 2>/dev/null && kill -0 "$sink_pid" 2>/dev/null; do
    sleep 1 &
    wait $!
done
fail "the relay or the sink ended by itself; see $demo/relay.log and $demo/sink.log"
