// SPDX-License-Identifier: Apache-2.0
// bicubic_patches: the named patches enlarged by an integer scale. Separable: a source row is interpolated along x once
// into a ring of rows, whose combinations give the scale output rows of each source row.
#include <algorithm>
#include <functional>
#include <vector>

#include "bicubic.h"
#include "checks.h"
#include "cpu/order.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "stable.h"

namespace {

using namespace enaf;

constexpr int32_t reach = 2;      // taps lie at most so many pixels from their source pixel
constexpr int32_t ring_rows = 8;  // at least 2 * reach + 1, a power of two

// How a row of results, (pixel x, channel c, phase p), lies in the ring and is cut into runs that are contiguous in the
// output.
struct RowLayout {
  int64_t x, c, p;                // strides in a ring row
  int64_t runs, runs_inner, run;  // runs = outer * inner, elements of a run
  int64_t step, step_inner;       // output strides of outer and inner runs
  int64_t row, phase_row;         // output strides of a source row, and of an output row within it
};

RowLayout row_layout(int64_t channels, int64_t patch, int64_t scale, bool channels_last, bool shuffled) {
  const int64_t plane = patch * patch;
  if (shuffled && channels_last) {
    const int64_t row = patch * scale * channels;
    return {scale * channels, 1, channels, 1, 1, row, 0, 0, scale * row, row};
  }
  if (shuffled) {
    const int64_t row = patch * scale;
    return {scale, row, 1, channels, 1, row, plane * scale * scale, 0, scale * row, row};
  }
  if (channels_last) {
    const int64_t pixel = channels * scale * scale;
    return {channels * scale, scale, 1, patch * channels, 1, scale, scale * scale, 0, patch * pixel, scale};
  }
  return {1, scale * patch, patch, channels, scale, patch, scale * scale * plane, plane, patch, scale * plane};
}

// What is the same for every patch.
template <typename A>
struct Plan {
  PatchGrid grid;
  int32_t channels;
  int32_t scale;
  RowLayout layout;
  std::vector<BicubicPhase<A>> phases;
};

template <typename A>
struct Scratch {
  std::vector<A> source;  // a source row, interleaved, with `reach` more pixels on both sides
  std::vector<A> planes;  // the row interpolated along x, a plane a phase
  std::vector<A> ring;    // ring_rows rows in the plan's layout
  std::vector<A> result;  // one output row

