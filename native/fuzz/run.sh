#!/bin/sh
# Fuzzes every parser for FUZZ_SECONDS each (default 600) and keeps what is new in the stored corpus.
#   npm run fuzz            FUZZ_SECONDS=10 npm run fuzz            npm run fuzz -- recording_text
set -eu
cd "$(dirname "$0")/.."
command -v clang > /dev/null || { echo 'casemate fuzz: needs clang with libFuzzer (apt-get install clang libclang-rt-14-dev)' >&2; exit 2; }
seconds=${FUZZ_SECONDS:-600}
[ $# -gt 0 ] || set -- recording_text recording_json cpuinfo tpm files
make -s -j2 SANITIZED=1 CC=clang BUILD=build/fuzz $(printf 'build/fuzz/fuzz-%s ' "$@")
for target in "$@"; do
  new=build/fuzz/new-$target
  mkdir -p "$new"
  echo "fuzzing $target for $seconds s"
  "build/fuzz/fuzz-$target" -max_total_time="$seconds" -timeout=5 -max_len=32768 -print_final_stats=1 -artifact_prefix="build/fuzz/" \
    "$new" "fuzz/corpus/$target" 2>&1 | grep -E 'stat::number_of_executed|stat::average_exec|ERROR|SUMMARY|Test unit written|^#.*DONE' || true
  test -z "$(find build/fuzz -maxdepth 1 \( -name 'crash-*' -o -name 'timeout-*' -o -name 'leak-*' -o -name 'oom-*' \) -print -quit)" || exit 1
done
