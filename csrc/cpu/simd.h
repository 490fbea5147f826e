// SPDX-License-Identifier: Apache-2.0
// Function multiversioning: a wheel is built for the oldest CPU of its platform and takes wider vectors where there are
// any.
#pragma once

#include <cstdlib>
#include <type_traits>

#if defined(__x86_64__) && defined(__GNUC__)
#define ENAF_HAS_AVX2_VERSION 1
#endif

namespace enaf {

enum class Registers { baseline, avx2, avx512 };

// What this CPU has, or less where ENAF_CPU=avx2 or ENAF_CPU=baseline in the environment asks for it.
inline Registers widest_registers() {
#if defined(ENAF_HAS_AVX2_VERSION)
  static const Registers widest = [] {
    const char* wish = std::getenv("ENAF_CPU");
    const auto wished = [&](char first) { return wish != nullptr && wish[0] == first; };
    // The first Zen splits 256-bit instructions, and pays eight micro-operations where one crosses the halves.
    const bool wide = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && !__builtin_cpu_is("znver1");
    if (!wide || wished('b')) {
      return Registers::baseline;
    }
    return __builtin_cpu_supports("avx512f") && !wished('a') ? Registers::avx512 : Registers::avx2;
  }();
  return widest;
#else
  return Registers::baseline;
#endif
}

#if defined(ENAF_HAS_AVX2_VERSION)
// `flatten` inlines the body and all it calls, so that they are compiled for this target here, and only here.
template <typename Body>
[[gnu::target("avx2"), gnu::flatten, gnu::noinline]] void run_avx2(const Body& body) {
  body();
}

// With a fused multiply-add, for sums that need not be the same bits everywhere.
template <typename Body>
[[gnu::target("avx2,fma"), gnu::flatten, gnu::noinline]] void run_avx2_fma(const Body& body) {
  body();
}
template <typename Body>
[[gnu::target("avx512f,avx2,fma,prefer-vector-width=512"), gnu::flatten, gnu::noinline]] void run_avx512(
    const Body& body) {
  body();
}
#endif

// Runs body(), compiled for AVX2 where there is AVX2: the same bits as without. Its loops belong in functions that body
// calls with their pointers as restrict parameters: a loop that stores through a captured pointer must reload it every
// time.
template <typename Body>
inline void vectorised(const Body& body) {
#if defined(ENAF_HAS_AVX2_VERSION)
  if (widest_registers() != Registers::baseline) {
    return run_avx2(body);
  }
#endif
  body();
}

// N values side by side, for the few loops whose inner length is a known 2 or 4: compilers leave those half scalar.
template <typename A, int N>
struct PackOf {
  typedef A type __attribute__((vector_size(N * sizeof(A))));
};
template <typename A, int N>
using Pack = typename PackOf<A, N>::type;

template <int N, typename A, typename T>
inline void load(Pack<A, N>& pack, const T* from) {
  if constexpr (std::is_same_v<A, T>) {
    __builtin_memcpy(&pack, from, sizeof(pack));
  } else {
    for (int i = 0; i < N; ++i) {
      pack[i] = static_cast<A>(from[i]);
    }
  }
}

template <int N, typename A>
inline void store(A* to, const Pack<A, N>& pack) {
  __builtin_memcpy(to, &pack, sizeof(pack));
}

}  // namespace enaf
