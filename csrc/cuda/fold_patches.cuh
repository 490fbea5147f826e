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

// Whether runs of V pixels from the beginning of every row on can be stored at once.
template <int V, typename Out>
ENAF_HOST_DEVICE bool aligned_runs(const View4<Out>& out) {
  return out.size[3] % V == 0 && out.stride[0] % V == 0 && out.stride[1] % V == 0 &&
         reinterpret_cast<uintptr_t>(out.data) % (V * sizeof(Out)) == 0;
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
// order; out: (B, C, rows, W), rows [top, top + rows) of the images, each of them without gaps.
template <int V, typename Out, typename In>
__global__ void __launch_bounds__(fold_threads, 3)
    fold_kernel(View4<const In> patches, const int64_t* __restrict__ place_of, PatchGrid grid, Window window,
                int32_t scale, int32_t top, View4<Out> out) {
  using A = Accumulator<In>;
  const int64_t height = out.size[2];
  const int64_t width = grid.cols.size;
  const uint32_t size = static_cast<uint32_t>(scale);  // division is cheaper without a sign
  const bool whole_runs = aligned_runs<V>(out);
  const int64_t channel_step = patches.stride[1] * scale * scale;

  for (int32_t image = static_cast<int32_t>(blockIdx.z); image < out.size[0];
       image += static_cast<int32_t>(gridDim.z)) {
    for (int64_t row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; row < height;
         row += static_cast<int64_t>(gridDim.y) * blockDim.y) {
      const int32_t y = top + static_cast<int32_t>(row);
      const AxisBlend<A> down = axis_blend<A>(grid.rows, y, window);
      int64_t offset_y[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t in_y = static_cast<uint32_t>(y - grid.rows.origin(down.first + (i < down.count ? i : 0)));
        offset_y[i] = in_y / size * patches.stride[2] + in_y % size * scale * patches.stride[1];
      }

      for (int64_t col = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * V; col < width;
           col += static_cast<int64_t>(gridDim.x) * blockDim.x * V) {
        const int32_t x = static_cast<int32_t>(col);
        const Cover across = grid.cols.cover(x);  // of the whole run
        AxisBlend<A> along[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
          along[k] = axis_blend<A>(grid.cols, across, x + k, window);
        }

        // The up to four covering patches: (first row, first column), (first, second), (second, first), (second,
        // second).
        const In* source[4];
        bool covers[4];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int32_t patch_col = across.first + (j < across.count ? j : 0);
          const uint32_t in_x = static_cast<uint32_t>(x - grid.cols.origin(patch_col));
          const int64_t offset_x = in_x / size * patches.stride[3] + in_x % size * patches.stride[1];
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            const int p = 2 * i + j;
            covers[p] = i < down.count && j < across.count;
            source[p] = patches.data;
            if (covers[p]) {
              const int64_t patch_row = static_cast<int64_t>(image) * grid.rows.count + down.first + i;
              const int64_t index = patch_row * grid.cols.count + patch_col;
              const int64_t n = place_of == nullptr ? index : place_of[index];
              covers[p] = n >= 0;
              source[p] += (n < 0 ? 0 : n) * patches.stride[0] + offset_y[i] + offset_x;
            }
          }
        }

        Out* target = &out.at(image, 0, row, x);
        for (int32_t c = 0; c < out.size[1]; ++c) {
          A sum[V] = {};
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            if (covers[p]) {
              In run[V];
              load_aligned<V>(source[p] + c * channel_step, run);
#pragma unroll
              for (int k = 0; k < V; ++k) {
                sum[k] += down.weight[p / 2] * along[k].weight[p % 2] * static_cast<A>(run[k]);
              }
            }
          }
          Out values[V];
#pragma unroll
          for (int k = 0; k < V; ++k) {
            values[k] = to_pixel<Out>(sum[k]);
          }
          if (whole_runs) {
            store_aligned<V>(target, values);
          } else {
#pragma unroll
            for (int k = 0; k < V; ++k) {
              if (x + k < width) {
                target[k] = values[k];
              }
            }
          }
          target += out.stride[1];
        }
      }
    }
  }
}

}  // namespace enaf
