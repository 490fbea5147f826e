// SPDX-License-Identifier: Apache-2.0
// enaf_ext._C: what is known about this build, and what the operators would choose on this CPU.
#include <pybind11/pybind11.h>

#include "cpu/simd.h"

namespace py = pybind11;

namespace {

py::dict build_info() {
  py::dict info;
  info["compiler"] = ENAF_COMPILER;
  info["build_type"] = ENAF_BUILD_TYPE;
  info["torch_target"] = ENAF_TORCH_TARGET;
  info["torch_built_against"] = ENAF_TORCH_VERSION;
  info["cuda_version"] = ENAF_CUDA_VERSION;
  info["cuda_architectures"] = ENAF_CUDA_ARCHITECTURES;
  info["cuda_left_out"] = ENAF_CUDA_LEFT_OUT;
  info["sanitizers"] = ENAF_SANITIZE;
  return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build facts of enaf_ext.";
  m.def("build_info", &build_info,
        "Compiler, build type, lowest torch the operators run on, torch they were built against, CUDA version and "
        "architectures (empty without CUDA), and why CUDA was left out (empty with CUDA).");
  m.def(
      "cpu_instructions",
      [] {
        const enaf::Registers widest = enaf::widest_registers();
        return widest == enaf::Registers::avx512 ? "AVX-512" : widest == enaf::Registers::avx2 ? "AVX2" : "baseline";
      },
      "The widest instruction set that the CPU operators use on this machine.");
}
