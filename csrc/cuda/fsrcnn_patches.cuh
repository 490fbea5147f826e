// SPDX-License-Identifier: Apache-2.0
// fsrcnn_patches: a block takes a patch from the image through all layers up to its exit, on tensor cores and with
// every feature map in shared memory. A convolution is a product of 16 pixels' inputs with 8 outputs' weights for every
// tap; a warp takes several times 16 pixels, so that a weight that it reads from the cache serves all of them. Between
// layers features are halves, sums are float32. Bytes it must move: the image once, the results once.
//
// Shared memory holds the narrow features of the patch, 16 channels of which 12 are used, and behind them in turn: the
// patch's pixels with their neighbours; the narrow features after an odd number of layers; the hidden features of a
// band of rows: 75 KB for a patch of 32x32 (85 KB at x2). A multiprocessor of compute capability 8.0 or 9.0 holds two
// blocks, of which one multiplies while the other waits for memory or at a barrier; what they leave of its memory is
// the cache that weights are read from. A warp's sums fill its registers, so that more blocks would not fit.
#pragma once

#include <algorithm>

#include "../fsrcnn.h"
#include "../patch_grid.h"
#include "../tensor_view.h"
#include "fsrcnn_weights.cuh"
#include "pack.cuh"
#include "tensor_core.cuh"

namespace enaf::fsrcnn {

constexpr int tile = 16;  // pixels of a product
constexpr int num_warps = num_threads / 32;
constexpr int upsampled_tiles = 4;                        // of a warp at once
constexpr int band = num_warps * upsampled_tiles * tile;  // pixels that a block upsamples at once
constexpr int max_patch = 64;                             // what PatchPixels divides by

// The pixels of a patch, row by row.
struct PatchPixels {
  int side;
  int count;
  uint32_t reciprocal;

  ENAF_HOST_DEVICE explicit PatchPixels(int side)
      : side(side), count(side * side), reciprocal(((1u << 20) + static_cast<uint32_t>(side) - 1) / side) {}

  // pixel / side, exact up to 64 * (64 + 4): the product is too large by less than pixel, which is less than the 2^20 /
  // side that would carry it to the next row.
  ENAF_HOST_DEVICE int row(int pixel) const {
    return static_cast<int>(static_cast<uint32_t>(pixel) * reciprocal >> 20);
  }
};

// Channels of pixels in shared memory: cells of eight channels, all pixels of the first eight, then of the next. So the
// cells of neighbouring pixels lie side by side, and reading and writing them meets no bank twice.
struct FeatureMap {
  int origin;  // cell of pixel (0, 0), which itself need not be in the map
  int pitch;   // cells from row to row
  int plane;   // cells from eight channels to the next

