// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

// Functions marked so run in kernels, on the host and in host-only tests: the arithmetic exists once.
#if defined(__CUDACC__)
#define ENAF_HOST_DEVICE __host__ __device__ __forceinline__
#define ENAF_UNROLL _Pragma("unroll")
#else
#define ENAF_HOST_DEVICE inline
#define ENAF_UNROLL _Pragma("GCC unroll 16")
#endif

namespace enaf {

ENAF_HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace enaf
