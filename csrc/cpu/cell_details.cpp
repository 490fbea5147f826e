// SPDX-License-Identifier: Apache-2.0
// cell_details: some neighbouring cells of a row at a time. Their four rows of pixels are summed column by column into
// vectors that stay in the first cache; then columns become cells.
#include <algorithm>
#include <vector>

#include "checks.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "detail.h"
#include "stable.h"

namespace {

using namespace enaf;

// Cells whose scratch memory stays in the first cache.
constexpr int64_t side_by_side = 64;

// Pixels side by side.
constexpr int lanes = 8;
using Lanes = Pack<float, lanes>;

// What a row of so many pixels takes, whose last ones may be read and written together with some behind them.
inline int64_t padded(int64_t width) {
  return divide_up(width, lanes) * lanes;
}

inline Lanes at(const float* values) {
  Lanes pixels;
  load<lanes, float>(pixels, values);
  return pixels;
}

inline void opponent_row(float* __restrict grey, float* __restrict green, float* __restrict blue,
                         const float* __restrict r, const float* __restrict g, const float* __restrict b,
                         int64_t width) {
  for (int64_t x = 0; x < width; x += lanes) {
    const Lanes red = at(r + x), middle = at(g + x), last = at(b + x);
    store<lanes>(grey + x, grey_of(red, middle, last));
    store<lanes>(green + x, red_against_green(red, middle));
    store<lanes>(blue + x, blue_against_both(red, middle, last));
  }
}

inline void curve_row(float* __restrict curve, const float* __restrict above, const float* __restrict here,
                      const float* __restrict below, int64_t width) {
  for (int64_t x = 0; x < width; x += lanes) {
    store<lanes>(curve + x, curvature(at(above + x), at(here + x), at(below + x)));
  }
}

inline void slope_row(float* __restrict slope, const float* __restrict above, const float* __restrict below,
                      int64_t width) {
  for (int64_t x = 0; x < width; x += lanes) {
    store<lanes>(slope + x, at(below + x) - at(above + x));
  }
}

// What the details of a row of pixels are made of, see DetailColumn.
struct DetailRow {
  const float *grey, *below, *slope, *grey_curve, *green_curve, *blue_curve;

  DetailColumn<Lanes> columns(int64_t x) const {
    return {at(grey + x), at(below + x), at(slope + x), at(grey_curve + x), at(green_curve + x), at(blue_curve + x)};
  }
};

// sums and maxima over the rows of a cell: [detail][column], `plane` apart, for `width` pixels within the margin of
// one.
inline void sum_details(float* __restrict sums, float* __restrict maxima, const DetailRow (&rows)[cell_side],
                        int64_t plane, int64_t width) {
  for (int64_t x = 0; x < width; x += lanes) {
    Lanes sum[num_details], largest[num_details], squares[num_details];
    squared_details(rows[0].columns(x), rows[0].columns(x + 1), rows[0].columns(x + 2), sum);
    std::copy(sum, sum + num_details, largest);
    for (int y = 1; y < cell_side; ++y) {
      squared_details(rows[y].columns(x), rows[y].columns(x + 1), rows[y].columns(x + 2), squares);
      ENAF_UNROLL
      for (int k = 0; k < num_details; ++k) {
        sum[k] += squares[k];
        largest[k] = larger(squares[k], largest[k]);
      }
    }
    ENAF_UNROLL
    for (int k = 0; k < num_details; ++k) {
      store<lanes>(sums + k * plane + x, sum[k]);
      store<lanes>(maxima + k * plane + x, largest[k]);
    }
  }
}

inline void add_colours(float* __restrict sums, float* __restrict squares, const float* __restrict colour,
                        int64_t width) {
  for (int64_t x = 0; x < width; x += lanes) {
    const Lanes values = at(colour + x);
    store<lanes>(sums + x, at(sums + x) + values);
    store<lanes>(squares + x, at(squares + x) + values * values);
  }
}

inline void sum_columns(float* __restrict cells, const float* __restrict columns, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float* x = columns + cell_side * i;
    cells[i] = over_columns(x[0], x[1], x[2], x[3]);
  }
}

inline void max_columns(float* __restrict cells, const float* __restrict columns, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    const float* x = columns + cell_side * i;
    cells[i] = larger(larger(x[0], x[1]), larger(x[2], x[3]));
  }
}

inline void scale_energies(float* __restrict energies, float share, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    energies[i] = scaled_logarithm(energies[i] * share);
  }
}

// Scratch memory of up to `cells` cells side by side.
struct Workspace {
  explicit Workspace(int64_t cells)
      : row(padded(cell_side * cells + 2) + lanes),
        colours(row * 3 * rows),
        opponents(row * 3 * rows),
        columns(row * 4 * cell_side),
        sums(row * (2 * num_details + 6)),
        values(cells * (num_energies + 6)) {}

