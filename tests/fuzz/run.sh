#!/usr/bin/env bash
# Runs the fuzz targets of build/fuzz/, two at a time, each with its seeds from tests/fuzz/corpus/NAME.
# usage: tests/fuzz/run.sh SECONDS [NAME]
# A target whose name begins with 'canary' holds a planted bug: it passes only when the bug is found.
# Environment: KEEP=FOLDER keeps new inputs in FOLDER/NAME, else they go with the temporary folder.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:?usage: tests/fuzz/run.sh SECONDS [NAME]}
only=${2:-}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p build/fuzz/found

run_target() {
    local name=$1 corpus status=0 log="$work/$1.log" result=ok runs
    corpus=${KEEP:-$work/corpus}/$name
    mkdir -p "$corpus"
    [ ! -d "tests/fuzz/corpus/$name" ] || cp -R "tests/fuzz/corpus/$name/." "$corpus/"
    "build/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="build/fuzz/found/$name-" "$corpus" >"$log" 2>&1 || status=$?
    case $name in
    canary*) [ "$status" != 0 ] || result='FAILED: the planted bug was not found' ;;
    *) [ "$status" = 0 ] || result="FAILED: status $status" ;;
    esac
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    printf 'fuzz %-24s %12s runs  %5s inputs  %s\n' "$name" "${runs:-?}" "$(find "$corpus" -type f | wc -l)" "$result"
    if [ "$result" != ok ]; then
        tail -n 40 "$log"
        printf 'repeat with: build/fuzz/fuzz_%s build/fuzz/found/%s-*\n' "$name" "$name"
        touch "$work/$name.failed"
    fi
    touch "$work/$name.done"
}

targets=0
for program in build/fuzz/fuzz_*; do
    [ -f "$program" ] || continue
    name=${program#build/fuzz/fuzz_}
    # A program of a target that is gone is no test.
    [ -e "tests/fuzz/fuzz_$name.c" ] || continue
    [ -z "$only" ] || [ "$only" = "$name" ] || continue
    targets=$((targets + 1))
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do
        wait -n || true
    done
    run_target "$name" &
done
wait
failed=$(find "$work" -maxdepth 1 -name '*.failed' | wc -l)
finished=$(find "$work" -maxdepth 1 -name '*.done' | wc -l)
failed=$((failed + targets - finished))
echo "$((targets - failed)) passed, $failed failed"
[ "$targets" -gt 0 ] || { echo "no fuzz target was run" >&2; exit 1; }
[ "$failed" = 0 ]
