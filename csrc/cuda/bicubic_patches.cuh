// SPDX-License-Identifier: Apache-2.0
// bicubic_patches: torch's bicubic of the named patches. A thread takes a column of a channel and walks down a strip of
// rows: it keeps the five rows that matter, interpolated along x, in registers, so that a pixel is read about once by
// it and four times by its neighbours (from the cache). Bytes it must move: the image once, the output once.
#pragma once

#include "../bicubic.h"
#include "../patch_grid.h"
#include "../tensor_view.h"
#include "pack.cuh"

namespace enaf {

// Where output row `dy`, column `dx` of an input pixel's scale x scale block goes, in elements: for a shuffled output
// these are the strides of y and x, for an unshuffled one those of its channels.
struct BlockSteps {
  int64_t channel;
  int64_t y;
  int64_t x;
  int64_t dy;
  int64_t dx;
};

template <typename Out>
struct BicubicOutput {
  Out* data;
  int64_t num_selected;
  int64_t patch_stride;
  BlockSteps step;
  bool channel_inner;  // neighbouring threads take neighbouring channels, as the output lies in memory
};

template <typename Out>
BicubicOutput<Out> bicubic_output(const View4<Out>& out, int32_t scale, bool shuffled) {
  BlockSteps step{};
  if (shuffled) {
    step = {out.stride[1], out.stride[2] * scale, out.stride[3] * scale, out.stride[2], out.stride[3]};
  } else {
    step = {out.stride[1] * scale * scale, out.stride[2], out.stride[3], out.stride[1] * scale, out.stride[1]};
  }
  return {out.data, out.size[0], out.stride[0], step, out.stride[1] < out.stride[3]};
}

constexpr int bicubic_threads = 256;
constexpr int bicubic_strip = 8;  // rows of a thread; it reads four more

inline void bicubic_shape(int64_t num_selected, int64_t channels, int64_t patch_size, dim3& grid, dim3& block) {
  const int64_t strips = divide_up(patch_size, bicubic_strip);
  const int64_t x = at_most(channels * patch_size, bicubic_threads);
  const int64_t y = at_most(strips, bicubic_threads / x);
  block = dim3(static_cast<unsigned>(x), static_cast<unsigned>(y), 1);
  grid = dim3(static_cast<unsigned>(at_most(num_selected, max_grid_x)),
              static_cast<unsigned>(at_most(divide_up(strips, y), max_grid_yz)), 1);
}

// A channel of a patch as bicubic sees it: coordinates are clamped inside the patch, then inside the image.
template <typename In>
struct PatchChannel {
  const In* data;
  int64_t stride_y;
  int64_t stride_x;
  int32_t top;
  int32_t left;

  __device__ const In* row(const PatchAxis& rows, int32_t y) const {
    return data + rows.clamp(top + clamp_index(y, rows.patch)) * stride_y;
  }
  __device__ int64_t column(const PatchAxis& cols, int32_t x) const {
    return cols.clamp(left + clamp_index(x, cols.patch)) * stride_x;
  }
};

// Scale known at compile time: the weights are constants.
template <int scale, typename Out, typename In>
__device__ void bicubic_column(const PatchChannel<In>& channel, const PatchGrid& grid, int32_t x, int32_t first_y,
                               int32_t end_y, Out* target, const BlockSteps& step) {
  using A = Accumulator<In>;
  int64_t columns[5];
#pragma unroll
  for (int k = 0; k < 5; ++k) {
    columns[k] = channel.column(grid.cols, x + k - 2);
  }
  A window[5][scale];  // rows y-2 .. y+2
  const auto read_row = [&](int32_t y, A* along_x) {
    const In* row = channel.row(grid.rows, y);
    A pixel[5];
#pragma unroll
    for (int k = 0; k < 5; ++k) {
      pixel[k] = fast_pixel_value(row[columns[k]]);
    }
#pragma unroll
    for (int dx = 0; dx < scale; ++dx) {
      const BicubicPhase<A> phase = bicubic_phase<A>(dx, scale);
      const int first = phase.first + 2;
      along_x[dx] = pixel[first] * phase.weight[0] + pixel[first + 1] * phase.weight[1] +
                    pixel[first + 2] * phase.weight[2] + pixel[first + 3] * phase.weight[3];
    }
  };
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    read_row(first_y + k - 2, window[k + 1]);
  }
  const bool row_in_one = step.dx == 1;
  const bool block_in_one = row_in_one && step.dy == scale;
  for (int32_t y = first_y; y < end_y; ++y) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
#pragma unroll
      for (int dx = 0; dx < scale; ++dx) {
        window[k][dx] = window[k + 1][dx];
      }
    }
    read_row(y + 2, window[4]);

    Out block[scale * scale];
