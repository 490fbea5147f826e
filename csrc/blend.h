// SPDX-License-Identifier: Apache-2.0
// How overlapping patches are weighed where they meet. Weights are separable; an output pixel is
//   y(p) = sum_k w_y(k, p_y) w_x(k, p_x) patch_k(p - origin_k), k in grid order.
#pragma once

#include <cstdint>

#include "host_device.h"
#include "patch_grid.h"

namespace enaf {

enum class Window : int32_t {
  average = 0,  // the plain mean of the covering patches
  linear = 1,   // in an overlap of O pixels the later patch weighs (i + 0.5) / O, i = 0..O-1, the earlier one the rest
  sum = 2,      // weight 1 each: the adjoint of unfold
};

constexpr int64_t num_windows = 3;

// The patches that cover a coordinate, and the weight of each along this axis.
template <typename A>
struct AxisBlend {
  int32_t first;
  int32_t count;
  A weight[2];
};

template <typename A>
ENAF_HOST_DEVICE AxisBlend<A> axis_blend(const PatchAxis& axis, const Cover& cover, int32_t position, Window window) {
  if (cover.count == 1 || window == Window::sum) {
    return {cover.first, cover.count, {A(1), A(1)}};
  }
  if (window == Window::average) {
    return {cover.first, cover.count, {A(0.5), A(0.5)}};
  }
  const int32_t into = position - axis.origin(cover.first + 1);
  const A later = (static_cast<A>(into) + A(0.5)) / static_cast<A>(axis.overlap());
  return {cover.first, cover.count, {A(1) - later, later}};
}

template <typename A>
ENAF_HOST_DEVICE AxisBlend<A> axis_blend(const PatchAxis& axis, int32_t position, Window window) {
  return axis_blend<A>(axis, axis.cover(position), position, window);
}

}  // namespace enaf
