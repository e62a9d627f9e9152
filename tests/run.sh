#!/usr/bin/env bash
# Sets up what is missing, builds, and runs the tests.
#
#   tests/run.sh [--browser] [--preset NAME] [CTEST_ARGUMENT...]
#     --browser      also the test that opens the report in headless Chromium
#     --preset NAME  dev (default), release, asan, tsan or cuda: see CMakePresets.json
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

browser=OFF preset=dev
while [ $# -gt 0 ]; do
  case $1 in
    --browser) browser=ON ;;
    --preset) preset=$2; shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit ;;
    *) break ;;
  esac
  shift
done

bootstrap=(--clang)
[ "$browser" = OFF ] || bootstrap+=(--browser)
[ "$preset" != cuda ] || bootstrap+=(--cuda)
[ "$preset" != tsan ] || bootstrap+=(--fuzz)
bash cmake/bootstrap.sh "${bootstrap[@]}"
. "${DAPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dapt}/env.sh"

jobs=$(nproc)
cmake --preset "$preset" -D DAPT_BROWSER_TESTS=$browser
started=$SECONDS
cmake --build --preset "$preset" --parallel "$jobs"
echo "tests/run.sh: built in $((SECONDS - started)) s"
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}  # tests share the cores: a thread that waits leaves its core to them
ctest --preset "$preset" --parallel $((jobs + 1)) "$@"  # some wait for a process that was stopped, or for a time to be over
