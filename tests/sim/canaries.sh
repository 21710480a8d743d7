#!/bin/sh
# Bugs planted in the spool, one at a time (CANARY_NAME in relay/spool): the simulation must find each,
# or it proves nothing.
#
# usage: tests/sim/canaries.sh [NAME...]   SEEDS=n: seeds tried for each (1 to n)
cd "$(dirname "$0")/../.." || exit 2
: "${MAKE:=make}" "${JOBS:=2}" "${SEEDS:=400}"
STEADY=$(setarch -R true 2>/dev/null && echo 'setarch -R')

[ $# -gt 0 ] || set -- $(sed -n 's/^#ifn\{0,1\}def CANARY_\([A-Z_]*\).*/\1/p' relay/spool/*.c | sort -u)
passed=0 failed=0
for name; do
    $MAKE --no-print-directory -j"$JOBS" MODE=tiny CANARY="$name" WERROR= sim-canary-binary >/dev/null 2>&1 || {
        echo "canary $name: does not compile"
        failed=$((failed + 1))
        continue
    }
    at=$($STEADY build/tiny/canary/"$name"/sim-spool --until-failure "$SEEDS" 2>/dev/null |
        sed -n 's/^FAILED: history seed \([0-9]*\).*/\1/p' | head -n 1)
    if [ -n "$at" ]; then
        echo "canary $name: found by seed $at"
        passed=$((passed + 1))
    else
        echo "canary $name: NOT FOUND by seeds 1 to $SEEDS"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
