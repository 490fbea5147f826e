// SPDX-License-Identifier: Apache-2.0
// edge_score: mean |Laplacian| of every patch, from one pass over the image. A row of patches shares its grey rows and
// its map of |L|; only at a patch's own left and right border, where reflection replaces a neighbour, is |L| computed
// again.
#include <algorithm>
#include <vector>

#include "checks.h"
#include "cpu/simd.h"
#include "laplacian.h"
#include "stable.h"

namespace {

using namespace enaf;

// Column sums of 8-bit values stay below 2^16 for so many rows.
constexpr int32_t rows_per_sum = 256;

template <typename T>
inline void grey_row(int16_t* __restrict grey, const View4<const T>& image, int64_t n, int64_t y) {
  const int64_t width = image.size[3];
  const int64_t step = image.stride[3];
  const T* __restrict r = &image.at(n, 0, y, 0);
  if (image.size[1] == 1) {
    for (int64_t x = 0; x < width; ++x) {
      grey[x] = static_cast<int16_t>(to_level(r[x * step]));
    }
    return;
  }
  const T* __restrict g = r + image.stride[1];
  const T* __restrict b = g + image.stride[1];
  if (step == 1) {
    for (int64_t x = 0; x < width; ++x) {
      grey[x] = static_cast<int16_t>(grey_level(to_level(r[x]), to_level(g[x]), to_level(b[x])));
    }
  } else if (image.interleaved()) {
    for (int64_t x = 0; x < width; ++x) {
      grey[x] = static_cast<int16_t>(grey_level(to_level(r[3 * x]), to_level(r[3 * x + 1]), to_level(r[3 * x + 2])));
    }
  } else {
    for (int64_t x = 0; x < width; ++x) {
      grey[x] = static_cast<int16_t>(grey_level(to_level(r[x * step]), to_level(g[x * step]), to_level(b[x * step])));
    }
  }
}

// sums[x] += |L|(x) for 1 <= x < width - 1; pairs[x] is the sum of the grey values above and below x.
inline void add_row(uint16_t* __restrict sums, int16_t* __restrict pairs, const int16_t* __restrict above,
                    const int16_t* __restrict here, const int16_t* __restrict below, int32_t width) {
  for (int32_t x = 0; x < width; ++x) {
    pairs[x] = static_cast<int16_t>(above[x] + below[x]);
  }
  for (int32_t x = 1; x < width - 1; ++x) {
    const int16_t around = static_cast<int16_t>(pairs[x - 1] + pairs[x + 1] - 4 * here[x]);
    const int16_t magnitude = static_cast<int16_t>(2 * (around < 0 ? -around : around));
    sums[x] = static_cast<uint16_t>(sums[x] + (magnitude < 255 ? magnitude : 255));
  }
}

// totals[col] += |L| of the patch's first and last pixel of a row, where reflection makes both neighbours the inner
// one.
inline void add_borders(int64_t* __restrict totals, const int16_t* __restrict pairs, const int16_t* __restrict here,
                        const PatchAxis& cols) {
  const int32_t last = cols.patch - 1;
  for (int32_t col = 0; col < cols.count; ++col) {
    const int32_t x0 = cols.origin(col);
    const int32_t west = pairs[x0 + 1];
    const int32_t east = pairs[x0 + last - 1];
    totals[col] += abs_laplacian(west, west, 0, 0, here[x0]) + abs_laplacian(east, east, 0, 0, here[x0 + last]);
  }
}

// The scores of the patches of one grid row of one image.
template <typename T>
inline void score_row(const View4<const T>& image, const PatchGrid& grid, int64_t n, int32_t row, float* scores) {
  const int32_t patch = grid.rows.patch;
  if (patch == 1) {  // reflected onto itself, a lone pixel has no edge
    std::fill_n(scores, grid.cols.count, 0.0f);
    return;
  }
  const int32_t width = grid.cols.origin(grid.cols.count - 1) + patch;
  const int32_t y0 = grid.rows.origin(row);
  std::vector<int16_t> grey(static_cast<size_t>(patch) * width);
  std::vector<int16_t> pairs(width);
  std::vector<uint16_t> sums(width);
  std::vector<int64_t> totals(grid.cols.count, 0);
  for (int32_t y = 0; y < patch; ++y) {
    int16_t* line = grey.data() + static_cast<int64_t>(y) * width;
    grey_row(line, image, n, grid.rows.clamp(y0 + y));
    std::fill(line + image.size[3], line + width, line[image.size[3] - 1]);
  }
  const auto line = [&](int32_t y) { return grey.data() + static_cast<int64_t>(reflect_101(y, patch)) * width; };
  for (int32_t start = 0; start < patch; start += rows_per_sum) {
    std::fill(sums.begin(), sums.end(), uint16_t(0));
    for (int32_t y = start; y < std::min(patch, start + rows_per_sum); ++y) {
      const int16_t* here = line(y);
      add_row(sums.data(), pairs.data(), line(y - 1), here, line(y + 1), width);
      add_borders(totals.data(), pairs.data(), here, grid.cols);
    }
    for (int32_t col = 0; col < grid.cols.count; ++col) {
      const uint16_t* inner = sums.data() + grid.cols.origin(col);
      int64_t sum = 0;
      for (int32_t x = 1; x < patch - 1; ++x) {
        sum += inner[x];
      }
      totals[col] += sum;
    }
  }
  for (int32_t col = 0; col < grid.cols.count; ++col) {
    scores[col] = mean_score(totals[col], patch);
  }
}

Tensor edge_score_cpu(const Tensor& image, int64_t patch_size, int64_t overlap) {
  const PatchGrid grid = checked_image_grid("edge_score", image, patch_size, overlap);
  ENAF_CHECK(image.size(1) == 1 || image.size(1) == 3, "edge_score: image: expected 1 or 3 channels, got ",
             image.size(1));
  const int64_t count = image.size(0) * grid.num_patches();
  const Tensor scores = empty_on(image, {count}, ScalarType::Float);
  float* out = static_cast<float*>(scores.mutable_data_ptr());
  dispatch(ScoredTypes{}, image.scalar_type(), "edge_score: image", [&](auto type) {
    using T = typename decltype(type)::type;
    const auto view = const_view<T>(image);
    torch::stable::parallel_for(0, image.size(0) * grid.rows.count, 1, [&](int64_t begin, int64_t end) {
      vectorised([&] {
        for (int64_t k = begin; k < end; ++k) {
          score_row(view, grid, k / grid.rows.count, static_cast<int32_t>(k % grid.rows.count),
                    out + k * grid.cols.count);
        }
      });
    });
  });
  return scores;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "edge_score", edge_score_cpu);
}
