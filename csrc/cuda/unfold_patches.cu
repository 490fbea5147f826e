// SPDX-License-Identifier: Apache-2.0
// unfold_patches: the gather kernel with every patch named in order.
#include "checks.h"
#include "launch_gather.cuh"

namespace {

using namespace enaf;

Tensor unfold_patches_cuda(const Tensor& image, int64_t patch_size, int64_t overlap) {
  const PatchGrid grid = checked_image_grid("unfold_patches", image, patch_size, overlap);
  const DeviceGuard guard(image.get_device_index());
  const int64_t num_patches = image.size(0) * grid.num_patches();
  const Tensor patches = empty_on(image, {num_patches, image.size(1), patch_size, patch_size}, image.scalar_type());
  dispatch(PixelTypes{}, image.scalar_type(), "unfold_patches: image", [&](auto type) {
    using T = typename decltype(type)::type;
    if (patches.numel() > 0) {
      launch_gather<T, T>(image, nullptr, grid, patches, false);
    }
  });
  return patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "unfold_patches", unfold_patches_cuda);
}
