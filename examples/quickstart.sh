#!/usr/bin/env bash
# Sets up what is missing and runs the main job: SmolLM2-135M-Instruct on Debian documentation, five settings compared, one report.
#
#   examples/quickstart.sh [--minutes N] [--out DIR] [OPTION...]
#     --minutes N  training minutes of all settings together (default 10)
#     --out DIR    where the report goes (default out/quickstart)
#     OPTION...    passed on to `dapt compare` (docs/reference/command-line.md)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

minutes=10 out=out/quickstart
while [ $# -gt 0 ]; do
  case $1 in
    --minutes) minutes=$2; shift ;;
    --out) out=$2; shift ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit ;;
    *) break ;;
  esac
  shift
done

bash cmake/bootstrap.sh
. "${DAPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dapt}/env.sh"
echo "quickstart: building the dapt program (a few minutes, the first time)"
cmake --preset release -D DAPT_BUILD_TESTS=OFF -D DAPT_BUILD_BENCH=OFF >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target dapt

domain=examples/debian settings=5
exec build/release/bin/dapt compare --config "$domain/quickstart.toml" --model "$DAPT_SMOLLM2" --pages "$DAPT_DEBIAN/pages.jsonl" --labels "$domain/labels.jsonl" \
  --terms "$domain/qa.jsonl,$domain/cloze.jsonl" --qa "$domain/qa.jsonl" --fewshot "$domain/fewshot.jsonl" --cloze "$domain/cloze.jsonl" \
  --max-minutes "$(awk "BEGIN { print $minutes / $settings }")" --out "$out" "$@"
