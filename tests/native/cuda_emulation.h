// SPDX-License-Identifier: Apache-2.0
// Runs the source of a kernel on the CPU. Blocks run one after another; the threads of a block are threads, which meet
// at barriers, or for kernels without barriers one thread in turn. What CUDA leaves undefined ends the program with a
// message: threads of a block (warp) that wait at different barriers, or a barrier that some never reach. The
// sanitizers see the rest: accesses out of bounds or misaligned (AddressSanitizer, UBSan), races between the threads of
// a block (ThreadSanitizer).
#pragma once

#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static
#define __launch_bounds__(...)
#define __syncthreads() emulation::sync_threads(__LINE__)
#define __syncwarp() emulation::sync_warp(__LINE__)
#define __shfl_down_sync(mask, value, delta) emulation::shuffle_down(__LINE__, mask, value, delta)
#define __match_any_sync(mask, value) emulation::match_any(__LINE__, mask, value)

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  unsigned count() const { return x * y * z; }
};

inline dim3 gridDim, blockDim;
inline thread_local dim3 blockIdx, threadIdx;

using std::max;
using std::min;

inline int __popc(unsigned x) {
  return std::popcount(x);
}
inline int __ffs(int x) {
  return x == 0 ? 0 : std::countr_zero(static_cast<unsigned>(x)) + 1;
}

namespace emulation {

[[noreturn]] inline void fail(const char* message, int line) {
  std::fprintf(stderr, "kernel emulation: %s (line %d)\n", message, line);
  std::exit(3);
}

// All of `count` threads wait here for each other, and have come from the same line.
class Barrier {
 public:
  explicit Barrier(unsigned count) : count_(count) {}

  void wait(int line) {
    uint64_t round = 0;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (waiting_ > 0 && line != line_) {
        fail("threads wait at different barriers", line);
      }
      line_ = line;
      round = round_.load();
      if (++waiting_ == count_) {
        waiting_ = 0;
        ++round_;
        round_.notify_all();
        return;
      }
    }
    round_.wait(round);
  }

 private:
  std::mutex mutex_;
  std::atomic<uint64_t> round_ = 0;
  const unsigned count_;
  unsigned waiting_ = 0;
  int line_ = 0;
};

constexpr int most_words = 64;  // that a lane shows its warp at once

struct Warp {
  Barrier barrier{32};
  uint64_t values[32] = {};
  uint32_t words[2][32][most_words] = {};  // in turns: who is a round ahead writes where nobody reads any more
};

struct Block {
  explicit Block(unsigned threads, std::size_t shared_bytes = 0)
      : barrier(threads), dynamic_shared(std::aligned_alloc(16, shared_bytes), std::free) {
    std::fill_n(static_cast<uint8_t*>(dynamic_shared.get()), shared_bytes, 0xff);  // NaN, as floats and as halves
    for (unsigned i = 0; i < threads; i += 32) {
      warps.push_back(std::make_unique<Warp>());
    }
  }
  Barrier barrier;
  std::unique_ptr<void, void (*)(void*)>
      dynamic_shared;  // of exactly its size: AddressSanitizer sees every access past
  std::vector<std::unique_ptr<Warp>> warps;
};

inline Block* block = nullptr;  // null while threads run in turn