  explicit Scratch(const Plan<A>& plan) {
    const int64_t row = static_cast<int64_t>(plan.grid.cols.patch) * plan.channels;
    source.resize(row + 2 * reach * plan.channels);
    planes.resize(row * plan.scale);
    ring.resize(ring_rows * row * plan.scale);
    result.resize(row * plan.scale);
  }
};

template <typename A, typename In>
inline void load_row(std::vector<A>& source, const View4<const In>& image, const PatchGrid& grid,
                     const PatchPlace& place, int32_t y) {
  const int64_t channels = image.size[1];
  const int64_t patch = grid.cols.patch;
  const int32_t x0 = grid.cols.origin(place.col);
  const int64_t inside = std::min<int64_t>(patch, grid.cols.size - x0);
  const In* in = &image.at(place.image, 0, grid.rows.clamp(grid.rows.origin(place.row) + y), x0);
  A* row = source.data() + reach * channels;
  interleaved_row(row, image, in, inside);
  for (int64_t i = inside * channels; i < (patch + reach) * channels; ++i) {
    row[i] = row[i - channels];
  }
  for (int64_t i = -1; i >= -reach * channels; --i) {
    row[i] = row[i + channels];
  }
}

// planes[p][i] = sum over k of weight[k] * source[i + (first + k) * channels].
template <typename A>
inline void interpolate_x(std::vector<A>& planes, const std::vector<A>& source, const Plan<A>& plan) {
  const int64_t row = static_cast<int64_t>(plan.grid.cols.patch) * plan.channels;
  for (int32_t p = 0; p < plan.scale; ++p) {
    const BicubicPhase<A> phase = plan.phases[p];
    const A* __restrict in = source.data() + (reach + phase.first) * plan.channels;
    A* __restrict out = planes.data() + p * row;
    const int64_t next = plan.channels;
    for (int64_t i = 0; i < row; ++i) {
      out[i] = phase.weight[0] * in[i] + phase.weight[1] * in[i + next] + phase.weight[2] * in[i + 2 * next] +
               phase.weight[3] * in[i + 3 * next];
    }
  }
}

// Planes of phases into the ring row. S is the scale, 2 or 4, where the phases lie side by side.
template <int S, typename A>
inline void arrange(A* __restrict ring_row, const A* __restrict planes, const Plan<A>& plan) {
  const int64_t row = static_cast<int64_t>(plan.grid.cols.patch) * plan.channels;
  if constexpr (S > 0) {
    for (int64_t i = 0; i < row; ++i) {
      for (int p = 0; p < S; ++p) {
        ring_row[i * S + p] = planes[p * row + i];
      }
    }
  } else {
    const RowLayout& layout = plan.layout;
    for (int32_t p = 0; p < plan.scale; ++p) {
      for (int32_t c = 0; c < plan.channels; ++c) {
        for (int64_t x = 0; x < plan.grid.cols.patch; ++x) {
          ring_row[x * layout.x + c * layout.c + p * layout.p] = planes[p * row + x * plan.channels + c];
        }
      }
    }
  }
}

// Output rows of a source row whose runs are S long: all phases at once, so that the output is written front to back.
template <int S, typename Out, typename A>
inline void interpolate_y_side_by_side(Out* __restrict out, const A* const* rows, const Plan<A>& plan) {
  const int64_t runs = static_cast<int64_t>(plan.grid.cols.patch) * plan.channels;
  using P = Pack<A, S>;
  BicubicPhase<A> phases[S];
  std::copy_n(plan.phases.begin(), S, phases);
  for (int64_t i = 0; i < runs; ++i) {
    P taps[2 * reach + 1];
    for (int k = 0; k < 2 * reach + 1; ++k) {
      load<S, A>(taps[k], rows[k] + i * S);
    }
    for (int q = 0; q < S; ++q) {
      const P* tap = taps + (2 * q + 1 < S ? 0 : 1);
      const A* weight = phases[q].weight;
      const P sum = weight[0] * tap[0] + weight[1] * tap[1] + weight[2] * tap[2] + weight[3] * tap[3];
      Out* to = out + (i * S + q) * S;
      if constexpr (std::is_same_v<Out, A>) {
        store<S>(to, sum);
      } else {
        for (int p = 0; p < S; ++p) {
          to[p] = to_pixel<Out>(sum[p]);
        }
      }
    }
  }
}

template <typename Out, typename A>
inline void interpolate_y(Out* __restrict out, const A* const* rows, std::vector<A>& result, const Plan<A>& plan) {
  const RowLayout& layout = plan.layout;
  const int64_t row = static_cast<int64_t>(plan.grid.cols.patch) * plan.channels * plan.scale;
  for (int32_t q = 0; q < plan.scale; ++q) {
    const BicubicPhase<A> phase = plan.phases[q];
    const A* const* taps = rows + reach + phase.first;
    const A* __restrict t0 = taps[0];
    const A* __restrict t1 = taps[1];
    const A* __restrict t2 = taps[2];
    const A* __restrict t3 = taps[3];
    A* __restrict sums = result.data();
    for (int64_t i = 0; i < row; ++i) {
      sums[i] = phase.weight[0] * t0[i] + phase.weight[1] * t1[i] + phase.weight[2] * t2[i] + phase.weight[3] * t3[i];
    }
    for (int64_t outer = 0; outer < layout.runs; ++outer) {
      for (int64_t inner = 0; inner < layout.runs_inner; ++inner, sums += layout.run) {
        Out* __restrict to = out + q * layout.phase_row + outer * layout.step + inner * layout.step_inner;
        for (int64_t i = 0; i < layout.run; ++i) {
          to[i] = to_pixel<Out>(sums[i]);
        }
      }
    }
  }
}

// Fills scratch.source with row y of a patch, whatever the image's dtype.
template <typename A>
using RowLoader = std::function<void(std::vector<A>& source, const PatchPlace& place, int32_t y)>;

template <int S, typename Out, typename A>
inline void enlarge(const RowLoader<A>& load, const Plan<A>& plan, int64_t index, Scratch<A>& scratch, Out* out) {
  const int32_t patch = plan.grid.rows.patch;
  const int64_t row = static_cast<int64_t>(patch) * plan.channels * plan.scale;
  const PatchPlace place = plan.grid.place(index);
  const auto ring_row = [&](int32_t y) { return scratch.ring.data() + (y & (ring_rows - 1)) * row; };
  int32_t ready = 0;
  for (int32_t y = 0; y < patch; ++y) {
    for (; ready <= std::min(y + reach, patch - 1); ++ready) {
      load(scratch.source, place, ready);
      interpolate_x(scratch.planes, scratch.source, plan);
      arrange<S>(ring_row(ready), scratch.planes.data(), plan);
    }
    const A* rows[2 * reach + 1];
    for (int32_t k = -reach; k <= reach; ++k) {
      rows[k + reach] = ring_row(clamp_index(y + k, patch));
    }
    if constexpr (S > 0) {
      interpolate_y_side_by_side<S>(out + y * plan.layout.row, rows, plan);
    } else {
      interpolate_y(out + y * plan.layout.row, rows, scratch.result, plan);
    }
  }
}

template <int S, typename Out, typename A>
void run(const RowLoader<A>& load, const Plan<A>& plan, const int64_t* order, const Tensor& patches) {
  Out* out = static_cast<Out*>(patches.mutable_data_ptr());
  const int64_t side = static_cast<int64_t>(plan.grid.rows.patch) * plan.scale;
  const int64_t elements = plan.channels * side * side;
  torch::stable::parallel_for(0, patches.size(0), 1, [&](int64_t begin, int64_t end) {
    Scratch<A> scratch(plan);
    vectorised([&] {
      for (int64_t k = begin; k < end; ++k) {
        enlarge<S>(load, plan, order[k], scratch, out + k * elements);
      }
    });
  });
}

template <typename Out, typename A>
void choose_scale(const RowLoader<A>& load, const Plan<A>& plan, const int64_t* order, const Tensor& patches,
                  bool side_by_side) {
  if constexpr (!std::is_same_v<A, double> && !std::is_same_v<Out, double>) {
    switch (side_by_side ? plan.scale : 0) {
      case 2:
        return run<2, Out>(load, plan, order, patches);
      case 4:
        return run<4, Out>(load, plan, order, patches);
    }
  }
  run<0, Out>(load, plan, order, patches);
}

template <typename A>
void choose_dtype(const RowLoader<A>& load, const Plan<A>& plan, const int64_t* order, const Tensor& patches,
                  bool side_by_side) {
  dispatch(FloatTypes{}, patches.scalar_type(), "bicubic_patches: patches",
           [&](auto type) { choose_scale<typename decltype(type)::type>(load, plan, order, patches, side_by_side); });
}

void bicubic_patches_cpu(const Tensor& patches, const Tensor& image, const Tensor& order, int64_t patch_size,
                         int64_t overlap, int64_t scale, bool shuffled) {
  const PatchGrid grid = checked_image_grid("bicubic_patches", image, patch_size, overlap);
  ENAF_CHECK(scale >= 1 && scale <= max_scale, "bicubic_patches: scale: expected 1 <= scale <= ", max_scale, ", got ",
             scale);
  const Tensor checked = checked_order("bicubic_patches", order, image, image.size(0) * grid.num_patches());
  const auto* indices = static_cast<const int64_t*>(checked.const_data_ptr());
  const int64_t channels = image.size(1);
  const int64_t in_block = shuffled ? 1 : scale * scale;
  const bool channels_last = checked_target("bicubic_patches", patches, image, order, channels * in_block,
                                            shuffled ? patch_size * scale : patch_size);
  dispatch(PixelTypes{}, image.scalar_type(), "bicubic_patches: image", [&](auto in) {
    using In = typename decltype(in)::type;
    using A = Accumulator<In>;
    Plan<A> plan{grid,
                 static_cast<int32_t>(channels),
                 static_cast<int32_t>(scale),
                 row_layout(channels, patch_size, scale, channels_last, shuffled),
                 {}};
    for (int32_t p = 0; p < plan.scale; ++p) {
      plan.phases.push_back(bicubic_phase<A>(p, plan.scale));
    }
    const auto view = const_view<In>(image);
    const RowLoader<A> load = [&](std::vector<A>& source, const PatchPlace& place, int32_t y) {
      vectorised([&] { load_row(source, view, grid, place, y); });
    };
    choose_dtype<A>(load, plan, indices, patches, channels_last && !shuffled);
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "bicubic_patches", bicubic_patches_cpu);
}
