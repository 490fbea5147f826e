// SPDX-License-Identifier: Apache-2.0
// edge_score: the mean |Laplacian| of every patch. A block takes a patch, brings it tile by tile to grey levels in
// shared memory, and a thread sums the Laplacian of four adjacent pixels a step. Sums are integers, so the result does
// not depend on their order. Bytes it must move: the image once (overlaps come from the cache).
#pragma once

#include "../laplacian.h"
#include "../patch_grid.h"
#include "../tensor_view.h"
#include "pack.cuh"

namespace enaf {

constexpr int edge_tile = 64;  // a multiple of 4
constexpr int edge_pitch = edge_tile + 8;
constexpr int edge_max_threads = 256;

inline void edge_score_shape(int64_t num_patches, int32_t patch_size, dim3& grid, dim3& block) {
  const int64_t side = at_most(patch_size, edge_tile);
  const int64_t steps = divide_up(side, 4) * side;
  block = dim3(static_cast<unsigned>(at_most(divide_up(steps, 64) * 32, edge_max_threads)), 1, 1);
  grid = dim3(static_cast<unsigned>(at_most(num_patches, max_grid_x)), 1, 1);
}

enum class PixelOrder { planar, interleaved, strided };

// Grey levels of pixels x..x+3 of a row (channel 0 of pixel 0 at `row`), one a byte. Pixels past the edge are the edge
// pixel.
template <typename T, int C>
__device__ uint32_t grey_quad(const T* row, const View4<const T>& image, const PatchAxis& cols, int32_t x,
                              PixelOrder pixel_order) {
  T values[4 * C];  // [pixel][channel]
  if (pixel_order == PixelOrder::interleaved && x + 3 < cols.size) {
    load_run<4 * C>(row + static_cast<int64_t>(x) * C, values);
  } else if (pixel_order == PixelOrder::planar && x + 3 < cols.size) {
#pragma unroll
    for (int c = 0; c < C; ++c) {
      T plane[4];
      load_run<4>(row + c * image.stride[1] + x, plane);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        values[i * C + c] = plane[i];
      }
    }
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int c = 0; c < C; ++c) {
        values[i * C + c] = row[c * image.stride[1] + cols.clamp(x + i) * image.stride[3]];
      }
    }
  }
  uint32_t quad = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int32_t level = to_level(values[i * C]);
    if constexpr (C == 3) {
      level = grey_level(level, to_level(values[i * C + 1]), to_level(values[i * C + 2]));
    }
    quad |= static_cast<uint32_t>(level) << (8 * i);
  }
  return quad;
}

// score: (B*N,)
template <typename T, int C>
__global__ void __launch_bounds__(edge_max_threads)
    edge_score_kernel(View4<const T> image, PatchGrid grid, PixelOrder pixel_order, float* __restrict__ score) {
  alignas(16) __shared__ uint8_t grey[edge_tile + 2][edge_pitch];
  __shared__ int64_t warp_sums[edge_max_threads / 32];

  const int32_t patch = grid.rows.patch;
  const int32_t thread = static_cast<int32_t>(threadIdx.x);
  const int32_t threads = static_cast<int32_t>(blockDim.x);
  const int64_t num_patches = image.size[0] * grid.num_patches();

  for (int64_t index = blockIdx.x; index < num_patches; index += gridDim.x) {
    const PatchPlace place = grid.place(index);
    const int32_t top = grid.rows.origin(place.row);
    const int32_t left = grid.cols.origin(place.col);
    int64_t sum = 0;

    for (int32_t tile_y = 0; tile_y < patch; tile_y += edge_tile) {
      for (int32_t tile_x = 0; tile_x < patch; tile_x += edge_tile) {
        // The tile and the neighbours it reads; columns in whole quads from tile_x, so that loads stay wide.
        const int32_t end_y = min(tile_y + edge_tile, patch);
        const int32_t end_x = min(tile_x + edge_tile, patch);
        const int32_t first_y = max(tile_y - 1, 0);
        const int32_t first_x = max(tile_x - 4, 0);
        const int32_t rows = min(end_y + 1, patch) - first_y;
        const int32_t quads = (min(end_x + 4, patch) - first_x + 3) / 4;

        for (int32_t i = thread; i < rows * quads; i += threads) {
          const int32_t y = i / quads;
          const int32_t quad = i - y * quads;
          const T* row = image.data + image.offset(place.image, 0, grid.rows.clamp(top + first_y + y), 0);
          *reinterpret_cast<uint32_t*>(&grey[y][4 * quad]) =
              grey_quad<T, C>(row, image, grid.cols, left + first_x + 4 * quad, pixel_order);
        }
        __syncthreads();

        const int32_t tile_quads = (end_x - tile_x + 3) / 4;
        int32_t tile_sum = 0;  // at most 64 * 64 * 255
        for (int32_t i = thread; i < (end_y - tile_y) * tile_quads; i += threads) {
          const int32_t tile_row = i / tile_quads;
          const int32_t y = tile_y + tile_row;
          const int32_t x = tile_x + 4 * (i - tile_row * tile_quads);
          const int32_t above = reflect_101(y - 1, patch) - first_y;
          const int32_t below = reflect_101(y + 1, patch) - first_y;
          const int32_t local_x = x - first_x;
          // Of the stencil only the corners and the centre count, so a column enters as the sum of above and below.
          const auto column = [&](int32_t at) { return grey[above][at - first_x] + grey[below][at - first_x]; };
          const uint32_t above_quad = *reinterpret_cast<const uint32_t*>(&grey[above][local_x]);
          const uint32_t below_quad = *reinterpret_cast<const uint32_t*>(&grey[below][local_x]);
          const uint32_t here_quad = *reinterpret_cast<const uint32_t*>(&grey[y - first_y][local_x]);
          const auto byte = [](uint32_t quad, int k) { return static_cast<int32_t>(quad >> (8 * k) & 255u); };

          int32_t before = column(reflect_101(x - 1, patch));
          int32_t current = byte(above_quad, 0) + byte(below_quad, 0);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            if (x + k < end_x) {
              int32_t after = before;  // what reflection at the right border gives
              if (x + k + 1 < patch) {
                after = k < 3 ? byte(above_quad, k + 1) + byte(below_quad, k + 1) : column(x + 4);
              }
              tile_sum += abs_laplacian(before, after, 0, 0, byte(here_quad, k));
              before = current;
              current = after;
            }
          }
        }
        sum += tile_sum;
        __syncthreads();
      }
    }

#pragma unroll
    for (int step = 16; step > 0; step /= 2) {
      sum += __shfl_down_sync(0xffffffffu, sum, step);
    }
    if (thread % 32 == 0) {
      warp_sums[thread / 32] = sum;
    }
    __syncthreads();
    if (thread == 0) {
      for (int32_t warp = 1; warp < threads / 32; ++warp) {
        sum += warp_sums[warp];
      }
      score[index] = mean_score(sum, patch);
    }
    __syncthreads();
  }
}

}  // namespace enaf