inline unsigned linear_thread() {
  return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

inline Block& this_block(int line) {
  if (block == nullptr) {
    fail("a kernel that was launched without barriers uses one", line);
  }
  return *block;
}

inline Warp& this_warp(int line) {
  return *this_block(line).warps[linear_thread() / 32];
}

inline void sync_threads(int line) {
  this_block(line).barrier.wait(line);
}
inline void sync_warp(int line) {
  this_warp(line).barrier.wait(line);
}

// Every lane's value, as all lanes gave it.
template <typename T>
std::vector<T> exchange(int line, unsigned mask, T value) {
  if (mask != 0xffffffffu) {
    fail("only whole warps are emulated", line);
  }
  Warp& warp = this_warp(line);
  warp.values[linear_thread() % 32] = static_cast<uint64_t>(value);
  warp.barrier.wait(line);
  std::vector<T> all;
  for (const uint64_t one : warp.values) {
    all.push_back(static_cast<T>(one));
  }
  warp.barrier.wait(line);
  return all;
}

template <typename T>
T shuffle_down(int line, unsigned mask, T value, unsigned delta) {
  const unsigned lane = linear_thread() % 32;
  return exchange(line, mask, value)[lane + delta < 32 ? lane + delta : lane];
}

template <typename T>
unsigned match_any(int line, unsigned mask, T value) {
  const std::vector<T> all = exchange(line, mask, value);
  unsigned same = 0;
  for (unsigned lane = 0; lane < 32; ++lane) {
    same |= static_cast<unsigned>(all[lane] == value) << lane;
  }
  return same;
}

inline void* dynamic_shared() {
  return this_block(0).dynamic_shared.get();
}

// The words of all lanes, each as `mine` is of this one, until the next call but one.
inline const uint32_t (*show_warp(const uint32_t* mine, int count)) [most_words] {
  static thread_local int turn = 0;
  turn ^= 1;
  Warp& warp = this_warp(0);
  auto& words = warp.words[turn];
  std::copy(mine, mine + count, words[linear_thread() % 32]);
  warp.barrier.wait(0);
  return words;
}

// IEEE half precision, rounded to nearest with ties to even; from 65520 on infinity.
inline uint16_t half_bits(float x) {
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) {
    return 0x7fff;
  }
  const double size = std::fabs(static_cast<double>(x));
  if (size == 0.0 || size >= 65520.0) {
    return size == 0.0 ? sign : sign | 0x7c00;
  }
  int exponent = 0;
  std::frexp(size, &exponent);  // size < 2^exponent
  const int lowest = std::max(exponent - 11, -24);
  const auto digits = static_cast<int>(std::nearbyint(std::ldexp(size, -lowest)));
  return static_cast<uint16_t>(sign | ((lowest + 24) * 1024 + digits));  // digits from 1024 on raise the exponent
}
inline float decoded_half(uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10 & 31);
  const int digits = static_cast<int>(bits & 1023);
  const float sign = (bits & 0x8000) != 0 ? -1.0f : 1.0f;
  if (exponent == 31) {
    return digits == 0 ? sign * std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
  }
  return sign * (exponent == 0 ? std::ldexp(static_cast<float>(digits), -24)
                               : std::ldexp(static_cast<float>(1024 + digits), exponent - 25));
}
inline float half_value(uint32_t bits) {
  static const std::vector<float> values = [] {
    std::vector<float> all(1 << 16);
    for (uint32_t i = 0; i < all.size(); ++i) {
      all[i] = decoded_half(i);
    }
    return all;
  }();
  return values[bits];
}

// ldmatrix.x4, M times: lane l names row l % 8 of matrix l / 8, and gets of row l / 4 of every matrix the halves
// 2 * (l % 4) and the next one.
template <int M, typename Row>
void load_matrices(uint32_t (&registers)[M][4], const Row* shared, const int (&index)[M], int step) {
  uint32_t mine[M];
  for (int m = 0; m < M; ++m) {
    mine[m] = static_cast<uint32_t>(index[m] + step);
  }
  const auto all = show_warp(mine, M);
  const unsigned lane = linear_thread() % 32;
  for (int m = 0; m < M; ++m) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      registers[m][matrix] = shared[static_cast<int>(all[8 * matrix + lane / 4][m])].word[lane % 4];
    }
  }
}

