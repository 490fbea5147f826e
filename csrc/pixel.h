// SPDX-License-Identifier: Apache-2.0
// Pixel values: 8- and 16-bit integers stand for [0, 1], floating types for themselves. Half types are any type that
// converts to and from float.
#pragma once

#include <cstdint>
#include <type_traits>

#include "host_device.h"

namespace enaf {

template <typename T>
constexpr bool is_integral_pixel = std::is_same<T, uint8_t>::value || std::is_same<T, uint16_t>::value;

// Sums run in double for double and in float for everything else.
template <typename T>
using Accumulator = std::conditional_t<std::is_same<T, double>::value, double, float>;

template <typename T>
constexpr float pixel_max = std::is_same<T, uint8_t>::value ? 255.0f : 65535.0f;

// The value in [0, 1] (or as is, for floating types), divided in float32 as torch divides.
template <typename T>
ENAF_HOST_DEVICE Accumulator<T> pixel_value(T x) {
  if constexpr (is_integral_pixel<T>) {
    return static_cast<float>(x) / pixel_max<T>;
  } else {
    return static_cast<Accumulator<T>>(x);
  }
}

// Nearest integer, ties to even, for |x| < 2^22: adding 1.5 * 2^23 leaves no fraction bits. It vectorises on every
// target, unlike rint.
ENAF_HOST_DEVICE float round_half_even(float x) {
  return (x + 12582912.0f) - 12582912.0f;
}
ENAF_HOST_DEVICE double round_half_even(double x) {
  return (x + 6755399441055744.0) - 6755399441055744.0;
}

// An accumulated result as Out: integers are rint(clamp(x, 0, 1) * max) with NaN giving 0; floats are not clamped.
template <typename Out, typename A>
ENAF_HOST_DEVICE Out to_pixel(A x) {
  if constexpr (is_integral_pixel<Out>) {
    const A positive = x > A(0) ? x : A(0);
    const A clamped = positive < A(1) ? positive : A(1);
    return static_cast<Out>(static_cast<int32_t>(round_half_even(clamped * static_cast<A>(pixel_max<Out>))));
  } else if constexpr (std::is_same<Out, double>::value) {
    return static_cast<double>(x);
  } else {
    return static_cast<Out>(static_cast<float>(x));
  }
}

// An image's pixel as Out: the same type is copied, integers are scaled to [0, 1], floats are cast.
template <typename Out, typename In>
ENAF_HOST_DEVICE Out convert_pixel(In x) {
  if constexpr (std::is_same<Out, In>::value) {
    return x;
  } else {
    return to_pixel<Out>(pixel_value(x));
  }
}

}  // namespace enaf
