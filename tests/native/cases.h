// SPDX-License-Identifier: Apache-2.0
// What the kernel tests share: image shapes, random images of any strides, and how failures are told.
#pragma once

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <type_traits>
#include <vector>

#include "patch_grid.h"
#include "pixel.h"
#include "tensor_view.h"

namespace native {

using Half = c10::Half;
using BFloat16 = c10::BFloat16;

struct Shape {
  int64_t batch, channels, height, width, patch, overlap;
};

// The smallest image, images smaller than a patch, non-dividing sizes, overlap none and maximal, odd patches.
inline const std::vector<Shape> shapes = {
    {1, 1, 1, 1, 1, 0},    {1, 3, 1, 1, 8, 2},    {2, 3, 5, 3, 8, 4},  {1, 3, 37, 53, 16, 2}, {2, 1, 30, 41, 16, 8},
    {1, 3, 32, 48, 16, 0}, {1, 3, 19, 23, 7, 3},  {1, 4, 9, 26, 5, 0}, {1, 3, 40, 72, 32, 4}, {3, 2, 12, 12, 4, 1},
    {1, 1, 6, 9, 3, 1},    {1, 3, 12, 20, 12, 6}, {1, 1, 7, 5, 2, 1},
};

enum class Layout { contiguous, channels_last, sliced };
inline const std::vector<Layout> layouts = {Layout::contiguous, Layout::channels_last, Layout::sliced};

inline int failures = 0;

// Counts a failure and tells the first few.
template <typename... T>
void expect(bool condition, const char* format, T... values) {
  if (!condition && ++failures <= 20) {
    std::fprintf(stderr, format, values...);
    std::fputc('\n', stderr);
  }
}

inline std::mt19937& generator() {
  static std::mt19937 engine(20240607);
  return engine;
}

inline int64_t random_below(int64_t n) {
  return std::uniform_int_distribution<int64_t>(0, n - 1)(generator());
}

template <typename T>
T random_pixel() {
  if constexpr (enaf::is_integral_pixel<T>) {
    return static_cast<T>(random_below(sizeof(T) == 1 ? 256 : 65536));
  } else {
    return static_cast<T>(static_cast<float>(random_below(4097)) / 4096.0f);
  }
}

// A buffer of exactly its size on the heap: AddressSanitizer sees every access past it. It starts out as a sentinel.
template <typename T>
struct Buffer {
  explicit Buffer(int64_t size) : count(size), data(static_cast<T*>(std::malloc(size * sizeof(T))), std::free) {
    std::memset(static_cast<void*>(data.get()), 0xa5, size * sizeof(T));
  }
  T& operator[](int64_t i) { return data.get()[i]; }
  const T& operator[](int64_t i) const { return data.get()[i]; }
  int64_t count;
  std::unique_ptr<T, void (*)(void*)> data;
};

// A random (n, c, h, w) tensor.
template <typename T>
struct Random4 {
  Random4(int64_t n, int64_t c, int64_t h, int64_t w, Layout layout)
      : values(layout == Layout::sliced ? n * (c + 1) * (h + 1) * (2 * w + 1) + 1 : n * c * h * w),
        view{values.data.get(), {n, c, h, w}, {c * h * w, h * w, w, 1}} {
    if (layout == Layout::channels_last) {
      const int64_t stride[4] = {c * h * w, 1, w * c, c};
      std::copy(stride, stride + 4, view.stride);
    } else if (layout == Layout::sliced) {  // every other column of a larger tensor, from its second element on
      const int64_t stride[4] = {(c + 1) * (h + 1) * (2 * w + 1), (h + 1) * (2 * w + 1), 2 * w + 1, 2};
      std::copy(stride, stride + 4, view.stride);
      view.data += 1;
    }
    for (int64_t i = 0; i < values.count; ++i) {
      values[i] = random_pixel<T>();
    }
  }
  Buffer<T> values;
  enaf::View4<const T> view;
};

}  // namespace native
