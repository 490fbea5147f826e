// SPDX-License-Identifier: Apache-2.0
// cell_details: a row of cells at a time. Its four rows of pixels are summed column by column into vectors as long as
// the image is wide, which stay in the first cache; then columns become cells.
#include <algorithm>
#include <vector>

#include "checks.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "detail.h"
#include "stable.h"

namespace {

using namespace enaf;

inline void opponent_row(float* __restrict grey, float* __restrict green, float* __restrict blue,
                         const float* __restrict r, const float* __restrict g, const float* __restrict b,
                         int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    grey[x] = grey_of(r[x], g[x], b[x]);
    green[x] = red_against_green(r[x], g[x]);
    blue[x] = blue_against_both(r[x], g[x], b[x]);
  }
}

inline void curve_row(float* __restrict curve, const float* __restrict above, const float* __restrict here,
                      const float* __restrict below, int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    curve[x] = curvature(above[x], here[x], below[x]);
  }
}

inline void slope_row(float* __restrict slope, const float* __restrict above, const float* __restrict below,
                      int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    slope[x] = below[x] - above[x];
  }
}

// What the details of a row of pixels are made of, see DetailColumn.
struct DetailRow {
  const float *grey, *below, *slope, *grey_curve, *green_curve, *blue_curve;

  DetailColumn column(int64_t x) const {
    return {grey[x], below[x], slope[x], grey_curve[x], green_curve[x], blue_curve[x]};
  }
};

// sums and maxima over the rows of a cell: [detail][column], for the `width` pixels within the margin of one.
inline void sum_details(float* __restrict sums, float* __restrict maxima, const DetailRow (&rows)[cell_side],
                        int64_t width) {
  const DetailRow first = rows[0], second = rows[1], third = rows[2], fourth = rows[3];
  for (int64_t x = 0; x < width; ++x) {
    float a[num_details], b[num_details], c[num_details], d[num_details];
    squared_details(first.column(x), first.column(x + 1), first.column(x + 2), a);
    squared_details(second.column(x), second.column(x + 1), second.column(x + 2), b);
    squared_details(third.column(x), third.column(x + 1), third.column(x + 2), c);
    squared_details(fourth.column(x), fourth.column(x + 1), fourth.column(x + 2), d);
    for (int k = 0; k < num_details; ++k) {
      sums[k * width + x] = ((a[k] + b[k]) + c[k]) + d[k];
      maxima[k * width + x] = larger(d[k], larger(c[k], larger(b[k], a[k])));
    }
  }
}

inline void add_colours(float* __restrict sums, float* __restrict squares, const float* __restrict colour,
                        int64_t width) {
  for (int64_t x = 0; x < width; ++x) {
    sums[x] += colour[x];
    squares[x] += colour[x] * colour[x];
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

// Scratch memory of a row of cells.
struct Workspace {
  explicit Workspace(int64_t cells)
      : cells(cells),
        width(cell_side * cells),
        colours(row() * 3 * rows),
        opponents(row() * 3 * rows),
        columns(row() * 4 * cell_side),
        sums(width * (2 * num_details + 6)),
        values(cells * (num_energies + 6)) {}

  static constexpr int rows = cell_side + 2;
  int64_t row() const { return width + 2; }
  float* colour(int y, int channel) { return colours.data() + (y * 3 + channel) * row(); }
  float* opponent(int y, int channel) { return opponents.data() + (y * 3 + channel) * row(); }
  float* column(int y, int field) { return columns.data() + (y * 4 + field) * row(); }

  int64_t cells, width;
  std::vector<float> colours, opponents, columns, sums, values;
};

// out: (cell, detail) of one row of cells, whose pixels begin at (4 * cell_row + 1, 1) of the image.
template <typename T>
inline void detail_row(const View4<const T>& image, int64_t n, int64_t cell_row, Workspace& work, float* out) {
  const int64_t width = work.width;
  const int64_t cells = work.cells;
  for (int y = 0; y < Workspace::rows; ++y) {
    planar_row(work.colour(y, 0), work.row(), image, &image.at(n, 0, cell_side * cell_row + y, 0), work.row());
    opponent_row(work.opponent(y, 0), work.opponent(y, 1), work.opponent(y, 2), work.colour(y, 0), work.colour(y, 1),
                 work.colour(y, 2), work.row());
  }
  float* sums = work.sums.data();
  float* maxima = sums + num_details * width;
  float* colour_sums = maxima + num_details * width;
  float* colour_squares = colour_sums + 3 * width;
  std::fill_n(colour_sums, 6 * width, 0.0f);
  DetailRow rows[cell_side];
  for (int y = 1; y <= cell_side; ++y) {
    float* fields[4];
    for (int k = 0; k < 4; ++k) {
      fields[k] = work.column(y - 1, k);
    }
    for (int c = 0; c < 3; ++c) {
      curve_row(fields[c], work.opponent(y - 1, c), work.opponent(y, c), work.opponent(y + 1, c), work.row());
      add_colours(colour_sums + c * width, colour_squares + c * width, work.colour(y, c) + 1, width);
    }
    slope_row(fields[3], work.opponent(y - 1, 0), work.opponent(y + 1, 0), work.row());
    rows[y - 1] = {work.opponent(y, 0), work.opponent(y + 1, 0), fields[3], fields[0], fields[1], fields[2]};
  }
  sum_details(sums, maxima, rows, width);

  float* energies = work.values.data();
  float* variance = energies + 2 * num_details * cells;
  float* means = energies + num_energies * cells;
  float* squares = means + 3 * cells;
  for (int k = 0; k < num_details; ++k) {
    sum_columns(energies + k * cells, sums + k * width, cells);
    max_columns(energies + (num_details + k) * cells, maxima + k * width, cells);
  }
  for (int c = 0; c < 3; ++c) {
    sum_columns(means + c * cells, colour_sums + c * width, cells);
    sum_columns(squares + c * cells, colour_squares + c * width, cells);
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
      Workspace work(cols);
      vectorised([&] {
        for (int64_t k = begin; k < end; ++k) {
          detail_row(view, k / rows, k % rows, work, out + k * cols * num_cell_details);
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
