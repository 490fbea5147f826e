// SPDX-License-Identifier: Apache-2.0
// cell_details: a thread takes a cell of 4x4 pixels and walks down the six rows that it depends on, so that of each it
// keeps what the next two need. Neighbouring threads read neighbouring pixels; what they share comes from the cache.
// Bytes it must move: the image once, and 84 bytes a cell.
#pragma once

#include "../detail.h"
#include "../pixel.h"
#include "../tensor_view.h"
#include "pack.cuh"

namespace enaf {

constexpr int details_threads = 128;

inline void cell_details_shape(int64_t num_cells, dim3& grid, dim3& block) {
  block = dim3(details_threads, 1, 1);
  grid = dim3(static_cast<unsigned>(at_most(divide_up(num_cells, details_threads), max_grid_x)), 1, 1);
}

// A row of a cell with a pixel to each side, as grey and two differences of colours.
struct OpponentRow {
  float grey[cell_side + 2];
  float green[cell_side + 2];
  float blue[cell_side + 2];
};

__device__ inline DetailColumn<float> detail_column(const OpponentRow& above, const OpponentRow& here,
                                                    const OpponentRow& below, int x) {
  return {here.grey[x],
          below.grey[x],
          below.grey[x] - above.grey[x],
          curvature(above.grey[x], here.grey[x], below.grey[x]),
          curvature(above.green[x], here.green[x], below.green[x]),
          curvature(above.blue[x], here.blue[x], below.blue[x])};
}

// What is added up over the rows of a cell, column by column, so that the sums are those of the CPU.
struct CellSums {
  float details[num_details][cell_side] = {};
  float maxima[num_details] = {};
  float colours[3][cell_side] = {};
  float squares[3][cell_side] = {};
};

// A row of pixels; its colours are added up where the row belongs to the cell.
template <typename T>
__device__ OpponentRow read_row(const View4<const T>& image, const T* first, bool in_cell, CellSums& sums) {
  OpponentRow row;
#pragma unroll
  for (int x = 0; x < cell_side + 2; ++x) {
    float colour[3];
#pragma unroll
    for (int c = 0; c < 3; ++c) {
      colour[c] = pixel_value(first[c * image.stride[1] + x * image.stride[3]]);
      if (in_cell && x >= 1 && x <= cell_side) {
        sums.colours[c][x - 1] += colour[c];
        sums.squares[c][x - 1] += colour[c] * colour[c];
      }
    }
    row.grey[x] = grey_of(colour[0], colour[1], colour[2]);
    row.green[x] = red_against_green(colour[0], colour[1]);
    row.blue[x] = blue_against_both(colour[0], colour[1], colour[2]);
  }
  return row;
}

__device__ inline void add_row(const OpponentRow& above, const OpponentRow& here, const OpponentRow& below,
                               CellSums& sums) {
  DetailColumn<float> west = detail_column(above, here, below, 0);
  DetailColumn<float> centre = detail_column(above, here, below, 1);
#pragma unroll
  for (int x = 0; x < cell_side; ++x) {
    const DetailColumn<float> east = detail_column(above, here, below, x + 2);
    float squares[num_details];
    squared_details(west, centre, east, squares);
#pragma unroll
    for (int k = 0; k < num_details; ++k) {
      sums.details[k][x] += squares[k];
      sums.maxima[k] = larger(squares[k], sums.maxima[k]);
    }
    west = centre;
    centre = east;
  }
}

__device__ inline float over_columns(const float (&columns)[cell_side]) {
  return over_columns(columns[0], columns[1], columns[2], columns[3]);
}

__device__ inline void finish_cell(const CellSums& sums, float* __restrict__ out) {
  float colour[3];
  float variance[3];
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    colour[c] = over_columns(sums.colours[c]);
    variance[c] = cell_variance(colour[c], over_columns(sums.squares[c]));
    out[num_energies + c] = scaled_mean(colour[c]);
  }
#pragma unroll
  for (int k = 0; k < num_details; ++k) {
    out[k] = scaled_logarithm(over_columns(sums.details[k]) * 0.0625f);
    out[num_details + k] = scaled_logarithm(sums.maxima[k]);
  }
  out[2 * num_details] = scaled_logarithm(mean_variance(variance[0], variance[1], variance[2]));
  out[num_energies + 3] = clipping(colour[0], colour[1], colour[2]);
}

// details: (B, rows, cols, num_cell_details)
template <typename T>
__global__ void __launch_bounds__(details_threads)
    cell_details_kernel(View4<const T> image, int64_t rows, int64_t cols, float* __restrict__ details) {
  const int64_t num_cells = image.size[0] * rows * cols;
  const int64_t step = static_cast<int64_t>(gridDim.x) * details_threads;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * details_threads + threadIdx.x; index < num_cells;
       index += step) {
    const int64_t line = index / cols;
    const T* first =
        image.data + image.offset(line / rows, 0, line % rows * cell_side, (index - line * cols) * cell_side);
    CellSums sums;
    OpponentRow above = read_row(image, first, false, sums);
    OpponentRow here = read_row(image, first + image.stride[2], true, sums);
#pragma unroll
    for (int y = 1; y <= cell_side; ++y) {
      const OpponentRow below = read_row(image, first + (y + 1) * image.stride[2], y < cell_side, sums);
      add_row(above, here, below, sums);
      above = here;
      here = below;
    }
    finish_cell(sums, details + index * num_cell_details);
  }
}

}  // namespace enaf
