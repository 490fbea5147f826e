#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Everything that waits for a GPU, in one command that needs no network: builds, tests, sanitizes and measures. Every step
# leaves its log and the next one runs whatever becomes of it; the summary comes last, and all.tgz, which holds all files.
#   OUT=DIR             where logs and results go (build/gpu-results of the tree)
#   PYTHON=python3      an interpreter with a CUDA build of torch, pytest, cmake, ninja and pybind11
#   STEPS="build ..."   a part of: facts build load native test sanitize kernels profile upscale stream
#   LIMIT=900           seconds that a step may take
#   SANITIZED="..."     which tests of the operators are sanitized, as for pytest's -k (otherwise what each tool looks for)
#   MODELS="..."        for the whole frames (fsrcnn light carn srresnet)
#   PHOTOGRAPHS=DIR     for them too: at least four of 3840x2160; without, the small bundled one
# The package is built in place and used from the tree: nothing is installed. ENAF_OPERATORS=DIR takes libraries
# (_operators_*.so) that were built elsewhere instead of building.
set -uo pipefail
OUT=$(realpath -m "${OUT:-$(dirname "${BASH_SOURCE[0]}")/../build/gpu-results}")
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
LIMIT=${LIMIT:-900}
STEPS=${STEPS:-facts build load native test kernels sanitize profile upscale stream}
mkdir -p "$OUT"
export OUT PYTHON
export PYTHONPATH="$PWD:$PWD/python${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
SUMMARY=()

# The architecture of the GPU here, such as 9.0: compiling for it alone takes a fifth of the time.
export TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-$("$PYTHON" -c \
  'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))' 2>/dev/null)}

# step NAME COMMAND...: its output goes to NAME.log, its last lines to the screen.
step() {
  local name=$1 began=$SECONDS status
  shift
  echo "== $name"
  timeout "$LIMIT" "$@" >"$OUT/$name.log" 2>&1
  status=$?
  tail -n 15 "$OUT/$name.log"
  SUMMARY+=("$(printf '%-24s %-12s %5d s' "$name" "$([ $status = 0 ] && echo ok || echo "failed: $status")" $((SECONDS - began)))")
}

facts() {
  nvidia-smi
  nvcc --version
  git log -1 --format=%H
  git status --porcelain --untracked-files=no
  "$PYTHON" -c 'import torch; print(torch.__version__, torch.version.cuda, torch.cuda.get_device_properties(0))'
}

build() {
  local tree=build/gpu
  if [ -n "${ENAF_OPERATORS:-}" ]; then
    cp -v "$ENAF_OPERATORS"/_operators_*.so enaf_ext/
    return
  fi
  cmake -S . -B "$tree" -G Ninja -DENAF_CUDA=ON -DPython3_EXECUTABLE="$(command -v "$PYTHON")" \
    -DPYTHON_EXECUTABLE="$(command -v "$PYTHON")" \
    -Dpybind11_DIR="$("$PYTHON" -c 'import pybind11; print(pybind11.get_cmake_dir())')" || return
  cmake --build "$tree" || return
  cp -v "$tree"/_*.so enaf_ext/
}

load() {
  "$PYTHON" - <<'END'
import torch
from enaf_ext import ops
from enaf_ext.grid import PatchGrid

image = torch.randint(0, 256, (1, 3, 270, 480), dtype=torch.uint8, device="cuda")
print(ops.edge_score(image, PatchGrid(270, 480))[:4])
END
}

# sanitize TOOL TESTS: tests of the operators on CUDA under one tool of compute-sanitizer. Without torch's caching allocator
# every tensor has its own allocation, so that an access past its end is seen.
sanitize() {
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 99 --print-limit 20 \
    "$PYTHON" -m pytest -q -p no:cacheprovider -m cuda tests/test_cuda.py tests/test_fsrcnn.py -k "$2"
}