  static constexpr int rows = cell_side + 2;
  float* colour(int y, int channel) { return colours.data() + (y * 3 + channel) * row; }
  float* opponent(int y, int channel) { return opponents.data() + (y * 3 + channel) * row; }
  float* column(int y, int field) { return columns.data() + (y * 4 + field) * row; }

  int64_t row;
  std::vector<float> colours, opponents, columns, sums, values;
};

// out: (cell, detail) of `cells` neighbours in a row, whose pixels begin below and to the right of `first`.
template <typename T>
inline void detail_cells(const View4<const T>& image, const T* first, int64_t cells, Workspace& work, float* out) {
  const int64_t width = cell_side * cells;
  const int64_t row = work.row;
  for (int y = 0; y < Workspace::rows; ++y) {
    planar_row(work.colour(y, 0), row, image, first + y * image.stride[2], width + 2);
    opponent_row(work.opponent(y, 0), work.opponent(y, 1), work.opponent(y, 2), work.colour(y, 0), work.colour(y, 1),
                 work.colour(y, 2), width + 2);
  }
  float* sums = work.sums.data();
  float* maxima = sums + num_details * row;
  float* colour_sums = maxima + num_details * row;
  float* colour_squares = colour_sums + 3 * row;
  std::fill_n(colour_sums, 6 * row, 0.0f);
  DetailRow rows[cell_side];
  for (int y = 1; y <= cell_side; ++y) {
    float* fields[4];
    for (int k = 0; k < 4; ++k) {
      fields[k] = work.column(y - 1, k);
    }
    for (int c = 0; c < 3; ++c) {
      curve_row(fields[c], work.opponent(y - 1, c), work.opponent(y, c), work.opponent(y + 1, c), width + 2);
      add_colours(colour_sums + c * row, colour_squares + c * row, work.colour(y, c) + 1, width);
    }
    slope_row(fields[3], work.opponent(y - 1, 0), work.opponent(y + 1, 0), width + 2);
    rows[y - 1] = {work.opponent(y, 0), work.opponent(y + 1, 0), fields[3], fields[0], fields[1], fields[2]};
  }
  sum_details(sums, maxima, rows, row, width);

  float* energies = work.values.data();
  float* variance = energies + 2 * num_details * cells;
  float* means = energies + num_energies * cells;
  float* squares = means + 3 * cells;
  for (int k = 0; k < num_details; ++k) {
    sum_columns(energies + k * cells, sums + k * row, cells);
    max_columns(energies + (num_details + k) * cells, maxima + k * row, cells);
  }
  for (int c = 0; c < 3; ++c) {
    sum_columns(means + c * cells, colour_sums + c * row, cells);
    sum_columns(squares + c * cells, colour_squares + c * row, cells);
  }
  for (int64_t i = 0; i < cells; ++i) {
    variance[i] =
        mean_variance(cell_variance(means[i], squares[i]), cell_variance(means[cells + i], squares[cells + i]),
                      cell_variance(means[2 * cells + i], squares[2 * cells + i]));
  }
  scale_energies(energies, 0.0625f, num_details * cells);
  scale_energies(energies + num_details * cells, 1.0f, (num_details + 1) * cells);

  for (int64_t i = 0; i < cells; ++i) {
    float* cell = out + i * num_cell_details;
    for (int k = 0; k < num_energies; ++k) {
      cell[k] = energies[k * cells + i];
    }
    for (int c = 0; c < 3; ++c) {
      cell[num_energies + c] = scaled_mean(means[c * cells + i]);
    }
    cell[num_energies + 3] = clipping(means[i], means[cells + i], means[2 * cells + i]);
  }
}

Tensor cell_details_cpu(const Tensor& image) {
  check_cells(image);
  const int64_t rows = (image.size(2) - 2) / cell_side;
  const int64_t cols = (image.size(3) - 2) / cell_side;
  const Tensor details = empty_on(image, {image.size(0), num_cell_details, rows, cols}, ScalarType::Float, true);
  float* out = static_cast<float*>(details.mutable_data_ptr());
  dispatch(ScoredTypes{}, image.scalar_type(), "cell_details: image", [&](auto type) {
    using T = typename decltype(type)::type;
    const auto view = const_view<T>(image);
    torch::stable::parallel_for(0, image.size(0) * rows, 4, [&](int64_t begin, int64_t end) {
      Workspace work(std::min(cols, side_by_side));
      vectorised([&] {
        for (int64_t k = begin; k < end; ++k) {
          for (int64_t col = 0; col < cols; col += side_by_side) {
            const T* first = &view.at(k / rows, 0, cell_side * (k % rows), cell_side * col);
            detail_cells(view, first, std::min(cols - col, side_by_side), work,
                         out + (k * cols + col) * num_cell_details);
          }
        }
      });
    });
  });
  return details;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "cell_details", cell_details_cpu);
}
