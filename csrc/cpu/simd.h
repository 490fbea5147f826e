// SPDX-License-Identifier: Apache-2.0
// Function multiversioning: a wheel is built for the oldest CPU of its platform and takes wider vectors where there are any.
#pragma once

#if defined(__x86_64__) && defined(__GNUC__)
#define ENAF_HAS_AVX2_VERSION 1
#endif

namespace enaf {

inline bool has_avx2() {
#if defined(ENAF_HAS_AVX2_VERSION)
  static const bool found = __builtin_cpu_supports("avx2");
  return found;
#else
  return false;
#endif
}

#if defined(ENAF_HAS_AVX2_VERSION)
// `flatten` inlines the body and all it calls, so that they are compiled for this target here, and only here.
template <typename Body>
[[gnu::target("avx2"), gnu::flatten, gnu::noinline]] void run_avx2(const Body& body) {
  body();
}
#endif

// Runs body(), compiled for the widest vectors of this CPU. What body calls must be visible and small enough to inline.
template <typename Body>
void vectorised(const Body& body) {
#if defined(ENAF_HAS_AVX2_VERSION)
  if (has_avx2()) {
    return run_avx2(body);
  }
#endif
  body();
}

}  // namespace enaf
