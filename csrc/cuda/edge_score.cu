// SPDX-License-Identifier: Apache-2.0
#include "edge_score.cuh"

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

template <typename T>
PixelOrder pixel_order(const View4<const T>& image) {
  if (image.interleaved()) {
    return PixelOrder::interleaved;
  }
  return image.planar() ? PixelOrder::planar : PixelOrder::strided;
}

template <typename T, int C>
void launch_edge_score(const Tensor& image, const PatchGrid& grid, const Tensor& score) {
  dim3 blocks, threads;
  edge_score_shape(score.numel(), grid.rows.patch, blocks, threads);
  const auto view = const_view<T>(image);
  edge_score_kernel<T, C><<<blocks, threads, 0, current_stream(image)>>>(view, grid, pixel_order(view),
                                                                         static_cast<float*>(score.mutable_data_ptr()));
  ENAF_CHECK_LAUNCH();
}

Tensor edge_score_cuda(const Tensor& image, int64_t patch_size, int64_t overlap) {
  const PatchGrid grid = checked_image_grid("edge_score", image, patch_size, overlap);
  ENAF_CHECK(image.size(1) == 1 || image.size(1) == 3, "edge_score: image: expected 1 or 3 channels, got ",
             image.size(1));
  const DeviceGuard guard(image.get_device_index());
  const Tensor score = empty_on(image, {image.size(0) * grid.num_patches()}, ScalarType::Float);
  if (score.numel() == 0) {
    return score;
  }
  dispatch(ScoredTypes{}, image.scalar_type(), "edge_score: image", [&](auto type) {
    using T = typename decltype(type)::type;
    if (image.size(1) == 3) {
      launch_edge_score<T, 3>(image, grid, score);
    } else {
      launch_edge_score<T, 1>(image, grid, score);
    }
  });
  return score;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "edge_score", edge_score_cuda);
}
