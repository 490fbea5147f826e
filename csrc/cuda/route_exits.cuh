// SPDX-License-Identifier: Apache-2.0
// route_exits: a stable counting sort by descending exit in two launches. A warp takes adjacent patches, 32 a step; a
// block first leaves its counts, then adds up those of the blocks before it and places its patches. Bytes it must move:
// exit_index twice (the second time from the cache), order once.
#pragma once

#include "pack.cuh"

namespace enaf {

constexpr int max_routed_exits = 64;
constexpr int route_warps = 8;
constexpr int route_steps = 8;
constexpr int route_chunk = route_warps * route_steps * 32;  // patches a block takes

// An exit out of range is clamped: `order` is a permutation whatever comes in, without waiting for the device.
__device__ inline int32_t clamped_exit(int64_t exit, int32_t num_exits) {
  return exit < 0 ? 0 : static_cast<int32_t>(at_most(exit, num_exits - 1));
}

struct RouteLane {
  int32_t warp;
  int32_t lane;
  int64_t first;  // the first patch of the warp
  __device__ RouteLane()
      : warp(static_cast<int32_t>(threadIdx.x) / 32),
        lane(static_cast<int32_t>(threadIdx.x) % 32),
        first(static_cast<int64_t>(blockIdx.x) * route_chunk + warp * (route_steps * 32)) {}
};

// Counts the exits of the warp's patches into `count` (zeroed here).
__device__ inline void count_exits(const RouteLane& at, const int64_t* exit_index, int64_t num_patches,
                                   int32_t num_exits, int32_t* count) {
  for (int32_t exit = at.lane; exit < num_exits; exit += 32) {
    count[exit] = 0;
  }
  __syncwarp();
#pragma unroll
  for (int step = 0; step < route_steps; ++step) {
    const int64_t i = at.first + step * 32 + at.lane;
    const int32_t exit = i < num_patches ? clamped_exit(exit_index[i], num_exits) : -1;
    const uint32_t peers = __match_any_sync(0xffffffffu, exit);
    if (exit >= 0 && at.lane == __ffs(static_cast<int>(peers)) - 1) {
      count[exit] += __popc(peers);
    }
    __syncwarp();
  }
}

// block_counts: (E, blocks)
__global__ void __launch_bounds__(route_warps * 32)
    count_exits_kernel(const int64_t* __restrict__ exit_index, int64_t num_patches, int32_t num_exits,
                       int32_t* __restrict__ block_counts) {
  __shared__ int32_t counts[route_warps][max_routed_exits];
  const RouteLane at;
  count_exits(at, exit_index, num_patches, num_exits, counts[at.warp]);
  __syncthreads();
  for (int32_t exit = static_cast<int32_t>(threadIdx.x); exit < num_exits; exit += route_warps * 32) {
    int32_t count = 0;
    for (int32_t warp = 0; warp < route_warps; ++warp) {
      count += counts[warp][exit];
    }
    block_counts[static_cast<int64_t>(exit) * gridDim.x + blockIdx.x] = count;
  }
}

// order: (N,); offsets: (E+1,), offsets[j] patches leave at exit j or later.
__global__ void __launch_bounds__(route_warps * 32)
    place_exits_kernel(const int64_t* __restrict__ exit_index, const int32_t* __restrict__ block_counts,
                       int64_t num_patches, int32_t num_exits, int64_t* __restrict__ order,
                       int64_t* __restrict__ offsets) {
  __shared__ int32_t counts[route_warps][max_routed_exits];  // of each warp
  __shared__ int64_t totals[max_routed_exits];               // of all blocks
  __shared__ int64_t starts[route_warps][max_routed_exits];  // where the warp's next patch of an exit goes
  const RouteLane at;
  count_exits(at, exit_index, num_patches, num_exits, counts[at.warp]);

  for (int32_t exit = at.warp; exit < num_exits; exit += route_warps) {
    int64_t total = 0;
    int64_t before = 0;
    for (uint32_t other = static_cast<uint32_t>(at.lane); other < gridDim.x; other += 32) {
      const int32_t count = block_counts[static_cast<int64_t>(exit) * gridDim.x + other];
      total += count;
      before += other < blockIdx.x ? count : 0;
    }
#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      total += __shfl_down_sync(0xffffffffu, total, step);
      before += __shfl_down_sync(0xffffffffu, before, step);
    }
    if (at.lane == 0) {
      totals[exit] = total;
      starts[0][exit] = before;
    }
  }
  __syncthreads();

  for (int32_t exit = static_cast<int32_t>(threadIdx.x); exit < num_exits; exit += route_warps * 32) {
    int64_t later = 0;  // patches of later exits come first
    for (int32_t other = exit + 1; other < num_exits; ++other) {
      later += totals[other];
    }
    int64_t start = later + starts[0][exit];
    for (int32_t warp = 0; warp < route_warps; ++warp) {
      starts[warp][exit] = start;
      start += counts[warp][exit];
    }
    if (blockIdx.x == 0) {
      offsets[exit] = later + totals[exit];
      if (exit == 0) {
        offsets[num_exits] = 0;
      }
    }
  }
  __syncthreads();

  int64_t* start = starts[at.warp];
#pragma unroll
  for (int step = 0; step < route_steps; ++step) {
    const int64_t i = at.first + step * 32 + at.lane;
    const int32_t exit = i < num_patches ? clamped_exit(exit_index[i], num_exits) : -1;
    const uint32_t peers = __match_any_sync(0xffffffffu, exit);
    const int64_t target = exit >= 0 ? start[exit] + __popc(peers & ((1u << at.lane) - 1)) : 0;
    __syncwarp();  // everyone has read `start`
    if (exit >= 0) {
      order[target] = i;
      if (at.lane == __ffs(static_cast<int>(peers)) - 1) {
        start[exit] += __popc(peers);
      }
    }
    __syncwarp();
  }
}

}  // namespace enaf
