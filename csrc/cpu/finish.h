// SPDX-License-Identifier: Apache-2.0
// A row of sums to pixels of the result's dtype: to_pixel for each, and for 8-bit results the two instructions that x86
// has for just this.
#pragma once

#include <cstdint>
#include <type_traits>

#include "pixel.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace enaf {

template <typename Out, typename A>
inline void finish_row(Out* __restrict out, const A* __restrict sums, int64_t count) {
  int64_t i = 0;
#if defined(__SSE2__)
  if constexpr (std::is_same_v<Out, uint8_t> && std::is_same_v<A, float>) {
    // min(1, NaN) is NaN, which converts, as any negative value does, to an integer that saturates to 0. The conversion
    // rounds ties to even.
    const auto levels = [&](int64_t at) {
      const __m128 clamped = _mm_min_ps(_mm_set1_ps(1.0f), _mm_loadu_ps(sums + at));
      return _mm_cvtps_epi32(_mm_mul_ps(clamped, _mm_set1_ps(255.0f)));
    };
    for (; i + 16 <= count; i += 16) {
      const __m128i low = _mm_packs_epi32(levels(i), levels(i + 4));
      const __m128i high = _mm_packs_epi32(levels(i + 8), levels(i + 12));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm_packus_epi16(low, high));
    }
  }
#endif
  for (; i < count; ++i) {
    out[i] = to_pixel<Out>(sums[i]);
  }
}

}  // namespace enaf
