// SPDX-License-Identifier: Apache-2.0
// Matrix products of a warp on tensor cores: D = A B + C with A 16x16 and B 16x8 in half precision, C and D 16x8 in
// float32. Needs compute capability 8.0. Who holds what is said by the PTX ISA (mma.m16n8k16 with .f16 operands,
// ldmatrix); with row = lane / 4 and pair = 2 * (lane % 4), a lane holds
//
//   A (16x16)  word 0: (row, pair) (row, pair + 1)          word 1: the same of row + 8
//              word 2: (row, pair + 8) (row, pair + 9)      word 3: the same of row + 8
//   B (16x8)   word 0: (pair, row) (pair + 1, row)          word 1: (pair + 8, row) (pair + 9, row)
//   C, D       0: (row, pair)   1: (row, pair + 1)          2, 3: the same of row + 8
//
// of two halves in a word the first is the low one. So two results side by side, rounded to half precision, are an A of
// the next product: no data moves between lanes. tests/native/cuda_emulation.h does the same on a CPU.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#endif

namespace enaf {

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr bool has_tensor_cores = false;
#else
constexpr bool has_tensor_cores = true;
#endif

// Eight halves side by side: a row of the 8x8 matrices that ldmatrix reads.
struct alignas(16) Cell {
  uint32_t word[4];
};

// A lane's part of B.
struct alignas(8) WeightFragment {
  uint32_t word[2];
};

// From memory that nobody writes while the kernel runs.
__device__ inline WeightFragment read_only(const WeightFragment* source) {
#if defined(__CUDACC__)
  const uint2 words = __ldg(reinterpret_cast<const uint2*>(source));
  return {{words.x, words.y}};
#else
  return *source;
#endif
}

// Numbers in half precision as they lie in memory.
struct HalfBits {
  uint16_t bits;

  __device__ operator float() const {
#if defined(__CUDACC__)
    return __half2float(__ushort_as_half(bits));
#else
    return emulation::half_value(bits);
#endif
  }
};
struct BFloat16Bits {
  uint16_t bits;

  __device__ operator float() const {
#if defined(__CUDACC__)
    return __uint_as_float(static_cast<uint32_t>(bits) << 16);
#else
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
#endif
  }
};

// Rounded to nearest, ties to even; what is too large becomes infinite, and so stays visible.
__device__ inline uint32_t two_halves(float low, float high) {
#if defined(__CUDACC__)
  const __half2 both = __floats2half2_rn(low, high);
  return static_cast<uint32_t>(__half_as_ushort(__low2half(both))) |
         static_cast<uint32_t>(__half_as_ushort(__high2half(both))) << 16;
#else
  return emulation::half_bits(low) | static_cast<uint32_t>(emulation::half_bits(high)) << 16;
#endif
}

// Shared memory of the size that the launch tells.
__device__ inline Cell* dynamic_shared() {
#if defined(__CUDACC__)
  extern __shared__ Cell cells[];
  return cells;
#else
  return static_cast<Cell*>(emulation::dynamic_shared());
#endif
}

// M operands A from shared memory. A lane names eight inputs of one row: lanes 0 to 15 inputs 0 to 7 of rows 0 to 15,
// lanes 16 to 31 inputs 8 to 15. Of matrix m the lane's cell is shared[cell[m] + step].
template <int M>
__device__ void load_operands(uint32_t (&a)[M][4], const Cell* shared, const int (&cell)[M], int step) {
#if defined(__CUDACC__)
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const auto address = static_cast<uint32_t>(__cvta_generic_to_shared(shared + cell[m] + step));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(a[m][0]), "=r"(a[m][1]), "=r"(a[m][2]), "=r"(a[m][3])
                 : "r"(address)
                 : "memory");
  }
#else
  emulation::load_matrices<M>(a, shared, cell, step);
#endif
}

// sums[m][n] += a[m] * b[n] for all m and for those n whose bit of `chosen`, a constant, is set.
template <int M, int N>
__device__ void multiply_add(float (&sums)[M][N][4], const uint32_t (&a)[M][4], const WeightFragment (&b)[N],
                             uint32_t chosen = ~0u) {
#if defined(__CUDACC__)
#pragma unroll
  for (int n = 0; n < N; ++n) {
    if ((chosen >> n & 1) != 0) {
#pragma unroll
      for (int m = 0; m < M; ++m) {
        float (&d)[4] = sums[m][n];
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, "
            "%2, %3};"
            : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
            : "r"(a[m][0]), "r"(a[m][1]), "r"(a[m][2]), "r"(a[m][3]), "r"(b[n].word[0]), "r"(b[n].word[1]));
      }
    }
  }
#else
  emulation::multiply_add<M, N>(sums, a, b, chosen);
#endif
}

}  // namespace enaf
