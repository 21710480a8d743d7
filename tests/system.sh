#!/usr/bin/env bash
# Runs the system tests against one binary, with the test tools of third_party/ in reach: promtool on PATH, nodemailer for node.
# usage: tests/system.sh BINARY [ARGUMENT of tests/system/run.py...]
# Reports of sanitizers fail the run, whatever the tests say: a server that a test killed cannot tell by its exit status.
set -euo pipefail
cd "$(dirname "$0")/.."
RINGPOST=$(realpath "${1:?usage: tests/system.sh BINARY [ARGUMENT...]}")
shift
export RINGPOST PYTHONUNBUFFERED=1
export PATH="$PWD/third_party/bin:$PATH:/usr/sbin:/sbin"
export NODE_PATH="$PWD/third_party/node/node_modules${NODE_PATH:+:$NODE_PATH}"
# Tests give a slower program more time.
case $(basename "$(dirname "$RINGPOST")") in asan | tsan | cov) export RINGPOST_SANITIZER=1 ;; esac

reports=$(mktemp -d)
trap 'rm -rf "$reports"' EXIT
# The drop of privileges that some tests make must not keep reports from being written, or this from being read.
chmod 1777 "$reports"
install -m 644 tests/tsan.suppressions "$reports/suppressions"
common="log_path=$reports/report:abort_on_error=0"
export ASAN_OPTIONS="$common:detect_leaks=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
export UBSAN_OPTIONS="$common:print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}"
export TSAN_OPTIONS="$common:suppressions=$reports/suppressions${TSAN_OPTIONS:+:$TSAN_OPTIONS}"

status=0
python3 tests/system/run.py "$@" || status=$?
for report in "$reports"/report*; do
    [ -e "$report" ] || continue
    # A thread that was just ending when leaks were looked for: a note, and no leak was found.
    grep -qv '^==[0-9]*==Running thread [0-9]* was not suspended. False leaks are possible.$' "$report" || continue
    cat "$report"
    printf 'a sanitizer reported the above\n'
    status=1
done
exit "$status"