  ENAF_HOST_DEVICE int cell(int y, int x) const { return origin + y * pitch + x; }
};

// Rows [top, top + rows) of a patch and `border` columns to each side, from cell `first` on.
ENAF_HOST_DEVICE FeatureMap make_map(int first, int top, int rows, int side, int border) {
  const int pitch = side + 2 * border;
  return {first - top * pitch + border, pitch, rows * pitch};
}

// Cells of the narrow features with their border. What else there is lies behind them.
ENAF_HOST_DEVICE int narrow_cells(int side) {
  return 2 * (side + 2) * (side + 2);
}

// Shared memory of a block.
inline int shared_bytes(int side, int scale) {
  const PatchPixels patch(side);
  int rows = 0;  // that a band touches at most
  for (int first = 0; first < patch.count; first += band) {
    const int last = static_cast<int>(at_most(first + band, patch.count)) - 1;
    rows = std::max(rows, patch.row(last) - patch.row(first) + 1);
  }
  const int pixels = 2 * (side + 2 * head_reach) * side;
  const int hidden = num_groups(num_tails - 1) * (rows + 2 * reach(scale)) * (side + 2 * reach(scale));
  const int behind = std::max({narrow_cells(side), pixels, hidden});
  return (narrow_cells(side) + behind) * static_cast<int>(sizeof(Cell));
}

// A block a patch: patches by descending exit, the longest work first, keep the multiprocessors evenly busy.
inline void patches_shape(int64_t num_selected, dim3& grid, dim3& block) {
  block = dim3(num_threads, 1, 1);
  grid = dim3(static_cast<unsigned>(num_selected), 1, 1);
}

enum class PixelType : int32_t { uint8, uint16, half, bfloat16, single };

// An image (B, 3, H, W) of any of them: where it lies, and sizes and strides in its own elements.
struct AnyImage {
  PixelType type;
  View4<const uint8_t> view;
};

// Patches leave at exit 3 before `third`, at exit 2 before `second`, else at exit 1. Where `offsets` is not null, the
// numbers lie there on the device.
struct Depths {
  const int64_t* offsets;
  int64_t second, third;
};

struct Results {
  void* data;  // (M, 3, scale * P, scale * P), contiguous
  bool half;   // else float32
};

// What all of a block's functions need.
struct Work {
  Cell* shared;
  PatchPixels patch;
  const float* weights;          // biases and slopes
  const WeightFragment* packed;  // (fragments, 32)
};

// Of this thread in its warp. Without a sign, so that divisions by powers of two are shifts.
__device__ inline unsigned lane() {
  return threadIdx.x % 32;
}
__device__ inline int warp() {
  return static_cast<int>(threadIdx.x / 32);
}

__device__ inline float activated(float x, float slope) {
  return x > 0.0f ? x : slope * x;
}
// Two outputs' sums of one pixel.
__device__ inline uint32_t activated_pair(const float* sums, float slope) {
  return two_halves(activated(sums[0], slope), activated(sums[1], slope));
}

// Sums before the first product: biases, of which `bias(output)` gives one.
template <int M, int N, typename Bias>
__device__ void begin_sums(float (&sums)[M][N][4], const Bias& bias) {
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float first = bias(8 * n + 2 * (lane() % 4));
    const float second = bias(8 * n + 2 * (lane() % 4) + 1);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      sums[m][n][0] = sums[m][n][2] = first;
      sums[m][n][1] = sums[m][n][3] = second;
    }
  }
}

// The cells that this lane names to load_operands, of M tiles from pixel `first` on; pixels from `end` on are the last
// one before. The second eight inputs lie `next` cells further.
template <int M>
__device__ void operand_cells(int (&cells)[M], const PatchPixels& patch, const FeatureMap& map, int first, int end,
                              int next) {
  __syncwarp();  // stores of before may have parted the lanes, whom a product needs together
#pragma unroll
  for (int m = 0; m < M; ++m) {
    const int pixel = min(first + m * tile + static_cast<int>(lane() % 16), end - 1);
    const int y = patch.row(pixel);
    cells[m] = map.cell(y, pixel - y * patch.side) + (lane() < 16 ? 0 : next);
  }
}

// The sums of a tile from pixel `first` on, of pixels before `end`, as eight or (`both`) 16 channels.
__device__ inline void store_features(const Work& work, const FeatureMap& map, const float (&sums)[narrow_tiles][4],
                                      float slope, int first, int end, bool both) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pixel = first + static_cast<int>(lane() / 4) + 8 * half;
    if (pixel < end) {
      const int y = work.patch.row(pixel);
      Cell* cell = work.shared + map.cell(y, pixel - y * work.patch.side);
      cell->word[lane() % 4] = activated_pair(&sums[0][2 * half], slope);
      if (both) {
        cell[map.plane].word[lane() % 4] = activated_pair(&sums[1][2 * half], slope);
      }
    }
  }
}

// Zeros in what of rows [top, top + rows) of a map lies around the patch.
__device__ inline void clear_around(const Work& work, const FeatureMap& map, int top, int rows, int border,
                                    int groups) {
  for (int i = static_cast<int>(threadIdx.x); i < rows * map.pitch; i += num_threads) {
    const int y = top + i / map.pitch;
    const int x = i % map.pitch - border;
    if (y < 0 || y >= work.patch.side || x < 0 || x >= work.patch.side) {
      for (int group = 0; group < groups; ++group) {
        work.shared[map.cell(y, x) + group * map.plane] = Cell{};
      }
    }
  }
}

