// SPDX-License-Identifier: Apache-2.0
#include "bicubic_patches.cuh"

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

template <int fixed_scale, typename Out, typename In>
void launch_bicubic(const Tensor& image, const int64_t* order, const PatchGrid& grid, int64_t scale,
                    const Tensor& result, bool shuffled) {
  dim3 blocks, threads;
  bicubic_shape(result.size(0), image.size(1), grid.rows.patch, blocks, threads);
  bicubic_kernel<fixed_scale><<<blocks, threads, 0, current_stream(image)>>>(
      const_view<In>(image), order, grid, static_cast<int32_t>(scale),
      bicubic_output(mutable_view<Out>(result), static_cast<int32_t>(scale), shuffled));
  ENAF_CHECK_LAUNCH();
}

// Compiled with the scale as a constant: what the runtime uses. The rest takes the general kernel.
template <typename Out, typename In>
constexpr bool has_fixed_scale = !std::is_same_v<Out, double> && (is_integral_pixel<In> || std::is_same_v<Out, In>);

template <typename Out, typename In>
void launch_bicubic_of_scale(const Tensor& image, const int64_t* order, const PatchGrid& grid, int64_t scale,
                             const Tensor& result, bool shuffled) {
  if constexpr (has_fixed_scale<Out, In>) {
    switch (scale) {
      case 2:
        return launch_bicubic<2, Out, In>(image, order, grid, scale, result, shuffled);
      case 3:
        return launch_bicubic<3, Out, In>(image, order, grid, scale, result, shuffled);
      case 4:
        return launch_bicubic<4, Out, In>(image, order, grid, scale, result, shuffled);
      default:
        break;
    }
  }
  launch_bicubic<0, Out, In>(image, order, grid, scale, result, shuffled);
}

void bicubic_patches_cuda(const Tensor& patches, const Tensor& image, const Tensor& order, int64_t patch_size,
                          int64_t overlap, int64_t scale, bool shuffled) {
  const PatchGrid grid = checked_image_grid("bicubic_patches", image, patch_size, overlap);
  check_index("bicubic_patches", "order", order, image);
  ENAF_CHECK(scale >= 1 && scale <= max_scale, "bicubic_patches: scale: expected 1 <= scale <= ", max_scale, ", got ",
             scale);
  ENAF_CHECK(order.numel() == 0 || image.size(0) > 0, "bicubic_patches: image: expected at least one image, got none");
  const int64_t in_block = shuffled ? 1 : scale * scale;
  checked_target("bicubic_patches", patches, image, order, image.size(1) * in_block,
                 shuffled ? patch_size * scale : patch_size);
  const DeviceGuard guard(image.get_device_index());
  const Tensor contiguous = torch::stable::contiguous(order);
  const auto* indices = static_cast<const int64_t*>(contiguous.const_data_ptr());
  dispatch(PixelTypes{}, image.scalar_type(), "bicubic_patches: image", [&](auto in) {
    dispatch(FloatTypes{}, patches.scalar_type(), "bicubic_patches: patches", [&](auto out) {
      using Out = typename decltype(out)::type;
      if (patches.numel() > 0) {
        launch_bicubic_of_scale<Out, typename decltype(in)::type>(image, indices, grid, scale, patches, shuffled);
      }
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "bicubic_patches", bicubic_patches_cuda);
}