// mma.m16n8k16: who holds what is said in tensor_core.cuh. The hardware's order of summation is its own: here sums are
// rounded once.
template <int M, int N, typename Fragment>
void multiply_add(float (&sums)[M][N][4], const uint32_t (&a)[M][4], const Fragment (&b)[N], uint32_t chosen) {
  static_assert(4 * M + 2 * N <= most_words);
  uint32_t mine[4 * M + 2 * N] = {};
  std::copy(&a[0][0], &a[0][0] + 4 * M, mine);
  for (int n = 0; n < N; ++n) {
    if ((chosen >> n & 1) != 0) {
      std::copy(b[n].word, b[n].word + 2, mine + 4 * M + 2 * n);
    }
  }
  const auto all = show_warp(mine, 4 * M + 2 * N);
  const auto half_of = [](uint32_t word, int which) { return half_value(which == 0 ? word & 0xffff : word >> 16); };
  const auto lane = static_cast<int>(linear_thread() % 32);
  for (int n = 0; n < N; ++n) {
    if ((chosen >> n & 1) == 0) {
      continue;
    }
    float weights[16][2];  // of this lane's two columns
    for (int k = 0; k < 16; ++k) {
      for (int column = 0; column < 2; ++column) {
        const int owner = (2 * (lane % 4) + column) * 4 + k % 8 / 2;
        weights[k][column] = half_of(all[owner][4 * M + 2 * n + k / 8], k % 2);
      }
    }
    for (int m = 0; m < M; ++m) {
      for (int i = 0; i < 4; ++i) {
        double sum = sums[m][n][i];
        for (int k = 0; k < 16; ++k) {
          const int owner = lane / 4 * 4 + k % 8 / 2;
          const uint32_t word = all[owner][4 * m + i / 2 + k / 8 * 2];  // rows 8 to 15 lie in words 1 and 3
          sum += static_cast<double>(half_of(word, k % 2)) * weights[k][i % 2];
        }
        sums[m][n][i] = static_cast<float>(sum);
      }
    }
  }
}

inline dim3 coordinates(unsigned linear, dim3 size) {
  return {linear % size.x, linear / size.x % size.y, linear / size.x / size.y};
}

inline void check_shape(dim3 grid, dim3 block_shape) {
  if (grid.count() == 0 || block_shape.count() == 0 || block_shape.count() > 1024 || block_shape.z > 64 ||
      grid.y > 65535 || grid.z > 65535 || grid.x > 0x7fffffffu) {
    fail("launch shape out of the device's limits", 0);
  }
}

// A kernel without barriers.
template <typename... Parameters, typename... Arguments>
void launch(dim3 grid, dim3 threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  check_shape(grid, threads);
  gridDim = grid;
  blockDim = threads;
  for (unsigned b = 0; b < grid.count(); ++b) {
    for (unsigned t = 0; t < threads.count(); ++t) {
      blockIdx = coordinates(b, grid);
      threadIdx = coordinates(t, threads);
      kernel(arguments...);
    }
  }
}

// A kernel with barriers; its blocks are whole warps. So many bytes of shared memory besides what it declares.
template <typename... Parameters, typename... Arguments>
void launch_with_shared(dim3 grid, dim3 threads, std::size_t shared_bytes, void (*kernel)(Parameters...),
                        const Arguments&... arguments) {
  check_shape(grid, threads);
  if (threads.count() % 32 != 0) {
    fail("a block with barriers is not made of whole warps", 0);
  }
  gridDim = grid;
  blockDim = threads;
  Block shared(threads.count(), shared_bytes);
  block = &shared;
  std::vector<std::thread> workers;
  for (unsigned t = 0; t < threads.count(); ++t) {
    workers.emplace_back([&, t] {
      threadIdx = coordinates(t, threads);
      for (unsigned b = 0; b < grid.count(); ++b) {
        blockIdx = coordinates(b, grid);
        kernel(arguments...);
        shared.barrier.wait(-1);  // the next block reuses the shared memory
      }
    });
  }
  for (std::thread& worker : workers) {
    worker.join();
  }
  block = nullptr;
}

template <typename... Parameters, typename... Arguments>
void launch_with_barriers(dim3 grid, dim3 threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  launch_with_shared(grid, threads, 0, kernel, arguments...);
}

}  // namespace emulation