// The patch as the head takes it: 16 channels of a pixel are the colours of its row from two pixels before it to two
// behind, and a zero. Around the patch there are zeros.
template <typename In>
__device__ void expand_pixels(const Work& work, const FeatureMap& map, const View4<const uint8_t>& view,
                              const PatchGrid& grid, int64_t index) {
  const auto* image = reinterpret_cast<const In*>(view.data);
  const PatchPlace place = grid.place(index);
  const int32_t top = grid.rows.origin(place.row);
  const int32_t left = grid.cols.origin(place.col);
  const int side = work.patch.side;
  for (int i = static_cast<int>(threadIdx.x); i < (side + 2 * head_reach) * side; i += num_threads) {
    const int row = work.patch.row(i);
    const int x = i - row * side;
    const int y = row - head_reach;
    float values[16] = {};
    if (y >= 0 && y < side) {
      const In* source = image + view.offset(place.image, 0, grid.rows.clamp(top + y), 0);
#pragma unroll
      for (int k = 0; k < head_side; ++k) {
        const int column = x + k - head_reach;
        if (column >= 0 && column < side) {
          const In* pixel = source + grid.cols.clamp(left + column) * view.stride[3];
#pragma unroll
          for (int c = 0; c < colours; ++c) {
            values[colours * k + c] = fast_pixel_value(pixel[c * view.stride[1]]);
          }
        }
      }
    }
#pragma unroll
    for (int group = 0; group < 2; ++group) {
      Cell cell;
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        cell.word[k] = two_halves(values[8 * group + 2 * k], values[8 * group + 2 * k + 1]);
      }
      work.shared[map.cell(y, x) + group * map.plane] = cell;
    }
  }
}

__device__ inline void expand_pixels(const Work& work, const FeatureMap& map, const AnyImage& image,
                                     const PatchGrid& grid, int64_t index) {
  switch (image.type) {
    case PixelType::uint8:
      return expand_pixels<uint8_t>(work, map, image.view, grid, index);
    case PixelType::uint16:
      return expand_pixels<uint16_t>(work, map, image.view, grid, index);
    case PixelType::half:
      return expand_pixels<HalfBits>(work, map, image.view, grid, index);
    case PixelType::bfloat16:
      return expand_pixels<BFloat16Bits>(work, map, image.view, grid, index);
    case PixelType::single:
      return expand_pixels<float>(work, map, image.view, grid, index);
  }
}

// Head and shrink. The features between them stay in registers, where the sums of one are the operands of the other.
__device__ inline void run_head(const Work& work, const FeatureMap& pixels, const FeatureMap& narrow) {
  constexpr Layers all = layers();
  const int count = work.patch.count;
  const WeightFragment* packed = work.packed + lane();
  const WeightFragment* shrink = packed + 32 * head_side * head_tiles;
  WeightFragment head[head_side][head_tiles];
#pragma unroll
  for (int i = 0; i < head_side * head_tiles; ++i) {
    head[i / head_tiles][i % head_tiles] = read_only(packed + 32 * i);
  }
  const float head_slope = work.weights[all.head.slope];
  const float shrink_slope = work.weights[all.shrink.slope];
  for (int first = warp() * tile; first < count; first += num_warps * tile) {
    int cells[1];
    operand_cells(cells, work.patch, pixels, first, count, pixels.plane);
    uint32_t inputs[head_side][1][4];
#pragma unroll
    for (int dy = 0; dy < head_side; ++dy) {
      load_operands(inputs[dy], work.shared, cells, (dy - head_reach) * pixels.pitch);
    }
    float shrunk[1][narrow_tiles][4];
    begin_sums(shrunk, [&](unsigned n) { return n < width ? work.weights[all.shrink.bias + n] : 0.0f; });
#pragma unroll
    for (int step = 0; step < shrink_steps; ++step) {
      uint32_t features[1][4] = {};
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int n = 2 * step + half;
        if (n < head_tiles) {
          float sums[1][1][4];
          begin_sums(sums, [&](unsigned output) { return work.weights[all.head.bias + 8 * n + output]; });
#pragma unroll
          for (int dy = 0; dy < head_side; ++dy) {
            multiply_add(sums, inputs[dy], {head[dy][n]});
          }
          features[0][2 * half] = activated_pair(&sums[0][0][0], head_slope);
          features[0][2 * half + 1] = activated_pair(&sums[0][0][2], head_slope);
        }
      }
      const WeightFragment* weights = shrink + 32 * narrow_tiles * step;
      multiply_add(shrunk, features, {read_only(weights), read_only(weights + 32)});
    }
    store_features(work, narrow, shrunk[0], shrink_slope, first, count, true);
  }
}

