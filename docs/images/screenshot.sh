#!/bin/bash
# Takes the picture of a report: docs/images/screenshot.sh OUT_HTML PNG [WIDTH HEIGHT]
# Needs Chromium (apt-get install chromium). docs/images/report.png was taken with: docs/images/screenshot.sh out/quickstart/report.html docs/images/report.png
set -euo pipefail
if [ $# -ne 2 ] && [ $# -ne 4 ]; then
  echo "usage: $0 OUT_HTML PNG [WIDTH HEIGHT]" >&2
  exit 2
fi
html=$(realpath -- "$1")
png=$(realpath -m -- "$2")
width=${3:-1280}
height=${4:-1500}
[ -f "$html" ] || { echo "$html: no such file" >&2; exit 1; }
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || { echo "no chromium: apt-get install chromium" >&2; exit 1; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
rm -f -- "$png"
"$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars --user-data-dir="$profile" --force-device-scale-factor=1 \
  --window-size="$width,$height" --screenshot="$png" "file://$html" > "$profile/log" 2>&1 || true
[ -s "$png" ] || { cat "$profile/log" >&2; echo "$png was not written" >&2; exit 1; }
