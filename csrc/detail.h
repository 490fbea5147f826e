// SPDX-License-Identifier: Apache-2.0
// What a cell of 4x4 pixels tells an estimator besides its learned features: the energies of eight derivatives, their
// largest values, the variance of the colours, and the mean colours. The CPU and the GPU do the same operations in the
// same order, so that they give the same bits.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace enaf {

constexpr int cell_side = 4;
constexpr int num_details = 8;
constexpr int num_energies = 2 * num_details + 1;   // means, maxima, variance
constexpr int num_cell_details = num_energies + 4;  // and the mean colours, and how near to black or white they are

// Energy of a third of an 8-bit level: what rounding to 8 bits leaves in a flat cell.
constexpr float faintest_energy = 2e-6f;

// T is float, or several side by side.
template <typename T>
ENAF_HOST_DEVICE T grey_of(T red, T green, T blue) {
  return 0.3f * red + 0.6f * green + 0.1f * blue;
}
template <typename T>
ENAF_HOST_DEVICE T red_against_green(T red, T green) {
  return 0.5f * red - 0.5f * green;
}
template <typename T>
ENAF_HOST_DEVICE T blue_against_both(T red, T green, T blue) {
  return 0.5f * blue - 0.25f * red - 0.25f * green;
}

template <typename T>
ENAF_HOST_DEVICE T curvature(T before, T here, T after) {
  return before - 2.0f * here + after;
}

// What a pixel and those above and below it enter the details of their row by.
template <typename T>
struct DetailColumn {
  T grey;        // of the pixel
  T below;       // grey below it
  T slope;       // grey below less grey above
  T grey_curve;  // vertical curvature of grey, of red against green, of blue against both
  T green_curve;
  T blue_curve;
};

// The squared derivatives of a pixel from its column and its neighbours': grey to the right and downwards, its
// curvature along both axes, its mixed derivative, and the finest checkerboards of grey and of the two colours.
template <typename T>
ENAF_HOST_DEVICE void squared_details(const DetailColumn<T>& west, const DetailColumn<T>& here,
                                      const DetailColumn<T>& east, T* squares) {
  const T details[num_details] = {
      east.grey - here.grey,
      here.below - here.grey,
      curvature(west.grey, here.grey, east.grey),
      here.grey_curve,
      east.slope - west.slope,
      0.25f * curvature(west.grey_curve, here.grey_curve, east.grey_curve),
      0.5f * curvature(west.green_curve, here.green_curve, east.green_curve),
      0.5f * curvature(west.blue_curve, here.blue_curve, east.blue_curve),
  };
  ENAF_UNROLL
  for (int k = 0; k < num_details; ++k) {
    squares[k] = details[k] * details[k];
  }
}

// Natural logarithm of a positive, normal x, to 1e-7 of its value or of 1: the polynomial of Cephes' logf, which every
// compiler vectorises and every device rounds alike. Infinity and NaN give some finite value.
ENAF_HOST_DEVICE float natural_logarithm(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof(bits));
  // x = m * 2^e with sqrt(1/2) <= m < sqrt(2)
  const uint32_t shifted = bits - 0x3f3504f3u;
  const int32_t exponent = static_cast<int32_t>(shifted) >> 23;
  bits = (shifted & 0x007fffffu) + 0x3f3504f3u;
  float m;
  memcpy(&m, &bits, sizeof(m));
  const float f = m - 1.0f;
  const float e = static_cast<float>(exponent);
  const float z = f * f;
  float p = 7.0376836292e-2f;
  p = p * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  const float low = p * f * z - 2.12194440e-4f * e - 0.5f * z;
  return f + low + 0.693359375f * e;
}

// Sum over the four columns of a cell.
ENAF_HOST_DEVICE float over_columns(float a, float b, float c, float d) {
  return (a + b) + (c + d);
}

template <typename T>
ENAF_HOST_DEVICE T larger(T a, T b) {
  return a > b ? a : b;
}

// An energy as the networks take it: of the order of one.
ENAF_HOST_DEVICE float scaled_logarithm(float energy) {
  return 0.25f * natural_logarithm(energy + faintest_energy) + 2.0f;
}

// Variance of a colour in a cell from its sum and the sum of its squares over the 16 pixels.
ENAF_HOST_DEVICE float cell_variance(float sum, float sum_of_squares) {
  const float mean = sum * 0.0625f;
  return sum_of_squares * 0.0625f - mean * mean;
}

// Mean over the three colours, above 0 in spite of rounding.
ENAF_HOST_DEVICE float mean_variance(float red, float green, float blue) {
  return larger((red + green + blue) * (1.0f / 3.0f), 0.0f);
}

ENAF_HOST_DEVICE float scaled_mean(float sum) {
  return (sum * 0.0625f - 0.45f) * 4.0f;
}

// Above 0 where a colour nears black or white, from the sums over the cell.
ENAF_HOST_DEVICE float clipping(float red, float green, float blue) {
  const float r = red * 0.0625f - 0.5f;
  const float g = green * 0.0625f - 0.5f;
  const float b = blue * 0.0625f - 0.5f;
  const float furthest = larger(larger(r < 0 ? -r : r, g < 0 ? -g : g), b < 0 ? -b : b);
  return (furthest - 0.45f) * 8.0f;
}

}  // namespace enaf