// Where a layer's biases and its slope lie, and its first fragment.
struct Places {
  int bias, slope, fragment;
};
ENAF_HOST_DEVICE constexpr Places places(const Layer& layer, int fragment) {
  return {static_cast<int>(layer.bias), static_cast<int>(layer.slope), fragment};
}

// A convolution of narrow features at pixels [begin, end), to `out` outputs. A warp takes M tiles and 16 outputs at
// once; all of these are dealt out in one go.
template <int side, int M>
__device__ void convolve(const Work& work, const FeatureMap& from, FeatureMap to, int begin, int end,
                         const Places& layer, int out) {
  constexpr int at_once = M * tile;
  const float slope = work.weights[layer.slope];
  const float* biases = work.weights + layer.bias;
  const WeightFragment* weights = work.packed + 32 * layer.fragment + lane();
  const int stop = begin + (end - begin + at_once - 1) / at_once * at_once;
  int first = begin + warp() * at_once;
  for (int channel = 0; channel < out; channel += 16) {
    for (; first < stop; first += num_warps * at_once) {
      int cells[M];
      operand_cells(cells, work.patch, from, first, end, from.plane);
      float sums[M][narrow_tiles][4];
      begin_sums(sums, [&](unsigned n) {
        const int output = channel + static_cast<int>(n);
        return output < out ? biases[output] : 0.0f;
      });
#pragma unroll
      for (int tap = 0; tap < side * side; ++tap) {
        uint32_t inputs[M][4];
        load_operands(inputs, work.shared, cells, (tap / side - side / 2) * from.pitch + tap % side - side / 2);
        const WeightFragment* here = weights + 32 * narrow_tiles * tap;
        multiply_add(sums, inputs, {read_only(here), read_only(here + 32)});
      }
#pragma unroll
      for (int m = 0; m < M; ++m) {
        store_features(work, to, sums[m], slope, first + m * tile, end, channel + 8 < out);
      }
    }
    first -= stop - begin;
    weights += 32 * narrow_tiles * side * side;
    to.origin += 2 * to.plane;
  }
}

// Adds what two groups of hidden channels, or a lone one, give the results of M tiles, of which `cells` are this lane's
// cells. Outputs are left out where none of a tile's sees the row of the tap.
template <int scale, bool lone, int M>
__device__ void upsample(float (&sums)[M][upsample_tiles(scale)][4], const Cell* shared, int pitch,
                         const int (&cells)[M], const WeightFragment* packed) {
  constexpr int tiles = upsample_tiles(scale);
  constexpr int side = upsample_side(scale);
  constexpr int taps = upsample_taps(scale);
  constexpr int centre = reach(scale);
#pragma unroll
  for (int step = 0; step < upsample_steps(scale, lone); ++step) {
    const int tap = lone ? 2 * step : step;
    const int next = lone && tap + 1 < taps ? tap + 1 : tap;
    int away = (tap / side - centre) * pitch + tap % side - centre;
    if (lone && lane() >= 16) {
      away = (next / side - centre) * pitch + next % side - centre;
    }
    uint32_t inputs[M][4];
    load_operands(inputs, shared, cells, away);
    WeightFragment weights[tiles];
    uint32_t seeing = 0;
#pragma unroll
    for (int n = 0; n < tiles; ++n) {
      if (sees_row(scale, n, tap / side - centre) || sees_row(scale, n, next / side - centre)) {
        weights[n] = read_only(packed + 32 * (step * tiles + n));
        seeing |= 1u << n;
      }
    }
    multiply_add(sums, inputs, weights, seeing);
  }
}