#pragma unroll
    for (int dy = 0; dy < scale; ++dy) {
      const BicubicPhase<A> phase = bicubic_phase<A>(dy, scale);
      const int first = phase.first + 2;
#pragma unroll
      for (int dx = 0; dx < scale; ++dx) {
        block[dy * scale + dx] =
            to_pixel<Out>(window[first][dx] * phase.weight[0] + window[first + 1][dx] * phase.weight[1] +
                          window[first + 2][dx] * phase.weight[2] + window[first + 3][dx] * phase.weight[3]);
      }
    }
    if (block_in_one) {
      store_aligned<scale * scale>(target + y * step.y, block);
    } else {
#pragma unroll
      for (int dy = 0; dy < scale; ++dy) {
        Out* row = target + y * step.y + dy * step.dy;
        if (row_in_one) {
          store_aligned<scale>(row, block + dy * scale);
        } else {
#pragma unroll
          for (int dx = 0; dx < scale; ++dx) {
            row[dx * step.dx] = block[dy * scale + dx];
          }
        }
      }
    }
  }
}

// Any scale and dtype: sixteen reads an output.
template <typename Out, typename In>
__device__ void bicubic_column_any(const PatchChannel<In>& channel, const PatchGrid& grid, int32_t scale, int32_t x,
                                   int32_t first_y, int32_t end_y, Out* target, const BlockSteps& step) {
  using A = Accumulator<In>;
  for (int32_t y = first_y; y < end_y; ++y) {
    for (int32_t dy = 0; dy < scale; ++dy) {
      const BicubicPhase<A> along_y = bicubic_phase<A>(dy, scale);
      for (int32_t dx = 0; dx < scale; ++dx) {
        const BicubicPhase<A> along_x = bicubic_phase<A>(dx, scale);
        A sum = A(0);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const In* row = channel.row(grid.rows, y + along_y.first + j);
          A row_sum = A(0);
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            row_sum += fast_pixel_value(row[channel.column(grid.cols, x + along_x.first + k)]) * along_x.weight[k];
          }
          sum += row_sum * along_y.weight[j];
        }
        target[y * step.y + dy * step.dy + dx * step.dx] = to_pixel<Out>(sum);
      }
    }
  }
}

// order (M,): a value out of range is clamped. fixed_scale 0: any scale.
template <int fixed_scale, typename Out, typename In>
__global__ void __launch_bounds__(bicubic_threads, 2)
    bicubic_kernel(View4<const In> image, const int64_t* __restrict__ order, PatchGrid grid, int32_t scale,
                   BicubicOutput<Out> output) {
  const int32_t patch = grid.rows.patch;
  const int32_t channels = static_cast<int32_t>(image.size[1]);
  const int64_t columns = static_cast<int64_t>(channels) * patch;
  const int64_t strips = divide_up(patch, bicubic_strip);
  const int64_t last_index = image.size[0] * grid.num_patches() - 1;

  for (int64_t m = blockIdx.x; m < output.num_selected; m += gridDim.x) {
    const int64_t index = order[m];
    const PatchPlace place = grid.place(index < 0 ? 0 : at_most(index, last_index));
    for (int64_t column = threadIdx.x; column < columns; column += blockDim.x) {
      const int32_t x = static_cast<int32_t>(output.channel_inner ? column / channels : column % patch);
      const int32_t c = static_cast<int32_t>(output.channel_inner ? column % channels : column / patch);
      const PatchChannel<In> channel{image.data + image.offset(place.image, c, 0, 0), image.stride[2], image.stride[3],
                                     grid.rows.origin(place.row), grid.cols.origin(place.col)};
      Out* target = output.data + m * output.patch_stride + c * output.step.channel + x * output.step.x;
      for (int64_t strip = static_cast<int64_t>(blockIdx.y) * blockDim.y + threadIdx.y; strip < strips;
           strip += static_cast<int64_t>(gridDim.y) * blockDim.y) {
        const int32_t first_y = static_cast<int32_t>(strip) * bicubic_strip;
        const int32_t end_y = static_cast<int32_t>(at_most(first_y + bicubic_strip, patch));
        if constexpr (fixed_scale > 0) {
          bicubic_column<fixed_scale>(channel, grid, x, first_y, end_y, target, output.step);
        } else {
          bicubic_column_any(channel, grid, scale, x, first_y, end_y, target, output.step);
        }
      }
    }
  }
}

}  // namespace enaf
