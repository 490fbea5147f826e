// SPDX-License-Identifier: Apache-2.0
// gather_patches and unfold_patches: copies the named patches out of the image, converting dtype and layout on the way.
// A thread writes V adjacent values of a patch's row (16 bytes where rows allow it), its block a band of rows of a
// patch or, for small patches, several patches. Bytes it must move: the image once, the patches once.
#pragma once

#include "../patch_grid.h"
#include "../tensor_view.h"
#include "pack.cuh"

namespace enaf {

// The output in memory: M patches of `planes` x patch_size rows of patch_size x `inner` values. Planar: planes = C,
// inner = 1; interleaved (channels_last): planes = 1, inner = C.
template <typename Out>
struct PatchRows {
  Out* data;
  int64_t num_selected;
  int32_t planes;
  int32_t inner;
};

constexpr int gather_threads = 256;
constexpr int gather_rows_a_thread = 8;  // spreads the cost of finding the patch

template <int V>
void gather_shape(int64_t num_selected, int64_t rows, int64_t run, dim3& grid, dim3& block) {
  const int64_t x = at_most(run / V, gather_threads);
  const int64_t passes = at_most(divide_up(rows, gather_threads / x), gather_rows_a_thread);
  const int64_t y = at_most(divide_up(rows, passes), gather_threads / x);
  const int64_t z = at_most(gather_threads / (x * y), 64);
  block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(z));
  grid = dim3(static_cast<unsigned>(at_most(divide_up(num_selected, z), max_grid_x)),
              static_cast<unsigned>(at_most(divide_up(rows, y * passes), max_grid_yz)), 1);
}

// order (M,) names patches; null stands for 0, 1, 2... A value out of range is clamped: nothing waits for the device to
// complain. as_stored: the image's values lie side by side in the output's own order, so that a run can be copied.
template <typename Out, typename In, int V>
__global__ void __launch_bounds__(gather_threads)
    gather_kernel(View4<const In> image, const int64_t* __restrict__ order, PatchGrid grid, bool as_stored,
                  PatchRows<Out> patches) {
  const int32_t patch = grid.rows.patch;
  const int32_t inner = patches.inner;
  const int64_t rows = static_cast<int64_t>(patches.planes) * patch;
  const int64_t run = static_cast<int64_t>(patch) * inner;
  const int64_t last_index = image.size[0] * grid.num_patches() - 1;

  const int64_t first = static_cast<int64_t>(blockIdx.x) * blockDim.z + threadIdx.z;
  for (int64_t m = first; m < patches.num_selected; m += static_cast<int64_t>(gridDim.x) * blockDim.z) {
    const int64_t index = order == nullptr ? m : order[m];
    const PatchPlace place = grid.place(index < 0 ? 0 : at_most(index, last_index));
    const int32_t top = grid.rows.origin(place.row);
    const int32_t left = grid.cols.origin(place.col);

    for (int64_t row = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; row < rows;
         row += static_cast<int64_t>(gridDim.y) * blockDim.y) {
      const int32_t plane = patches.planes == 1 ? 0 : static_cast<int32_t>(row / patch);
      const int32_t y = grid.rows.clamp(top + static_cast<int32_t>(row - static_cast<int64_t>(plane) * patch));
      const In* source = image.data + image.offset(place.image, plane, y, 0);
      Out* target = patches.data + (m * rows + row) * run;

      for (int64_t i = static_cast<int64_t>(threadIdx.x) * V; i < run; i += static_cast<int64_t>(blockDim.x) * V) {
        int32_t x = left + static_cast<int32_t>(i / inner);
        int32_t c = static_cast<int32_t>(i % inner);
        In values[V];
        if (as_stored && left + (i + V - 1) / inner < image.size[3]) {
          load_run<V>(source + static_cast<int64_t>(left) * inner + i, values);
        } else {
#pragma unroll
          for (int k = 0; k < V; ++k) {
            values[k] = source[grid.cols.clamp(x) * image.stride[3] + c * image.stride[1]];
            if (++c == inner) {
              c = 0;
              ++x;
            }
          }
        }
        Out converted[V];
#pragma unroll
        for (int k = 0; k < V; ++k) {
          converted[k] = fast_convert_pixel<Out>(values[k]);
        }
        store_aligned<V>(target + i, converted);
      }
    }
  }
}

}  // namespace enaf