__device__ inline void store_result(float* to, float x) {
  *to = x;
}
__device__ inline void store_result(HalfBits* to, float x) {
  to->bits = static_cast<uint16_t>(two_halves(x, 0.0f));
}
__device__ inline void store_two_results(float* to, float first, float second) {
  const float both[2] = {first, second};
  store_aligned<2>(to, both);
}
__device__ inline void store_two_results(HalfBits* to, float first, float second) {
  *reinterpret_cast<uint32_t*>(to) = two_halves(first, second);
}

// The results of a tile from pixel `first` on, of pixels before `end`. results: of the patch.
template <int scale, typename T>
__device__ void store_results(T* results, const PatchPixels& patch, const float (&sums)[upsample_tiles(scale)][4],
                              int first, int end) {
  const int row = scale * patch.side;
  const auto at = [&](unsigned output) {
    const Place place = place_of(output, scale);
    return static_cast<int>(place.colour * row + place.y) * row + static_cast<int>(place.x);
  };
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int pixel = first + static_cast<int>(lane() / 4) + 8 * half;
    if (pixel < end) {
      const int y = patch.row(pixel);
      T* to = results + scale * (y * row + pixel - y * patch.side);
#pragma unroll
      for (int n = 0; n < upsample_tiles(scale); ++n) {
        const unsigned output = 8 * n + 2 * (lane() % 4);
        const float* both = &sums[n][2 * half];
        if (scale % 2 == 0 && output < upsample_outputs(scale)) {  // side by side, at an even column
          store_two_results(to + at(output), both[0], both[1]);
        }
        if (scale % 2 != 0 && output < upsample_outputs(scale)) {
          store_result(to + at(output), both[0]);
        }
        if (scale % 2 != 0 && output + 1 < upsample_outputs(scale)) {
          store_result(to + at(output + 1), both[1]);
        }
      }
    }
  }
}

// What an exit's tail is, chosen at run time: indexing an array would copy it to local memory.
struct Tail {
  int width;
  bool wide;  // 3x3 taps to the hidden channels
  Places hidden, upsample;
};
template <int scale, int tail>
ENAF_HOST_DEVICE constexpr Tail make_tail() {
  constexpr Layers all = layers();
  constexpr Fragments first = fragments(scale);
  return {tail_width(tail), tail_kernel(tail) == 3, places(all.hidden[tail], first.hidden[tail]),
          places(all.upsample[tail], first.upsample[tail])};
}
template <int scale>
ENAF_HOST_DEVICE Tail tail_of(int exit) {
  constexpr Tail first = make_tail<scale, 0>();
  constexpr Tail second = make_tail<scale, 1>();
  constexpr Tail third = make_tail<scale, 2>();
  return exit == 1 ? first : exit == 2 ? second : third;
}

