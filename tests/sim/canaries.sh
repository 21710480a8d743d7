#!/bin/sh
# Bugs planted in the relay, one at a time (CANARY_NAME in core and relay): a simulation must find each, or
# it proves nothing. Those in relay/spool are for sim-spool, all others for sim.
#
# usage: tests/sim/canaries.sh [NAME...]   SEEDS=n: seeds tried for each (1 to n)
cd "$(dirname "$0")/../.." || exit 2
: "${MAKE:=make}" "${JOBS:=2}" "${SEEDS:=400}"
STEADY=$(setarch -R true 2>/dev/null && echo 'setarch -R')

planted() {
    sed -n 's/^#ifn\{0,1\}def CANARY_\([A-Z_]*\).*/\1/p' "$@" | sort -u
}

build() {
    $MAKE --no-print-directory -j"$JOBS" MODE=tiny WERROR= "$@" >/dev/null 2>&1
}

# Prints the seed that found it.
find_with() { # PROGRAM NAME
    if [ "$1" = sim ]; then
        $STEADY build/tiny/canary/"$2"/sim --jobs "$JOBS" --until-failure "$SEEDS" 2>/dev/null
    else
        $STEADY build/tiny/canary/"$2"/sim-spool --until-failure "$SEEDS" 2>/dev/null
    fi | sed -n 's/^FAILED: \(history \)\{0,1\}seed \([0-9]*\) \((.*)\).*/\2 \3/p' | head -n 1
}

spool=$(planted relay/spool/*.c)
[ $# -gt 0 ] || set -- $spool $(planted core/*.c relay/*.c relay/queue/*.c)
# What they share is built once.
build sim-relay-binary sim-binary || { echo "the simulators do not compile"; exit 1; }
passed=0 failed=0
for name; do
    program=sim target=sim-canary-relay-binary
    case " $(echo $spool) " in *" $name "*) program=sim-spool target=sim-canary-binary ;; esac
    build CANARY="$name" "$target" || {
        echo "canary $name: does not compile"
        failed=$((failed + 1))
        continue
    }
    at=$(find_with "$program" "$name")
    if [ -n "$at" ]; then
        echo "canary $name: $program finds it by seed $at"
        passed=$((passed + 1))
    else
        echo "canary $name: NOT FOUND by seeds 1 to $SEEDS"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
