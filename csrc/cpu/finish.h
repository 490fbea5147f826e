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

// Four sums as 8-bit levels. min(1, NaN) is NaN, which converts, as any negative value does, to an integer that the
// packs below saturate to 0. The conversion rounds ties to even.
#if defined(__SSE2__)
inline __m128i levels_of_4(const float* sums) {
  const __m128 clamped = _mm_min_ps(_mm_set1_ps(1.0f), _mm_loadu_ps(sums));
  return _mm_cvtps_epi32(_mm_mul_ps(clamped, _mm_set1_ps(255.0f)));
}

inline void store_levels_of_16(uint8_t* out, __m128i a, __m128i b, __m128i c, __m128i d) {
  const __m128i levels = _mm_packus_epi16(_mm_packs_epi32(a, b), _mm_packs_epi32(c, d));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), levels);
}
#endif

template <typename Out, typename A>
inline void finish_row(Out* __restrict out, const A* __restrict sums, int64_t count) {
  int64_t i = 0;
#if defined(__SSE2__)
  if constexpr (std::is_same_v<Out, uint8_t> && std::is_same_v<A, float>) {
    for (; i + 16 <= count; i += 16) {
      store_levels_of_16(out + i, levels_of_4(sums + i), levels_of_4(sums + i + 4), levels_of_4(sums + i + 8),
                         levels_of_4(sums + i + 12));
    }
  }
#endif
  for (; i < count; ++i) {
    out[i] = to_pixel<Out>(sums[i]);
  }
}

// The same for a row in `blocks` of S values, `step` apart.
template <int S, typename Out, typename A>
inline void finish_blocks(Out* __restrict out, const A* __restrict in, int64_t step, int64_t blocks) {
  int64_t k = 0;
#if defined(__SSE2__)
  if constexpr (S == 4 && std::is_same_v<Out, uint8_t> && std::is_same_v<A, float>) {
    for (; k + 4 <= blocks; k += 4) {
      const A* from = in + k * step;
      store_levels_of_16(out + 4 * k, levels_of_4(from), levels_of_4(from + step), levels_of_4(from + 2 * step),
                         levels_of_4(from + 3 * step));
    }
  }
#endif
  for (; k < blocks; ++k) {
    for (int i = 0; i < S; ++i) {
      out[S * k + i] = to_pixel<Out>(in[k * step + i]);
    }
  }
}

}  // namespace enaf
