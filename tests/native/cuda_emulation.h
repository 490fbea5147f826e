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
#include <cstdint>
#include <cstdio>
#include <cstdlib>
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

struct Warp {
  Barrier barrier{32};
  uint64_t values[32] = {};
};

struct Block {
  explicit Block(unsigned threads) : barrier(threads) {
    for (unsigned i = 0; i < threads; i += 32) {
      warps.push_back(std::make_unique<Warp>());
    }
  }
  Barrier barrier;
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

// A kernel with barriers; its blocks are whole warps.
template <typename... Parameters, typename... Arguments>
void launch_with_barriers(dim3 grid, dim3 threads, void (*kernel)(Parameters...), const Arguments&... arguments) {
  check_shape(grid, threads);
  if (threads.count() % 32 != 0) {
    fail("a block with barriers is not made of whole warps", 0);
  }
  gridDim = grid;
  blockDim = threads;
  Block shared(threads.count());
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

}  // namespace emulation
