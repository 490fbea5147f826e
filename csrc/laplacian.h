// SPDX-License-Identifier: Apache-2.0
// The edge measure: |Laplacian| of the 8-bit grey value, bit for bit what OpenCV's cvtColor(RGB2GRAY),
// Laplacian(CV_16S, ksize=3) and convertScaleAbs give on a patch.
#pragma once

#include <cstdint>
#include <type_traits>

#include "host_device.h"
#include "pixel.h"

namespace enaf {

// A channel's value as an 8-bit level: trunc(255 x) of a float in [0, 1] (clamped, NaN gives 0), floor(x / 257) of 16
// bits.
template <typename T>
ENAF_HOST_DEVICE int32_t to_level(T x) {
  if constexpr (std::is_same<T, uint8_t>::value) {
    return x;
  } else if constexpr (std::is_same<T, uint16_t>::value) {
    return static_cast<int32_t>(static_cast<uint32_t>(x) / 257u);
  } else {
    const float level = static_cast<float>(x) * 255.0f;
    const float positive = level > 0.0f ? level : 0.0f;
    return static_cast<int32_t>(positive < 255.0f ? positive : 255.0f);
  }
}

// ITU-R BT.601 luma in 15-bit fixed point.
ENAF_HOST_DEVICE int32_t grey_level(int32_t r, int32_t g, int32_t b) {
  return (9798 * r + 19235 * g + 3735 * b + 16384) >> 15;
}

// Reflect-101: the border pixel is not repeated. For -1 <= i <= n.
ENAF_HOST_DEVICE int32_t reflect_101(int32_t i, int32_t n) {
  if (n == 1) {
    return 0;
  }
  return i < 0 ? -i : (i >= n ? 2 * n - 2 - i : i);
}

// min(|L|, 255) with the kernel [2 0 2; 0 -8 0; 2 0 2].
ENAF_HOST_DEVICE int32_t abs_laplacian(int32_t nw, int32_t ne, int32_t sw, int32_t se, int32_t centre) {
  const int32_t value = 2 * (nw + ne + sw + se) - 8 * centre;
  const int32_t magnitude = value < 0 ? -value : value;
  return magnitude < 255 ? magnitude : 255;
}

// The patch's score: the mean of its values. The division is in double, as NumPy's mean of the uint8 map.
ENAF_HOST_DEVICE float mean_score(int64_t sum, int32_t patch_size) {
  return static_cast<float>(static_cast<double>(sum) / (static_cast<double>(patch_size) * patch_size));
}

}  // namespace enaf
