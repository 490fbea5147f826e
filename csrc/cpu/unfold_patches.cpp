// SPDX-License-Identifier: Apache-2.0
// unfold_patches: every patch of the grid, copied. It reads the image about once and writes each patch once.
#include <algorithm>
#include <cstring>

#include "checks.h"
#include "cpu/simd.h"
#include "stable.h"

namespace {

using namespace enaf;

// Rows of patches are short: a call of memcpy costs as much as the copy. B bytes, a power of two, or any if 0.
template <int B>
inline void copy_rows(char* __restrict out, const char* __restrict in, int64_t in_step, int64_t rows, int64_t bytes) {
  for (int64_t y = 0; y < rows; ++y, in += in_step) {
    if constexpr (B > 0) {
      __builtin_memcpy(out, in, B);
      out += B;
    } else {
      std::memcpy(out, in, bytes);
      out += bytes;
    }
  }
}

inline void copy_rows(char* out, const char* in, int64_t in_step, int64_t rows, int64_t bytes) {
  switch (bytes) {
    case 32:
      return copy_rows<32>(out, in, in_step, rows, bytes);
    case 64:
      return copy_rows<64>(out, in, in_step, rows, bytes);
    case 128:
      return copy_rows<128>(out, in, in_step, rows, bytes);
    default:
      return copy_rows<0>(out, in, in_step, rows, bytes);
  }
}

// A channel of a patch, of which `rows` x `cols` pixels lie in the image.
template <typename T>
inline void unfold_plane(T* out, const T* in, int64_t row_stride, int64_t col_stride, int64_t rows, int64_t cols,
                         int64_t patch) {
  if (col_stride == 1 && cols == patch) {
    copy_rows(reinterpret_cast<char*>(out), reinterpret_cast<const char*>(in), row_stride * sizeof(T), rows,
              patch * sizeof(T));
  } else {
    for (int64_t y = 0; y < rows; ++y) {
      for (int64_t x = 0; x < patch; ++x) {
        out[y * patch + x] = in[y * row_stride + std::min(x, cols - 1) * col_stride];
      }
    }
  }
  for (int64_t y = rows; y < patch; ++y) {
    std::copy_n(out + (rows - 1) * patch, patch, out + y * patch);
  }
}

template <typename T>
inline void unfold_range(const View4<const T>& image, const PatchGrid& grid, T* out, int64_t begin, int64_t end) {
  const int64_t patch = grid.rows.patch;
  for (int64_t index = begin; index < end; ++index) {
    const PatchPlace place = grid.place(index);
    const int32_t y0 = grid.rows.origin(place.row);
    const int32_t x0 = grid.cols.origin(place.col);
    const int64_t rows = std::min<int64_t>(patch, grid.rows.size - y0);
    const int64_t cols = std::min<int64_t>(patch, grid.cols.size - x0);
    for (int64_t c = 0; c < image.size[1]; ++c, out += patch * patch) {
      unfold_plane(out, &image.at(place.image, c, y0, x0), image.stride[2], image.stride[3], rows, cols, patch);
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
      T* first = out + begin * channels * patch_size * patch_size;
      vectorised([&] { unfold_range(view, grid, first, begin, end); });
    });
  });
  return patches;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "unfold_patches", unfold_patches_cpu);
}
