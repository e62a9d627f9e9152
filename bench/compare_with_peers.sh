#!/usr/bin/env bash
# Trains and evaluates with dapt and with its peers (transformers, PEFT, galore_torch) in turn, on the same model and the same rows, and writes
# the medians to docs/explanation/performance.md. About half an hour on two cores; let nothing else run.
#
#   bench/compare_with_peers.sh [OPTION...]        OPTION: see bench/compare_with_peers.py --help
#
# The peers come from PyPI into a Python environment in the cache folder, or are those of the environment that DAPT_PEERS names.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cache=${DAPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dapt}
bash cmake/bootstrap.sh
. "$cache/env.sh"
if [ -z "${DAPT_PEERS:-}" ]; then
  DAPT_PEERS=$cache/peers
  if ! cmp -s bench/peers/requirements.txt "$DAPT_PEERS/requirements.txt"; then
    echo "compare_with_peers: making the peers' environment in $DAPT_PEERS"
    rm -rf "$DAPT_PEERS"
    python3 -m venv "$DAPT_PEERS"
    "$DAPT_PEERS/bin/python" -m pip install --quiet --no-cache-dir -r bench/peers/requirements.txt
    cp bench/peers/requirements.txt "$DAPT_PEERS/requirements.txt"
  fi
fi
cmake --preset release -D DAPT_BUILD_TESTS=OFF -D DAPT_BUILD_BENCH=OFF >/dev/null
cmake --build --preset release --parallel "$(nproc)" --target dapt
exec "$DAPT_PEERS/bin/python" bench/compare_with_peers.py --dapt build/release/bin/dapt "$@"
