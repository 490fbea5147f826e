// SPDX-License-Identifier: Apache-2.0
// fold_patches: every output row gathers the patches that cover it, in grid order. What covers a row, and where along
// it patches overlap, is settled outside the inner loops, which are plain multiply-adds over a stretch of one patch's
// row.
#include <algorithm>
#include <functional>
#include <optional>
#include <vector>

#include "blend.h"
#include "checks.h"
#include "cpu/finish.h"
#include "cpu/order.h"
#include "cpu/simd.h"
#include "stable.h"

namespace {

using namespace enaf;

template <typename A>
struct Plan {
  PatchGrid grid;
  Window window;
  int32_t channels;
  int32_t scale;           // s: pixels of the patches' rows come from s * s channels (1: the patches are images)
  int32_t top, bottom;     // rows of the images that are wanted
  int64_t image, plane;    // strides of the result's images and channels
  std::vector<A> weights;  // of a patch's columns: [has a right neighbour][has a left neighbour][x]

  const A* column_weights(int32_t col) const {
    const int32_t variant = 2 * (col + 1 < grid.cols.count) + (col > 0);
    return weights.data() + static_cast<int64_t>(variant) * grid.cols.patch;
  }
};

// The patches of all parts, where each index of the grid finds its own.
template <typename In>
struct Patches {
  std::vector<const In*> first;  // value of each grid index's patch
  int64_t channel, row, pixel;   // strides

