// SPDX-License-Identifier: Apache-2.0
// Wide memory accesses, and the small arithmetic that kernels share. No torch here: host tests run these headers too.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../pixel.h"

namespace enaf {

// What one access moves. In words, because the compiler splits an access by more than four elements of a smaller type.
template <int bytes>
struct alignas(bytes) Words {
  using Word = std::conditional_t<bytes % 4 == 0, uint32_t, std::conditional_t<bytes % 2 == 0, uint16_t, uint8_t>>;
  Word word[bytes / sizeof(Word)];
};

template <int bytes>
ENAF_HOST_DEVICE bool is_aligned(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % bytes == 0;
}

// The widest access, up to 16 bytes, that divides n values.
template <int n, typename T>
constexpr int access_bytes =
    n * sizeof(T) % 16 == 0 ? 16 : static_cast<int>(n * sizeof(T)) & -static_cast<int>(n * sizeof(T));

// n values side by side, at an address that is a multiple of `bytes`.
template <int n, typename T, int bytes = access_bytes<n, T>>
ENAF_HOST_DEVICE void load_aligned(const T* source, T* values) {
  constexpr int width = bytes / static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < n; i += width) {
    const auto words = *reinterpret_cast<const Words<bytes>*>(source + i);
    memcpy(values + i, &words, bytes);
  }
}

// Said outright on the device: the compiler loses the alignment of plain stores on the way and splits them.
template <int bytes>
ENAF_HOST_DEVICE void store_words(void* target, const Words<bytes>& words) {
#if defined(__CUDA_ARCH__)
  if constexpr (bytes == 16) {
    return __stwb(static_cast<uint4*>(target), make_uint4(words.word[0], words.word[1], words.word[2], words.word[3]));
  } else if constexpr (bytes == 8) {
    return __stwb(static_cast<uint2*>(target), make_uint2(words.word[0], words.word[1]));
  }
#endif
  *static_cast<Words<bytes>*>(target) = words;
}

template <int n, typename T, int bytes = access_bytes<n, T>>
ENAF_HOST_DEVICE void store_aligned(T* target, const T* values) {
  constexpr int width = bytes / static_cast<int>(sizeof(T));
#pragma unroll
  for (int i = 0; i < n; i += width) {
    Words<bytes> words;
    memcpy(&words, values + i, bytes);
    store_words<bytes>(target + i, words);
  }
}

template <int bytes, int n, typename T>
ENAF_HOST_DEVICE bool load_if_aligned(const T* source, T* values) {
  if constexpr (bytes > static_cast<int>(sizeof(T)) && n * static_cast<int>(sizeof(T)) % bytes == 0) {
    if (is_aligned<bytes>(source)) {
      load_aligned<n, T, bytes>(source, values);
      return true;
    }
  }
  return false;
}

// n values side by side, in the widest accesses that their address allows: patch origins are rarely multiples of 16.
template <int n, typename T>
ENAF_HOST_DEVICE void load_run(const T* source, T* values) {
  if (load_if_aligned<16, n>(source, values) || load_if_aligned<8, n>(source, values) ||
      load_if_aligned<4, n>(source, values)) {
    return;
  }
#pragma unroll
  for (int i = 0; i < n; ++i) {
    values[i] = source[i];
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

ENAF_HOST_DEVICE int64_t at_most(int64_t a, int64_t b) {
  return a < b ? a : b;
}

constexpr int64_t max_grid_x = 0x7fffffff;
constexpr int64_t max_grid_yz = 65535;

}  // namespace enaf
