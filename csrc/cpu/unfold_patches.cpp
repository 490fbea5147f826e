// SPDX-License-Identifier: Apache-2.0
// unfold_patches: every patch of the grid, copied. Each row of the image is read from its beginning to its end and
// dealt out to the patches over it: memory is fetched ahead along rows, not across the rows of a patch.
#include <algorithm>
#include <cstring>

#include "checks.h"
#include "cpu/simd.h"
#include "stable.h"

namespace {

using namespace enaf;

// Rows of patches are short: a call of memcpy costs as much as the copy. B bytes, a power of two, or any if 0.
template <int B>
inline void copy_pieces(char* __restrict out, int64_t out_step, const char* __restrict in, int64_t in_step,
                        int64_t count, int64_t bytes) {
  for (int64_t k = 0; k < count; ++k, in += in_step, out += out_step) {
    if constexpr (B > 0) {
      __builtin_memcpy(out, in, B);
    } else {
      std::memcpy(out, in, bytes);
    }
  }
}

inline void copy_pieces(char* out, int64_t out_step, const char* in, int64_t in_step, int64_t count, int64_t bytes) {
  switch (bytes) {
    case 32:
      return copy_pieces<32>(out, out_step, in, in_step, count, bytes);
    case 64:
      return copy_pieces<64>(out, out_step, in, in_step, count, bytes);
    case 128:
      return copy_pieces<128>(out, out_step, in, in_step, count, bytes);
    default:
      return copy_pieces<0>(out, out_step, in, in_step, count, bytes);
  }
}

// What a row `in` of the image gives to the patches over it, which are `step` apart.
template <typename T>
inline void unfold_row(T* out, int64_t step, const T* in, int64_t pixel, const PatchAxis& cols) {
  const int64_t whole = pixel == 1 ? cols.count - (cols.origin(cols.count - 1) + cols.patch > cols.size) : 0;
  copy_pieces(reinterpret_cast<char*>(out), step * sizeof(T), reinterpret_cast<const char*>(in),
              cols.stride * sizeof(T), whole, cols.patch * sizeof(T));
  for (int64_t col = whole; col < cols.count; ++col) {
    for (int32_t x = 0; x < cols.patch; ++x) {
      out[col * step + x] = in[cols.clamp(cols.origin(col) + x) * pixel];
    }
  }
}

// One channel of the rows of patches [begin, end) after another.
template <typename T>
inline void unfold_range(const View4<const T>& image, const PatchGrid& grid, T* out, int64_t begin, int64_t end) {
  const int64_t patch = grid.rows.patch;
  const int64_t channels = image.size[1];
  const int64_t step = channels * patch * patch;
  for (int64_t k = begin; k < end; ++k) {
    const int64_t row = k / channels;
    const int64_t channel = k % channels;
    T* first = out + row * grid.cols.count * step + channel * patch * patch;
    for (int32_t y = 0; y < patch; ++y) {
      const int64_t y_in = grid.rows.clamp(grid.rows.origin(row % grid.rows.count) + y);
      const T* in = &image.at(row / grid.rows.count, channel, y_in, 0);
      unfold_row(first + y * patch, step, in, image.stride[3], grid.cols);
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
    const int64_t values = grid.cols.count * patch_size * patch_size;  // of a row of patches and channel
    const int64_t grain = std::max<int64_t>(1, 32768 / values);
    torch::stable::parallel_for(0, image.size(0) * grid.rows.count * channels, grain, [&](int64_t begin, int64_t end) {
      vectorised([&] { unfold_range(view, grid, out, begin, end); });
    });
  });
  return patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "unfold_patches", unfold_patches_cpu);
}
