// SPDX-License-Identifier: Apache-2.0
// Wide memory accesses, and the small arithmetic that kernels share. No torch here: host tests run these headers too.
#pragma once

#include <cmath>
#include <cstdint>

#include "../pixel.h"

namespace enaf {

// V values that travel in one access.
template <typename T, int V>
struct alignas(V * sizeof(T)) Pack {
  T value[V];
};

template <int bytes>
ENAF_HOST_DEVICE bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

// Copies n values in accesses of `bytes`, if the address allows it.
template <int bytes, int n, typename T>
ENAF_HOST_DEVICE bool load_in(const T* source, T* values) {
  constexpr int width = bytes / static_cast<int>(sizeof(T));
  if constexpr (width < 2 || n * static_cast<int>(sizeof(T)) % bytes != 0) {
    return false;
  } else {
    if (!is_aligned<bytes>(source)) {
      return false;
    }
#pragma unroll
    for (int i = 0; i < n; i += width) {
      const auto pack = *reinterpret_cast<const Pack<T, width>*>(source + i);
#pragma unroll
      for (int k = 0; k < width; ++k) {
        values[i + k] = pack.value[k];
      }
    }
    return true;
  }
}

// n values side by side, in the widest accesses that their address allows: patch origins are rarely multiples of 16.
template <int n, typename T>
ENAF_HOST_DEVICE void load_run(const T* source, T* values) {
  if (load_in<16, n>(source, values) || load_in<8, n>(source, values) || load_in<4, n>(source, values)) {
    return;
  }
#pragma unroll
  for (int i = 0; i < n; ++i) {
    values[i] = source[i];
  }
}

// n values side by side to an address that is a multiple of the largest power of two in n * sizeof(T), up to 16 bytes.
template <int n, typename T>
ENAF_HOST_DEVICE void store_run(T* target, const T* values) {
  constexpr int bytes = n * static_cast<int>(sizeof(T));
  constexpr int width = (bytes % 16 == 0 ? 16 : bytes & -bytes) / static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < n; i += width) {
    Pack<T, width> pack;
#pragma unroll
    for (int k = 0; k < width; ++k) {
      pack.value[k] = values[i + k];
    }
    *reinterpret_cast<Pack<T, width>*>(target + i) = pack;
  }
}

// pixel_value without the division: a multiplication and one correction step give the same float for each of the 256
// (65,536) integers, which a test checks one by one.
template <typename T>
ENAF_HOST_DEVICE Accumulator<T> fast_pixel_value(T x) {
  if constexpr (is_integral_pixel<T>) {
    constexpr float reciprocal = 1.0f / pixel_max<T>;
    const float value = static_cast<float>(x);
    const float quotient = value * reciprocal;
    return fmaf(fmaf(-quotient, pixel_max<T>, value), reciprocal, quotient);
  } else {
    return pixel_value(x);
  }
}

// convert_pixel on top of it.
template <typename Out, typename In>
ENAF_HOST_DEVICE Out fast_convert_pixel(In x) {
  if constexpr (std::is_same<Out, In>::value) {
    return x;
  } else {
    return to_pixel<Out>(fast_pixel_value(x));
  }
}

ENAF_HOST_DEVICE int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}
ENAF_HOST_DEVICE int64_t at_most(int64_t a, int64_t b) {
  return a < b ? a : b;
}

constexpr int64_t max_grid_x = 0x7fffffff;
constexpr int64_t max_grid_yz = 65535;

}  // namespace enaf
