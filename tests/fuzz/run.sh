#!/usr/bin/env bash
# Builds a fuzz target with clang and runs it from its corpus.
#
#   tests/fuzz/run.sh TARGET [SECONDS] [LIBFUZZER_OPTION...]
#     TARGET   a name of tests/fuzz/targets, or "all", one after the other
#     SECONDS  60 unless given
#
# New inputs lie in build/fuzz/found/TARGET. What ends the process (a crash, an exception that is no dapt::Error, more than a minute or 1 GiB) is written beside it, and the exit status is not 0:
# mend the reader, and put the input into tests/fuzz/crashes/TARGET, from where the tests run it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ $# -gt 0 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 2; }
name=$1 seconds=${2:-60}
shift $(($# < 2 ? $# : 2))

bash cmake/bootstrap.sh --fuzz --no-data
environment=${DAPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dapt}/env.sh
[ ! -f "$environment" ] || . "$environment"
[ -f build/fuzz/build.ninja ] || cmake --preset fuzz
targets=$name
[ "$name" != all ] || targets=$(ls tests/fuzz/targets | sed 's/\.hpp$//')

# Leaks are not looked for: LibTorch, ICU and sentencepiece keep what they allocate once. Nor are stacks of functions that returned: each exception would walk through them, a quarter of the time.
export ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0${ASAN_OPTIONS:+:$ASAN_OPTIONS} UBSAN_OPTIONS=print_stacktrace=1${UBSAN_OPTIONS:+:$UBSAN_OPTIONS}
for target in $targets; do
  table=text
  ! grep -q "targets/$target.hpp" tests/fuzz/tensor_targets.hpp || table=tensor
  cmake --build --preset fuzz --target fuzz_$table >/dev/null
  found=build/fuzz/found/$target
  mkdir -p "$found"
  inputs=("$found" "tests/fuzz/corpus/$target")
  [ ! -d "tests/fuzz/crashes/$target" ] || inputs+=("tests/fuzz/crashes/$target")
  at_once=256
  case $target in pages | score_file | word_lists) at_once=2304 ;; esac  # a zstd frame may ask for a window of 2 GiB, of which it touches what it fills
  echo "$target: $seconds s"
  DAPT_FUZZ_TARGET=$target build/fuzz/bin/fuzz_$table -max_total_time="$seconds" -max_len=4096 -timeout=60 -rss_limit_mb=1024 -malloc_limit_mb="$at_once" -artifact_prefix="$found." -print_final_stats=1 "$@" "${inputs[@]}" \
    >"$found.log" 2>&1 || { tail -40 "$found.log"; exit 1; }
  grep -E '^stat::(number_of_executed_units|average_exec_per_sec|peak_rss_mb)' "$found.log"
done
