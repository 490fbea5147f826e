// SPDX-License-Identifier: Apache-2.0
// What a kernel sees of a four-dimensional tensor: a pointer, sizes and strides in elements. Passed by value to
// kernels.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace enaf {

// Images are (batch, channel, y, x), patches (patch, channel, y, x).
template <typename T>
struct View4 {
  T* data;
  int64_t size[4];
  int64_t stride[4];

  ENAF_HOST_DEVICE int64_t offset(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return n * stride[0] + c * stride[1] + y * stride[2] + x * stride[3];
  }
  ENAF_HOST_DEVICE T& at(int64_t n, int64_t c, int64_t y, int64_t x) const { return data[offset(n, c, y, x)]; }

  // A row's pixels lie side by side: planar (x has stride 1) or interleaved (c has stride 1, x has stride C).
  ENAF_HOST_DEVICE bool planar() const { return stride[3] == 1 || size[3] <= 1; }
  ENAF_HOST_DEVICE bool interleaved() const {
    return (stride[1] == 1 || size[1] <= 1) && (stride[3] == size[1] || size[3] <= 1);
  }
};

}  // namespace enaf
