// SPDX-License-Identifier: Apache-2.0
// The launcher that gather_patches and unfold_patches share.
#pragma once

#include "gather_patches.cuh"
#include "stable.h"

namespace enaf {

// patches (M, C, P, P) is new and dense: contiguous or, if so said, channels_last. A null order stands for 0, 1, 2...
template <typename Out, typename In>
void launch_gather(const Tensor& image, const int64_t* order, const PatchGrid& grid, const Tensor& patches,
                   bool channels_last) {
  const auto view = const_view<In>(image);
  const int32_t channels = static_cast<int32_t>(view.size[1]);
  const int32_t inner = channels_last ? channels : 1;
  const bool as_stored = inner == 1 ? view.planar() : view.interleaved();
  const PatchRows<Out> rows{static_cast<Out*>(patches.mutable_data_ptr()), patches.size(0), channels / inner, inner};
  const int64_t num_rows = static_cast<int64_t>(rows.planes) * grid.rows.patch;
  const int64_t run = static_cast<int64_t>(grid.cols.patch) * inner;
  const cudaStream_t stream = current_stream(image);

  dim3 blocks, threads;
  constexpr int wide = 16 / static_cast<int>(sizeof(Out));
  if (run % wide == 0) {
    gather_shape<wide>(rows.num_selected, num_rows, run, blocks, threads);
    gather_kernel<Out, In, wide><<<blocks, threads, 0, stream>>>(view, order, grid, as_stored, rows);
  } else {
    gather_shape<1>(rows.num_selected, num_rows, run, blocks, threads);
    gather_kernel<Out, In, 1><<<blocks, threads, 0, stream>>>(view, order, grid, as_stored, rows);
  }
  ENAF_CHECK_LAUNCH();
}

}  // namespace enaf
