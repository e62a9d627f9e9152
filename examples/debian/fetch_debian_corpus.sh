#!/bin/bash
# Download the Debian documentation packages named in corpus_manifest.py (without installing
# them), unpack them into a temporary directory and turn them into pages.
#
#   fetch_debian_corpus.sh [OUTDIR]            fetch the candidate versions, write OUTDIR/sources.lock
#   LOCK=FILE fetch_debian_corpus.sh [OUTDIR]  fetch the versions in FILE and check their sha256; where one is not served
#                                              any more, take the newest and warn: the labels may then not match the pages
#   DEBS=DIR  fetch_debian_corpus.sh [OUTDIR]  use *.deb files kept in DIR, no network
#   KEEP_DEBS=DIR ...                          keep the fetched *.deb files in DIR
#
# Needs: Debian (apt-get, apt-cache, dpkg-deb), python3 >= 3.9 (standard library only).
# Writes only below OUTDIR (default: the directory of this script) and KEEP_DEBS.
set -euo pipefail
export LC_ALL=C.UTF-8 PYTHONDONTWRITEBYTECODE=1
here=$(cd "$(dirname "$0")" && pwd)
out=${1:-$here}
die() { echo "fetch_debian_corpus: error: $*" >&2; exit 2; }
for t in dpkg-deb python3 sha256sum; do command -v "$t" >/dev/null || die "$t is not installed"; done
mkdir -p "$out"; out=$(cd "$out" && pwd)
tmp=$(mktemp -d "$out/.fetch.XXXXXX"); trap 'rm -rf "$tmp"' EXIT
mapfile -t pkgs < <(python3 "$here/corpus_manifest.py" packages)
[ ${#pkgs[@]} -gt 0 ] || die "empty manifest"
mkdir "$tmp/debs" "$tmp/x"

if [ -n "${DEBS:-}" ]; then
  for p in "${pkgs[@]}"; do
    f=$(ls "$DEBS/${p}"_*.deb 2>/dev/null | head -1) || true
    [ -n "$f" ] || die "package $p: no ${p}_*.deb in $DEBS"
    cp "$f" "$tmp/debs/"
  done
else
  for t in apt-get apt-cache; do command -v "$t" >/dev/null || die "$t is not installed"; done
  want=(); missing=(); newer=()
  served() { apt-get -q --print-uris -o APT::Sandbox::User=root download "$@" >/dev/null 2>&1; }
  all_served=false
  if [ -n "${LOCK:-}" ]; then
    mapfile -t locked < <(awk '{print $1 "=" $2}' "$LOCK")
    ! served "${locked[@]}" || all_served=true
  fi
  for p in "${pkgs[@]}"; do
    if [ -n "${LOCK:-}" ]; then
      v=$(awk -v p="$p" '$1==p{print $2}' "$LOCK")
      [ -n "$v" ] || die "package $p is not in $LOCK"
      # apt-cache also answers for a version that is only installed here; apt-get knows whether it can be fetched
      if $all_served || served "$p=$v"; then want+=("$p=$v"); continue; fi
    fi
    # a line like "Candidate: (none)" means known by name only
    n=$(apt-cache policy "$p" 2>/dev/null | awk '/^  Candidate:/{print $2}')
    case "$n" in ''|'(none)') missing+=("$p"); continue;; esac
    want+=("$p")
    [ -z "${LOCK:-}" ] || newer+=("$p $v -> $n")
  done
  [ ${#missing[@]} -eq 0 ] || die "not available from the configured apt sources: ${missing[*]} (run 'apt-get update'; written for Debian 12 'bookworm' main; drop the entry from corpus_manifest.py to go on without it)"
  ( cd "$tmp/debs" && apt-get -q -o APT::Sandbox::User=root download "${want[@]}" ) >"$tmp/log" 2>&1 \
    || { tail -5 "$tmp/log" >&2; die "apt-get download failed"; }
  if [ ${#newer[@]} -gt 0 ]; then
    echo "fetch_debian_corpus: warning: ${#newer[@]} locked versions are not served any more; the newest were taken instead:" >&2
    printf '  %s\n' "${newer[@]}" >&2
    echo "fetch_debian_corpus: warning: the pages differ from those that labels.jsonl and the recorded figures belong to" >&2
  fi
fi

: >"$tmp/lock"
for p in "${pkgs[@]}"; do
  f=$(ls "$tmp/debs/${p}"_*.deb 2>/dev/null | head -1) || true
  [ -n "$f" ] || die "package $p was not downloaded"
  v=$(dpkg-deb -f "$f" Version); s=$(sha256sum "$f" | cut -d' ' -f1)
  src=$(dpkg-deb -f "$f" Source); src=${src%% *}; [ -n "$src" ] || src=$p
  if [ -n "${LOCK:-}" ]; then
    read -r wv w < <(awk -v p="$p" '$1==p{print $2, $3}' "$LOCK")
    [ "$v" != "$wv" ] || [ "$w" = "$s" ] || die "package $p $v: sha256 $s, $LOCK says $w"
  fi
  printf '%s %s %s %s\n' "$p" "$v" "$s" "$src" >>"$tmp/lock"
  mkdir "$tmp/x/$p"
  dpkg-deb -x "$f" "$tmp/x/$p" || die "package $p: cannot unpack $f"
done
mkdir "$tmp/out"
python3 "$here/extract_corpus.py" --tree "$tmp/x" --lock "$tmp/lock" --out "$tmp/out" || die "extraction failed"
cp "$tmp/lock" "$tmp/out/sources.lock"
if [ -n "${KEEP_DEBS:-}" ]; then mkdir -p "$KEEP_DEBS"; cp "$tmp"/debs/*.deb "$KEEP_DEBS/"; fi
rm -rf "$out/copyright"
cp -r "$tmp"/out/. "$out/"
echo "wrote:"; ( cd "$out" && ls -l pages.jsonl labels.jsonl pages.ja.jsonl labels.ja.jsonl SOURCES.md sources.lock corpus_stats.json )
