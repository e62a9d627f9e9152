#!/usr/bin/env bash
# Checks and measures dapt on a machine with a GPU, and prints one table. Made to end within ten minutes with a build that is there; it has not run on a GPU yet.
#
#   tests/cuda/on_a_gpu.sh                  configures and builds build/cuda where it is not there (needs what cmake/bootstrap.sh installs, the CUDA
#                                           toolkit, and LibTorch with CUDA: DAPT_LIBTORCH or an importable Python torch), then checks and measures
#   tests/cuda/on_a_gpu.sh --build          builds alone
#   tests/cuda/on_a_gpu.sh --pack FOLDER    puts the built programs, stripped, and the libraries they need beside LibTorch into FOLDER/packed.tar.xz: to be carried to
#                                           a machine that has a GPU and Python's torch 2.11 (cu130), and nothing else of what a build needs
#   tests/cuda/on_a_gpu.sh --packed FOLDER  checks and measures there with what FOLDER holds
#
# PEERS=1 measures transformers, PEFT and galore_torch beside it, which Python must find (FOLDER/site is searched, too); DAPT_PROFILE=ROWS tells where the time of a step goes.
# FOLDER lies in the repository where a copy of it is all that travels; a folder under build/ is ignored by git, so it must be named to be carried.
# Exit status: 0 where all is right, 1 where a check failed, 77 without a GPU. MINUTES=N ends the measurements after so long (8).
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
programs=(dapt dapt_cuda_check dapt_seven_billion dapt_tests_device dapt_tests_kernels)
bin=$root/build/cuda/bin
start=$SECONDS
say() { echo "[$((SECONDS - start)) s] $*"; }

build() {
  cd "$root" && cmake --preset cuda >/dev/null && cmake --build --preset cuda --target "${programs[@]}"
}

pack() {
  local folder=$1 stage program
  stage=$(mktemp -d)
  mkdir -p "$folder" "$stage/bin" "$stage/lib"
  for program in "${programs[@]}"; do
    strip -o "$stage/bin/$program" "$bin/$program" || exit 1
    # What Debian's packages brought; LibTorch, CUDA and the C library are those of the other machine.
    ldd "$bin/$program" | awk '$3 ~ /^\// {print $3}' | grep -E '/lib(icu|sentencepiece|zstd|tcmalloc|unwind|gloo|protobuf|z\.so|re2|absl|tomlplusplus)' | xargs -r cp -nL -t "$stage/lib"
  done
  mkdir -p "$stage/tests/parity"
  cp -r "$root/tests/parity/models" "$stage/tests/parity/"
  tar -C "$stage" -cf - bin lib tests | xz -T0 -6 >"$folder/packed.tar.xz" || exit 1
  rm -rf "$stage"
  ls -l "$folder/packed.tar.xz"
}

unpack() {
  packed=$(mktemp -d)
  tar -C "$packed" -xJf "$1/packed.tar.xz" || exit 1
  bin=$packed/bin
  local torch library
  for library in "$packed"/lib/*; do  # what the machine has is its own
    ldconfig -p | grep -qF "$(basename "$library") " && rm "$library"
  done
  torch=$(python3 -c 'import importlib.util as u; print(u.find_spec("torch").submodule_search_locations[0])') || exit 1
  # NVIDIA's libraries lie beside torch, as its own search path has them; those that programs name themselves must be told.
  export LD_LIBRARY_PATH=$torch/lib:$(printf '%s:' "$torch"/../nvidia/*/lib)$packed/lib:${LD_LIBRARY_PATH:-}
  export DAPT_TEST_FILES=$packed/tests PYTHONPATH=$(realpath "$1")/site:${PYTHONPATH:-}
}

case ${1:-} in
  --build) build; exit ;;
  --pack) pack "$2"; exit ;;
  --packed) unpack "$2" ;;
  "") build || exit 1 ;;
  *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; exit 2 ;;
esac

failed=0
check() {  # check NAME COMMAND...
  local name=$1 status
  shift
  say "$name"
  timeout 150 "$@"
  status=$?
  [ $status = 0 ] || { echo "FAILED ($status): $name"; failed=1; }
}

"$bin/dapt_cuda_check"
case $? in
  0) ;;
  77) exit 77 ;;
  *) echo "FAILED: the smallest kernel"; exit 1 ;;
esac
export DAPT_TEST_DEVICE=cuda:0
check "kernels on the GPU against the CPU, own and LibTorch's; one run of each setting against the CPU's" "$bin/dapt_tests_device" --durations yes
check "the arithmetic of the kernels on this machine's CPU" "$bin/dapt_tests_kernels" "The CUDA kernels'*"

check "the program: runs that go on, losses and scores beside the CPU's" python3 "$root/tests/cuda/program_on_a_gpu.py" "$bin/dapt"

left() { echo $((${MINUTES:-8} * 60 - (SECONDS - start))); }
measure() {  # measure NAME COMMAND...
  local name=$1
  shift
  [ "$(left)" -gt 20 ] || { echo "$name: not measured, the time is over"; return; }
  timeout "$(left)" "$@" || { echo "FAILED ($?): $name"; failed=1; }
}
say "a Llama of 7 billion random weights, length 1,024"
"$bin/dapt_seven_billion" header || failed=1
for setting in lora-256:4 lora-256-checkpointed:4 galore-128:1 galore-1024:1 galore-128:4 lora-256-nf4:4 lora-256:1; do
  measure $setting "$bin/dapt_seven_billion" ${setting/:/ }
done
if [ -n "${PEERS:-}" ]; then
  say "the peers"
  measure peers python3 -W ignore "$root/tests/cuda/seven_billion_peer.py" lora-256-tuned:4 lora-256-tuned-checkpointed:4 lora-256:4 galore-128:1 galore-128:4 svd lora-256-tuned:1
fi
if [ "$(nvidia-smi -L 2>/dev/null | wc -l)" -ge 2 ]; then
  say "the layers on two GPUs"
  DAPT_TEST_DEVICE=cuda:0,cuda:1 timeout 120 "$bin/dapt_seven_billion" lora-256 || { echo "FAILED ($?): lora-256 on two GPUs"; failed=1; }
fi
say "$([ $failed = 0 ] && echo "all is right" || echo "something failed")"
exit $failed