# Two warm launches of each operator's kernels: a run for each, since the cases of one make their inputs by kernels of others.
profile() {
  local name kernels status=0
  while read -r name kernels; do
    ncu --clock-control none --set full --kernel-name-base demangled --kernel-name "regex:$kernels" \
      --launch-skip 3 --launch-count 2 -f -o "$OUT/profile-$name" \
      "$PYTHON" bench/kernels.py --device cuda --only "$name" --size 1920x1080 --seconds 0.05 --json /dev/null </dev/null &&
      ncu --import "$OUT/profile-$name.ncu-rep" --page details --csv >"$OUT/profile-$name.csv" || status=1
  done <<'END'
edge_score edge_score_kernel
cell_details cell_details_kernel
unfold_patches gather_kernel
gather_patches gather_kernel<[^,]*Half
bicubic_patches bicubic_kernel
fsrcnn_patches fsrcnn_(weights|patches)_kernel
route_exits (count|place)_exits_kernel
fold_patches (invert_order|fold)_kernel
END
  return $status
}

# Bands from the host and back: memory, time, and the bytes of the whole-image call where that fits.
stream() {
  "$PYTHON" - <<'END'
import time
import torch
import enaf_ext

upscaler = enaf_ext.Upscaler()
print("calibration:", upscaler.calibration("cuda", renew=True))
for width, height in ((1920, 1080), (7680, 4320)):
    lr = torch.randint(0, 256, (3, height, width), dtype=torch.uint8)
    for keywords in ({"eta": 1.0}, {"budget": 0.5}):
        rows = []
        torch.cuda.reset_peak_memory_stats()
        began = time.perf_counter()
        info = upscaler.stream(
            lambda top, bottom: lr[:, top:bottom], tuple(lr.shape), lambda top, part: rows.append(part), device="cuda", **keywords
        )
        taken, peak = time.perf_counter() - began, torch.cuda.max_memory_allocated() / 1e9
        print(f"{width}x{height} {keywords}: {taken:.2f} s, peak {peak:.2f} GB, static {info.static}")
        if width == 1920:
            assert torch.equal(torch.cat(rows, 1), upscaler(lr.cuda(), **keywords).cpu())
END
}

# frames MODEL FUSED: a file each, so that one that takes too long costs no other.
frames() {
  ENAF_FUSED_CUDA=$2 step "upscale-$1-fused-$2" "$PYTHON" bench/upscale.py --model "$1" --size 480x270 960x540 1920x1080 \
    ${PHOTOGRAPHS:+--data "$PHOTOGRAPHS"} --device cuda --json "$OUT/upscale-$1-fused-$2.json"
}

for name in $STEPS; do
  case $name in
    facts | build | load) step "$name" bash -c "$(declare -f "$name"); $name" ;;
    native) step native "$PYTHON" -m pytest -q -p no:cacheprovider tests/test_native.py tests/test_cuda_compile.py ;;
    test) step test "$PYTHON" -m pytest -q -p no:cacheprovider -ra -m cuda tests --ignore=tests/test_native.py ;;
    sanitize)
      for tool in memcheck initcheck; do
        tests=${SANITIZED:-matches_cpu or route or out_of_range}
        step "sanitize-$tool" bash -c "$(declare -f sanitize); sanitize $tool '$tests'"
      done
      for tool in racecheck synccheck; do # of the kernels that have shared memory and barriers
        tests=${SANITIZED:-cuts or route or cuda_matches_cpu}
        step "sanitize-$tool" bash -c "$(declare -f sanitize); sanitize $tool '$tests'"
      done
      ;;
    kernels) step kernels "$PYTHON" bench/kernels.py --device cuda --json "$OUT/kernels.json" ;;
    profile) step profile bash -c "$(declare -f profile); profile" ;;
    upscale)
      for model in ${MODELS:-fsrcnn light carn srresnet}; do frames "$model" 0; done
      frames fsrcnn 1 # its patches through fsrcnn_patches
      ;;
    stream) step stream bash -c "$(declare -f stream); stream" ;;
    *) echo "no such step: $name" ;;
  esac
done

printf '%s\n' "${SUMMARY[@]}" | tee "$OUT/summary.txt"
(cd "$OUT" && rm -f all.tgz && tar -czf all.tgz -- *)
! grep -q failed "$OUT/summary.txt"
