// SPDX-License-Identifier: Apache-2.0
// Bicubic interpolation by an integer scale as torch defines it: a = -0.75, half-pixel centres, coordinates clamped.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace enaf {

// Output `scale * i + phase` is the sum over k of weight[k] * input[clamp(i + first + k)]: all outputs of a phase share
// their weights, because the scale is an integer.
template <typename A>
struct BicubicPhase {
  int32_t first;  // -2 or -1
  A weight[4];
};

// The cubic convolution kernel (Keys 1981), |x| <= 1 and 1 < |x| < 2.
template <typename A>
ENAF_HOST_DEVICE A cubic_near(A x) {
  constexpr A a = A(-0.75);
  return ((a + A(2)) * x - (a + A(3))) * x * x + A(1);
}

template <typename A>
ENAF_HOST_DEVICE A cubic_far(A x) {
  constexpr A a = A(-0.75);
  return ((a * x - A(5) * a) * x + A(8) * a) * x - A(4) * a;
}

template <typename A>
ENAF_HOST_DEVICE BicubicPhase<A> bicubic_phase(int32_t phase, int32_t scale) {
  // The source position relative to i is (phase + 0.5) / scale - 0.5, in (-0.5, 0.5).
  const bool before = 2 * phase + 1 < scale;
  const A t = (static_cast<A>(phase) + A(0.5)) / static_cast<A>(scale) + (before ? A(0.5) : A(-0.5));
  return {before ? -2 : -1, {cubic_far(t + A(1)), cubic_near(t), cubic_near(A(1) - t), cubic_far(A(2) - t)}};
}

ENAF_HOST_DEVICE int32_t clamp_index(int32_t i, int32_t n) {
  return i < 0 ? 0 : (i < n ? i : n - 1);
}

}  // namespace enaf
