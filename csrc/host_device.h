// SPDX-License-Identifier: Apache-2.0
#pragma once

// Functions marked so run in kernels, on the host and in host-only tests: the arithmetic exists once.
#if defined(__CUDACC__)
#define ENAF_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define ENAF_HOST_DEVICE inline
#endif
