// SPDX-License-Identifier: Apache-2.0
// fold_patches: every output pixel sums the patches that cover it, in grid order. A thread makes V adjacent pixels of a
// row in all channels, a warp 8 such runs in 4 rows: of patches before their pixel shuffle it uses every byte of the
// lines it reads. Bytes it must move: the patches once, the output once.
#pragma once

#include "../blend.h"
#include "../tensor_view.h"
#include "pack.cuh"

namespace enaf {

constexpr int fold_threads = 256;

inline void fold_shape(int64_t batch, int64_t height, int64_t width, int V, dim3& grid, dim3& block) {
  const int64_t x = V == 1 ? 32 : 8;
  const int64_t y = fold_threads / x;
  block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), 1);
  grid = dim3(static_cast<unsigned>(at_most(divide_up(width, V * x), max_grid_x)),
              static_cast<unsigned>(at_most(divide_up(height, y), max_grid_yz)),
              static_cast<unsigned>(at_most(batch, max_grid_yz)));
}

// The widest run that one access can read: side by side in every patch, and covered by the same patches from end to
// end.
template <typename In>
int fold_run(const View4<const In>& patches, const PatchGrid& grid, int32_t scale) {
  for (const int V : {4, 2}) {
    const bool in_block = patches.stride[1] == 1 && scale % V == 0;  // the columns of a sub-pixel block
    const bool in_row = patches.stride[3] == 1 && scale == 1;
    bool fits = in_block || in_row;
    for (const int d : {0, 1, 2, 3}) {
      const bool along_run = in_block ? d == 1 : d == 3;
      fits = fits && (along_run || patches.stride[d] % V == 0);
    }
    fits = fits && grid.cols.patch % V == 0 && grid.cols.stride % V == 0 &&
           reinterpret_cast<uintptr_t>(patches.data) % (V * sizeof(In)) == 0;
    if (fits) {
      return V;
    }
  }
  return 1;
}

// place_of[order[k]] = k; the launcher has set it to -1 everywhere. A value out of range is ignored.
__global__ void __launch_bounds__(fold_threads)
    invert_order_kernel(const int64_t* __restrict__ order, int64_t num_patches, int64_t* __restrict__ place_of) {
  for (int64_t k = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < num_patches;
       k += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    const int64_t index = order[k];
    if (index >= 0 && index < num_patches) {
      place_of[index] = k;
    }
  }
}

// patches: (B*N, C*scale*scale, patch/scale, patch/scale) of any strides; place_of: (B*N,) or null for the grid's own
// order; out: (B, C, H, W) contiguous.
template <int V, typename Out, typename In>
__global__ void __launch_bounds__(fold_threads)
    fold_kernel(View4<const In> patches, const int64_t* __restrict__ place_of, PatchGrid grid, Window window,
                int32_t scale, int32_t batch, int32_t channels, Out* __restrict__ out) {
  using A = Accumulator<In>;
  const int64_t height = grid.rows.size;
  const int64_t width = grid.cols.size;
  const bool whole_runs = width % V == 0;
  const int64_t channel_step = patches.stride[1] * scale * scale;

  for (int32_t image = static_cast<int32_t>(blockIdx.z); image < batch; image += static_cast<int32_t>(gridDim.z)) {
    for (int64_t row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; row < height;
         row += static_cast<int64_t>(gridDim.y) * blockDim.y) {
      const int32_t y = static_cast<int32_t>(row);
      const AxisBlend<A> down = axis_blend<A>(grid.rows, y, window);

      for (int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V; col < width;
           col += static_cast<int64_t>(gridDim.x) * blockDim.x * V) {
        const int32_t x = static_cast<int32_t>(col);
        AxisBlend<A> along[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
          along[k] = axis_blend<A>(grid.cols, x + k, window);
        }

        // The up to four covering patches: (first row, first column), (first, second), (second, first), (second,
        // second).
        const In* source[4];
        bool covers[4];
#pragma unroll
        for (int p = 0; p < 4; ++p) {
          const int i = p / 2;
          const int j = p % 2;
          covers[p] = i < down.count && j < along[0].count;
          source[p] = patches.data;
          if (covers[p]) {
            const int32_t patch_row = down.first + i;
            const int32_t patch_col = along[0].first + j;
            const int64_t index =
                image * grid.num_patches() + static_cast<int64_t>(patch_row) * grid.cols.count + patch_col;
            const int64_t n = place_of == nullptr ? index : place_of[index];
            covers[p] = n >= 0;
            const int32_t in_y = y - grid.rows.origin(patch_row);
            const int32_t in_x = x - grid.cols.origin(patch_col);
            const int32_t dy = in_y % scale;
            const int32_t dx = in_x % scale;
            source[p] += patches.offset(n, static_cast<int64_t>(dy) * scale + dx, in_y / scale, in_x / scale);
          }
        }

        Out* target = out + (static_cast<int64_t>(image) * channels * height + y) * width + x;
        for (int32_t c = 0; c < channels; ++c) {
          A sum[V] = {};
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            if (covers[p]) {
              Pack<In, V> run = *reinterpret_cast<const Pack<In, V>*>(source[p] + c * channel_step);
#pragma unroll
              for (int k = 0; k < V; ++k) {
                sum[k] += down.weight[p / 2] * along[k].weight[p % 2] * static_cast<A>(run.value[k]);
              }
            }
          }
          Out values[V];
#pragma unroll
          for (int k = 0; k < V; ++k) {
            values[k] = to_pixel<Out>(sum[k]);
          }
          if (whole_runs) {
            store_run<V>(target, values);
          } else {
#pragma unroll
            for (int k = 0; k < V; ++k) {
              if (x + k < width) {
                target[k] = values[k];
              }
            }
          }
          target += height * width;
        }
      }
    }
  }
}

}  // namespace enaf
