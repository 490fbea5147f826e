// SPDX-License-Identifier: Apache-2.0
// unfold_patches: every patch of the grid, copied. It reads the image about once and writes each patch once.
#include <algorithm>
#include <cstring>

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

// Rows of patches are short: a call of memcpy costs as much as the copy.
inline void copy_bytes(char* out, const char* in, int64_t bytes) {
  int64_t i = 0;
  for (; i + 32 <= bytes; i += 32) {
    __builtin_memcpy(out + i, in + i, 32);
  }
  if (i < bytes) {
    std::memcpy(out + i, in + i, bytes - i);
  }
}

// One row of a patch, of which the first `inside` pixels lie in the image.
template <typename T>
void copy_row(T* out, const T* in, int64_t in_stride, int64_t inside, int64_t patch) {
  if (in_stride == 1) {
    copy_bytes(reinterpret_cast<char*>(out), reinterpret_cast<const char*>(in), inside * sizeof(T));
  } else {
    for (int64_t x = 0; x < inside; ++x) {
      out[x] = in[x * in_stride];
    }
  }
  for (int64_t x = inside; x < patch; ++x) {
    out[x] = out[inside - 1];
  }
}

template <typename T>
void unfold_rows(const View4<const T>& image, const PatchGrid& grid, T* patches, int64_t begin, int64_t end) {
  const int64_t channels = image.size[1];
  const int32_t patch = grid.rows.patch;
  T* out = patches + begin * channels * patch * patch;
  for (int64_t index = begin; index < end; ++index) {
    const PatchPlace place = grid.place(index);
    const int32_t y0 = grid.rows.origin(place.row);
    const int32_t x0 = grid.cols.origin(place.col);
    const int64_t inside = std::min<int64_t>(patch, grid.cols.size - x0);
    for (int64_t c = 0; c < channels; ++c) {
      for (int32_t y = 0; y < patch; ++y, out += patch) {
        copy_row(out, &image.at(place.image, c, grid.rows.clamp(y0 + y), x0), image.stride[3], inside, patch);
      }
    }
  }
}

Tensor unfold_patches_cpu(const Tensor& image, int64_t patch_size, int64_t overlap) {
  const PatchGrid grid = checked_image_grid("unfold_patches", image, patch_size, overlap);
  const int64_t channels = image.size(1);
  const int64_t count = image.size(0) * grid.num_patches();
  const Tensor patches = empty_on(image, {count, channels, patch_size, patch_size}, image.scalar_type());
  dispatch(PixelTypes{}, image.scalar_type(), "unfold_patches: image", [&](auto type) {
    using T = typename decltype(type)::type;
    const auto view = const_view<T>(image);
    T* out = static_cast<T*>(patches.mutable_data_ptr());
    const int64_t grain = std::max<int64_t>(1, 32768 / std::max<int64_t>(1, channels * patch_size * patch_size));
    torch::stable::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
      unfold_rows(view, grid, out, begin, end);
    });
  });
  return patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) { ENAF_IMPL(m, "unfold_patches", unfold_patches_cpu); }