// Band by band: the hidden features of its rows and those around it, then the results of its pixels.
template <int scale>
__device__ void run_tail(const Work& work, const FeatureMap& narrow, int behind, const Tail& tail,
                         const Results& results, int64_t index) {
  constexpr int tiles = upsample_tiles(scale);
  constexpr int border = reach(scale);
  constexpr int M = upsampled_tiles;
  const PatchPixels& patch = work.patch;
  const int groups = (tail.width + 7) / 8;
  for (int begin = 0; begin < patch.count; begin += band) {
    const int end = min(begin + band, patch.count);
    const int top = patch.row(begin) - border;
    const int rows = patch.row(end - 1) + border + 1 - top;
    const int hidden_begin = max(top, 0) * patch.side;
    const int hidden_end = min(top + rows, patch.side) * patch.side;
    const FeatureMap hidden = make_map(behind, top, rows, patch.side, border);
    clear_around(work, hidden, top, rows, border, groups);
    if (tail.wide) {
      convolve<3, 2>(work, narrow, hidden, hidden_begin, hidden_end, tail.hidden, tail.width);
    } else {
      convolve<1, 2>(work, narrow, hidden, hidden_begin, hidden_end, tail.hidden, tail.width);
    }
    __syncthreads();

    const int first = begin + warp() * M * tile;
    if (first < end) {
      int cells[M];
      operand_cells(cells, patch, hidden, first, end, hidden.plane);
      float sums[M][tiles][4];
      const float* biases = work.weights + tail.upsample.bias;
      begin_sums(sums,
                 [&](unsigned n) { return n < upsample_outputs(scale) ? biases[place_of(n, scale).colour] : 0.0f; });
      const WeightFragment* packed = work.packed + 32 * tail.upsample.fragment + lane();
      for (int group = 1; group < groups; group += 2) {
        upsample<scale, false>(sums, work.shared, hidden.pitch, cells, packed);
        packed += 32 * upsample_steps(scale, false) * tiles;
#pragma unroll
        for (int m = 0; m < M; ++m) {
          cells[m] += 2 * hidden.plane;
        }
      }
      if (groups % 2 != 0) {
#pragma unroll
        for (int m = 0; m < M; ++m) {
          cells[m] -= lane() < 16 ? 0 : hidden.plane;
        }
        upsample<scale, true>(sums, work.shared, hidden.pitch, cells, packed);
      }
      const int64_t before = index * upsample_outputs(scale) * patch.count;
#pragma unroll
      for (int m = 0; m < M; ++m) {
        if (results.half) {
          store_results<scale>(static_cast<HalfBits*>(results.data) + before, patch, sums[m], first + m * tile, end);
        } else {
          store_results<scale>(static_cast<float*>(results.data) + before, patch, sums[m], first + m * tile, end);
        }
      }
    }
    __syncthreads();
  }
}

// order (M,): a value out of range is clamped. packed: what fsrcnn_weights_kernel made of the weights.
template <int scale>
__global__ void __launch_bounds__(num_threads, 2)
    fsrcnn_patches_kernel(AnyImage image, const int64_t* __restrict__ order, Depths depths, PatchGrid grid,
                          const float* weights, const WeightFragment* packed, Results results) {
  if constexpr (has_tensor_cores) {
    constexpr Layers all = layers();
    const Work work{dynamic_shared(), PatchPixels(grid.rows.patch), weights, packed};
    const int side = work.patch.side;
    const int behind = narrow_cells(side);
    const FeatureMap pixels = make_map(behind, -head_reach, side + 2 * head_reach, side, 0);
    const FeatureMap narrow = make_map(0, -1, side + 2, side, 1);
    const FeatureMap other = make_map(behind, -1, side + 2, side, 1);
    const int64_t last_index = image.view.size[0] * grid.num_patches() - 1;
    const int64_t named = order[blockIdx.x];
    expand_pixels(work, pixels, image, grid, named < 0 ? 0 : at_most(named, last_index));
    clear_around(work, narrow, -1, side + 2, 1, 2);
    __syncthreads();
    run_head(work, pixels, narrow);
    __syncthreads();

    const int exit = blockIdx.x < (depths.offsets == nullptr ? depths.third : depths.offsets[3])    ? 3
                     : blockIdx.x < (depths.offsets == nullptr ? depths.second : depths.offsets[2]) ? 2
                                                                                                    : 1;
    clear_around(work, other, -1, side + 2, 1, 2);
    for (int layer = 0; layer < (exit == 1 ? mappings / 2 : mappings); ++layer) {
      constexpr Places first = places(all.mapping[0], fragments(scale).mapping);
      constexpr int step = places(all.mapping[1], 0).bias - first.bias;
      FeatureMap from = narrow;
      FeatureMap to = narrow;
      (layer % 2 == 0 ? to : from).origin = other.origin;
      const Places here{first.bias + layer * step, first.slope + layer * step,
                        first.fragment + layer * mapping_fragments};
      convolve<3, 4>(work, from, to, 0, work.patch.count, here, width);
      __syncthreads();
    }
    run_tail<scale>(work, narrow, behind, tail_of<scale>(exit), results, blockIdx.x);
  }
}

}  // namespace enaf::fsrcnn
