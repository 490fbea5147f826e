// SPDX-License-Identifier: Apache-2.0
#include "checks.h"
#include "launch_gather.cuh"

namespace {

using namespace enaf;

Tensor gather_patches_cuda(const Tensor& image, const Tensor& order, int64_t patch_size, int64_t overlap,
                           ScalarType dtype, bool channels_last) {
  const PatchGrid grid = checked_image_grid("gather_patches", image, patch_size, overlap);
  check_index("gather_patches", "order", order, image);
  ENAF_CHECK(order.numel() == 0 || image.size(0) > 0, "gather_patches: image: expected at least one image, got none");
  const DeviceGuard guard(image.get_device_index());
  const Tensor patches = empty_on(image, {order.size(0), image.size(1), patch_size, patch_size}, dtype, channels_last);
  const Tensor contiguous = torch::stable::contiguous(order);
  const auto* indices = static_cast<const int64_t*>(contiguous.const_data_ptr());
  dispatch(PixelTypes{}, image.scalar_type(), "gather_patches: image", [&](auto in) {
    using In = typename decltype(in)::type;
    if (dtype == image.scalar_type()) {
      if (patches.numel() > 0) {
        launch_gather<In, In>(image, indices, grid, patches, channels_last);
      }
      return;
    }
    dispatch(FloatTypes{}, dtype, "gather_patches: dtype", [&](auto out) {
      using Out = typename decltype(out)::type;
      if constexpr (!std::is_same_v<Out, In>) {
        if (patches.numel() > 0) {
          launch_gather<Out, In>(image, indices, grid, patches, channels_last);
        }
      }
    });
  });
  return patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "gather_patches", gather_patches_cuda);
}