  const In* at(int64_t index, int64_t c, int64_t y) const { return first[index] + c * channel + y * row; }
};

template <typename In>
Patches<In> placed_patches(const std::vector<Tensor>& parts, const std::optional<Tensor>& order, int64_t count) {
  const Tensor& any = parts.front();
  Patches<In> patches{std::vector<const In*>(count), any.stride(1), any.stride(2), any.stride(3)};
  const Tensor indices = order.has_value() ? checked_permutation("fold_patches", *order, any, count) : any;
  const auto* index = order.has_value() ? static_cast<const int64_t*>(indices.const_data_ptr()) : nullptr;
  int64_t k = 0;
  for (const Tensor& part : parts) {
    const In* data = static_cast<const In*>(part.const_data_ptr());
    for (int64_t n = 0; n < part.size(0); ++n, ++k) {
      patches.first[index == nullptr ? k : index[k]] = data + n * part.stride(0);
    }
  }
  return patches;
}

template <typename A>
std::vector<A> column_weights(const PatchGrid& grid, Window window) {
  const int32_t patch = grid.cols.patch;
  const int32_t overlap = grid.cols.overlap();
  // Three patches of these columns hold one of each kind; a lone one is the fourth.
  const PatchAxis three = make_patch_axis(patch + 2 * static_cast<int64_t>(patch - overlap), patch, overlap);
  std::vector<A> weights(4 * static_cast<size_t>(patch), A(1));
  const int32_t variants[3] = {2, 3, 1};
  for (int32_t col = 0; col < 3; ++col) {
    for (int32_t x = 0; x < patch; ++x) {
      const AxisBlend<A> blend = axis_blend<A>(three, three.origin(col) + x, window);
      weights[static_cast<size_t>(variants[col]) * patch + x] = blend.weight[col - blend.first];
    }
  }
  return weights;
}

// N neighbouring pixels times their weights, stored or added.
template <int N, bool add, typename In, typename A>
inline void blend_pack(A* out, const In* in, const A* weights, A row_weight) {
  Pack<A, N> value{}, weight{}, before{};
  load<N, A>(value, in);
  load<N, A>(weight, weights);
  value *= row_weight * weight;
  if constexpr (add) {
    load<N, A>(before, out);
    value = before + value;
  }
  store<N>(out, value);
}

// Pixels [begin, end) of a patch's row times their weights, stored or added. Pixel i is in[(i / S) * pixel + (i % S) *
// phase].
template <int S, bool add, typename In, typename A>
inline void blend_stretch(A* __restrict out, const In* __restrict in, int64_t pixel, int64_t phase, int32_t scale,
                          const A* __restrict weights, A row_weight, int32_t begin, int32_t end) {
  const int32_t s = S > 0 ? S : scale;
  const auto put = [&](int32_t i) {
    const A weighted = (row_weight * weights[i]) * static_cast<A>(in[(i / s) * pixel + (i % s) * phase]);
    out[i] = add ? out[i] + weighted : weighted;
  };
  int32_t i = begin;
  if constexpr (S == 1) {
    for (; pixel == 1 && i + 4 <= end; i += 4) {
      blend_pack<4, add>(out + i, in + i, weights + i, row_weight);
    }
  } else if constexpr (S == 2 || S == 4) {
    for (; i < end && i % S != 0; ++i) {
      put(i);
    }
    for (; phase == 1 && i + S <= end; i += S) {
      blend_pack<S, add>(out + i, in + (i / S) * pixel, weights + i, row_weight);
    }
  }
  for (; i < end; ++i) {
    put(i);
  }
}

// Output rows [y_begin, y_end) of one image; channel c of row y begins at rows[c * channel_step + (y - y_begin) *
// width].
template <int S, typename In, typename A>
inline void fold_rows(const Patches<In>& patches, const Plan<A>& plan, int64_t image, int32_t y_begin, int32_t y_end,
                      std::vector<AxisBlend<A>>& blends, A* rows, int64_t channel_step) {
  const PatchGrid& grid = plan.grid;
  const int32_t scale = S > 0 ? S : plan.scale;
  const int32_t width = grid.cols.size;
  for (int32_t y = y_begin; y < y_end; ++y) {
    blends[y - y_begin] = axis_blend<A>(grid.rows, y, plan.window);
  }
  const AxisBlend<A>& bottom = blends[y_end - 1 - y_begin];
  for (int32_t row = blends[0].first; row < bottom.first + bottom.count; ++row) {
    for (int32_t col = 0; col < grid.cols.count; ++col) {
      const int64_t index = image * grid.num_patches() + static_cast<int64_t>(row) * grid.cols.count + col;
      const int32_t x0 = grid.cols.origin(col);
      const int32_t inside = std::min(grid.cols.patch, width - x0);
      const int32_t shared = col > 0 ? std::min(grid.cols.overlap(), inside) : 0;
      const A* weights = plan.column_weights(col);
      for (int32_t y = y_begin; y < y_end; ++y) {
        const AxisBlend<A>& blend = blends[y - y_begin];
        if (row < blend.first || row >= blend.first + blend.count) {
          continue;
        }
        const A row_weight = blend.weight[row - blend.first];
        const int32_t local = y - grid.rows.origin(row);
        for (int32_t c = 0; c < plan.channels; ++c) {
          const In* in = patches.at(index, (c * scale + local % scale) * scale, local / scale);
          A* out = rows + c * channel_step + static_cast<int64_t>(y - y_begin) * width + x0;
          const int64_t pixel = patches.pixel;
          const int64_t phase = patches.channel;
          // The first patch row to reach a pixel from the left stores; whatever comes after adds.
          if (row == blend.first) {
            blend_stretch<S, true>(out, in, pixel, phase, scale, weights, row_weight, 0, shared);
            blend_stretch<S, false>(out, in, pixel, phase, scale, weights, row_weight, shared, inside);
          } else {
            blend_stretch<S, true>(out, in, pixel, phase, scale, weights, row_weight, 0, inside);
          }
        }
      }
    }
  }
}

// Sums to pixels of the result's dtype: a row of them, or blocks of `scale` that lie `step` apart.
template <typename A>
struct Finish {
  std::function<void(const A* sums, int64_t offset, int64_t count)> row;
  std::function<void(const A* sums, int64_t step, int64_t offset, int64_t blocks)> blocks;
};

// The same for rows that one row of patches covers, where it is channels_last before its pixel shuffle: what a single
// patch covers is finished straight from it.
template <int S, typename In>
inline void fold_lone_rows(const Patches<In>& patches, const Plan<In>& plan, int64_t image, int32_t row,
                           int32_t y_begin, int32_t y_end, std::vector<In>& sums, int64_t offset,
                           const Finish<In>& finish) {
  const PatchGrid& grid = plan.grid;
  const int32_t overlap = grid.cols.overlap();
  for (int32_t col = 0; col < grid.cols.count; ++col) {
    const int64_t index = image * grid.num_patches() + static_cast<int64_t>(row) * grid.cols.count + col;
    const int32_t x0 = grid.cols.origin(col);
    const int32_t inside = std::min(grid.cols.patch, grid.cols.size - x0);
    const int32_t shared = col > 0 ? std::min(overlap, inside) : 0;
    const int32_t alone = col + 1 < grid.cols.count ? grid.cols.stride : inside;
    for (int32_t y = y_begin; y < y_end; ++y) {
      const int32_t local = y - grid.rows.origin(row);
      for (int32_t c = 0; c < plan.channels; ++c) {
        const int64_t channel = static_cast<int64_t>(c * S + local % S) * S;
        const In* in = patches.at(index, channel, local / S);
        const int64_t to = offset + c * plan.plane + static_cast<int64_t>(y - y_begin) * grid.cols.size + x0;
        if (shared > 0) {
          const In* before = patches.at(index - 1, channel, local / S) + grid.cols.stride / S * patches.pixel;
          const In* weights = plan.column_weights(col - 1) + grid.cols.stride;
          blend_stretch<S, false>(sums.data(), before, patches.pixel, 1, S, weights, In(1), 0, shared);
          blend_stretch<S, true>(sums.data(), in, patches.pixel, 1, S, plan.column_weights(col), In(1), 0, shared);
          finish.row(sums.data(), to, shared);
        }
        finish.blocks(in + shared / S * patches.pixel, patches.pixel, to + shared, (alone - shared) / S);
      }
    }
  }
}

// In place if the result has the dtype of the sums (`images` given), through a band of rows and `finish` otherwise.
template <int S, typename In, typename A>
void fold(const Patches<In>& patches, const Plan<A>& plan, int64_t batch, A* images, const Finish<A>& finish) {
  const int32_t height = plan.bottom - plan.top;
  const int32_t width = plan.grid.cols.size;
  const int32_t band = plan.scale > 1 ? plan.scale : 8;  // rows at a time: enough to pay for finding their patches
  const int64_t bands = (height + band - 1) / band;
  const auto whole = [&](const PatchAxis& axis) {  // pixels of patches, and the edges between them
    return axis.size % plan.scale == 0 && axis.stride % plan.scale == 0;
  };
  const bool blocks = std::is_same_v<In, A> && S > 1 && images == nullptr && patches.channel == 1 &&
                      plan.top % plan.scale == 0 && height % plan.scale == 0 && whole(plan.grid.rows) &&
                      whole(plan.grid.cols);
  torch::stable::parallel_for(0, batch * bands, 1, [&](int64_t begin, int64_t end) {
    const int64_t step = static_cast<int64_t>(band) * width;
    std::vector<AxisBlend<A>> blends(band);
    std::vector<A> sums(images != nullptr ? 0 : plan.channels * step);
    for (int64_t k = begin; k < end; ++k) {
      const int64_t image = k / bands;
      const int32_t y_begin = plan.top + static_cast<int32_t>(k % bands) * band;
      const int32_t y_end = std::min(plan.bottom, y_begin + band);
      const int64_t first = image * plan.image + static_cast<int64_t>(y_begin - plan.top) * width;
      if constexpr (std::is_same_v<In, A> && S > 1) {
        const Cover cover = plan.grid.rows.cover(y_begin);
        if (blocks && cover.count == 1) {
          fold_lone_rows<S>(patches, plan, image, cover.first, y_begin, y_end, sums, first, finish);
          continue;
        }
      }
      A* rows = images != nullptr ? images + first : sums.data();
      const int64_t channel_step = images != nullptr ? plan.plane : step;
      vectorised([&] { fold_rows<S>(patches, plan, image, y_begin, y_end, blends, rows, channel_step); });
      for (int32_t c = 0; c < plan.channels && images == nullptr; ++c) {
        finish.row(sums.data() + c * step, first + c * plan.plane, static_cast<int64_t>(y_end - y_begin) * width);
      }
    }
  });
}

template <typename In, typename A>
void fold(const Patches<In>& patches, const Plan<A>& plan, const Tensor& images) {
  A* in_place = nullptr;
  Finish<A> finish;
  dispatch(PixelTypes{}, images.scalar_type(), "fold_patches: dtype", [&](auto type) {
    using Out = typename decltype(type)::type;
    Out* out = static_cast<Out*>(images.mutable_data_ptr());
    if constexpr (std::is_same_v<Out, A>) {
      in_place = out;
    } else {
      finish.row = [out](const A* sums, int64_t offset, int64_t count) {
        vectorised([&] { finish_row(out + offset, sums, count); });
      };
      finish.blocks = [out, scale = plan.scale](const A* sums, int64_t step, int64_t offset, int64_t blocks) {
        vectorised([&] {
          switch (scale) {
            case 2:
              return finish_blocks<2>(out + offset, sums, step, blocks);
            case 3:
              return finish_blocks<3>(out + offset, sums, step, blocks);
            case 4:
              return finish_blocks<4>(out + offset, sums, step, blocks);
          }
        });
      };
    }
  });
  const int64_t batch = images.size(0);
  if (plan.scale == 1) {
    return fold<1, In>(patches, plan, batch, in_place, finish);
  }
  if constexpr (!std::is_same_v<In, double>) {
    switch (plan.scale) {
      case 2:
        return fold<2, In>(patches, plan, batch, in_place, finish);
      case 3:
        return fold<3, In>(patches, plan, batch, in_place, finish);
      case 4:
        return fold<4, In>(patches, plan, batch, in_place, finish);
    }
  }
  fold<0, In>(patches, plan, batch, in_place, finish);
}

void fold_into(const Tensor& images, const std::vector<Tensor>& patches, const std::optional<Tensor>& order,
               const PatchGrid& grid, int64_t scale, int64_t top, int64_t window) {
  dispatch(FloatTypes{}, patches.front().scalar_type(), "fold_patches: patches", [&](auto in) {
    using In = typename decltype(in)::type;
    using A = Accumulator<In>;
    const Window kind = static_cast<Window>(window);
    const Plan<A> plan{grid,
                       kind,
                       static_cast<int32_t>(images.size(1)),
                       static_cast<int32_t>(scale),
                       static_cast<int32_t>(top),
                       static_cast<int32_t>(top + images.size(2)),
                       images.stride(0),
                       images.stride(1),
                       column_weights<A>(grid, kind)};
    fold<In>(placed_patches<In>(patches, order, images.size(0) * grid.num_patches()), plan, images);
  });
}

Tensor fold_patches_cpu(std::vector<Tensor> patches, std::optional<Tensor> order, int64_t batch, int64_t height,
                        int64_t width, int64_t patch_size, int64_t overlap, int64_t top, int64_t bottom, int64_t window,
                        ScalarType dtype) {
  const PatchGrid grid = checked_grid("fold_patches", height, width, patch_size, overlap);
  const int64_t scale = checked_fold_scale(patches, grid, batch, top, bottom, window);
  const Tensor& any = patches.front();
  const Tensor images = empty_on(any, {batch, any.size(1) / (scale * scale), bottom - top, width}, dtype);
  fold_into(images, patches, order, grid, scale, top, window);
  return images;
}

void fold_patches_into_cpu(const Tensor& images, std::vector<Tensor> patches, std::optional<Tensor> order,
                           int64_t height, int64_t patch_size, int64_t overlap, int64_t top, int64_t window) {
  const PatchGrid grid = checked_target_grid(images, height, patch_size, overlap);
  const int64_t scale = checked_fold_scale(patches, grid, images.size(0), top, top + images.size(2), window);
  check_images("fold_patches_into", images, patches.front(), patches.front().size(1) / (scale * scale));
  fold_into(images, patches, order, grid, scale, top, window);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "fold_patches", fold_patches_cpu);
  ENAF_IMPL(m, "fold_patches_into", fold_patches_into_cpu);
}
