#!/usr/bin/env bash
# cmake/bootstrap_fetch.sh with a wheel of a few bytes in a local folder instead of PyPI: nothing is downloaded.
set -euo pipefail
source_dir=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
. "$source_dir/cmake/bootstrap_fetch.sh"

export PIP_NO_INDEX=1 PIP_FIND_LINKS=$work/index PIP_CONFIG_FILE=/dev/null
python3 -m venv "$work/tools"
pip="$work/tools/bin/python -m pip --disable-pip-version-check"
mkdir "$work/index"
wheel=$work/index/tiny-1.0-py3-none-any.whl
python3 - "$wheel" <<'PYTHON'
import sys, zipfile
with zipfile.ZipFile(sys.argv[1], "w") as archive:
    archive.writestr("tiny/lib/tiny.so", "a library")
    archive.writestr("tiny/lib/other.so", "not asked for")
    archive.writestr("tiny/include/tiny.h", "a header")
    archive.writestr("tiny-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: tiny\nVersion: 1.0\n")
    archive.writestr("tiny-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
    archive.writestr("tiny-1.0.dist-info/RECORD", "")
PYTHON
cp "$wheel" "$work/good.whl"
echo "tiny==1.0 --hash=sha256:$(sha256sum "$wheel" | cut -d' ' -f1)" >"$work/lock.txt"
folder=$work/cache/tiny
mkdir "$work/cache"

failed=0
check() { if eval "$2"; then echo "ok: $1"; else echo "FAILED: $1   ($2)"; failed=1; fi; }
fetch() { (fetch_wheels "$work/lock.txt" "$folder" 'tiny/lib/tiny.so' 'tiny/include/*') >"$work/log" 2>&1; }
whole() { [ "$(cat "$folder/tiny/lib/tiny.so")" = "a library" ] && [ -f "$folder/tiny/include/tiny.h" ] && [ ! -e "$folder.partial" ]; }
downloaded() { grep -q downloading "$work/log"; }

check "the first run downloads" "fetch && downloaded && whole"
check "only what was asked for is unpacked" "[ ! -e $folder/tiny/lib/other.so ]"
check "the second run changes nothing" "fetch && ! downloaded && whole"

rm "$folder/.sealed"
check "a folder without seal is fetched again" "fetch && downloaded && whole"

truncate -s 3 "$folder/tiny/lib/tiny.so"
check "a truncated file is noticed and fetched again" "fetch && downloaded && whole"

rm "$folder/tiny/include/tiny.h"
check "a missing file is noticed and fetched again" "fetch && downloaded && whole"

rm -rf "$folder"
mkdir -p "$folder.partial/tiny/lib"
echo "half a lib" >"$folder.partial/tiny/lib/tiny.so"
check "what an interrupted run left is replaced" "fetch && downloaded && whole"

sed -i 's/^tiny/# the version is pinned again\ntiny/' "$work/lock.txt"
check "a changed lock file fetches again" "fetch && downloaded && whole"

rm -rf "$folder"
head -c 200 "$work/good.whl" >"$wheel"
check "a truncated wheel is refused" "! fetch"
check "and the message says so" "grep -q 'error: could not download' $work/log"
check "and nothing is left" "[ ! -e $folder ] && [ ! -e $folder.partial ]"
cp "$work/good.whl" "$wheel"
check "and the next run fetches it" "fetch && whole"

check "a pattern that matches nothing is an error" "! (fetch_wheels $work/lock.txt $work/cache/none tiny/absent/*) 2>$work/log && grep -q 'no wheel holds tiny/absent' $work/log && [ ! -e $work/cache/none ]"
exit $failed
