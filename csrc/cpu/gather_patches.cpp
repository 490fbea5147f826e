// SPDX-License-Identifier: Apache-2.0
// gather_patches: the named patches, converted in dtype and layout on the way; writes each once.
#include <algorithm>

#include "checks.h"
#include "cpu/order.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "stable.h"

namespace {

using namespace enaf;

template <typename Out, typename In>
inline void gather_one(const View4<const In>& image, const PatchGrid& grid, int64_t index, Out* out,
                       bool channels_last) {
  const int64_t channels = image.size[1];
  const int64_t patch = grid.rows.patch;
  const PatchPlace place = grid.place(index);
  const int32_t y0 = grid.rows.origin(place.row);
  const int32_t x0 = grid.cols.origin(place.col);
  const int64_t inside = std::min<int64_t>(patch, grid.cols.size - x0);
  const int64_t plane = channels_last ? 1 : patch * patch;
  const int64_t step = channels_last ? channels : 1;
  for (int64_t y = 0; y < patch; ++y) {
    const In* in = &image.at(place.image, 0, grid.rows.clamp(y0 + y), x0);
    Out* row = out + y * patch * step;
    if (channels_last) {
      interleaved_row(row, image, in, inside);
    } else {
      planar_row(row, plane, image, in, inside);
    }
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t x = inside; x < patch; ++x) {
        row[c * plane + x * step] = row[c * plane + (inside - 1) * step];
      }
    }
  }
}

template <typename Out, typename In>
void gather(const Tensor& image, const PatchGrid& grid, const int64_t* order, const Tensor& patches,
            bool channels_last) {
  const auto view = const_view<In>(image);
  Out* out = static_cast<Out*>(patches.mutable_data_ptr());
  const int64_t elements = view.size[1] * grid.rows.patch * grid.rows.patch;
  const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, elements));
  torch::stable::parallel_for(0, patches.size(0), grain, [&](int64_t begin, int64_t end) {
    vectorised([&] {
      for (int64_t k = begin; k < end; ++k) {
        gather_one(view, grid, order[k], out + k * elements, channels_last);
      }
    });
  });
}

Tensor gather_patches_cpu(const Tensor& image, const Tensor& order, int64_t patch_size, int64_t overlap,
                          ScalarType dtype, bool channels_last) {
  const PatchGrid grid = checked_image_grid("gather_patches", image, patch_size, overlap);
  const Tensor checked = checked_order("gather_patches", order, image, image.size(0) * grid.num_patches());
  const Tensor patches = empty_on(image, {order.size(0), image.size(1), patch_size, patch_size}, dtype, channels_last);
  const auto* indices = static_cast<const int64_t*>(checked.const_data_ptr());
  dispatch(PixelTypes{}, image.scalar_type(), "gather_patches: image", [&](auto in) {
    using In = typename decltype(in)::type;
    if (dtype == image.scalar_type()) {
      gather<In, In>(image, grid, indices, patches, channels_last);
    } else {
      dispatch(FloatTypes{}, dtype, "gather_patches: dtype", [&](auto out) {
        gather<typename decltype(out)::type, In>(image, grid, indices, patches, channels_last);
      });
    }
  });
  return patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "gather_patches", gather_patches_cpu);
}
