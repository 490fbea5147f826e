// SPDX-License-Identifier: Apache-2.0
// fsrcnn_patches' weights as tensor cores take them: halves in fragments of 16 inputs by 8 outputs, in the order in
// which the kernel reads them. A thread makes a lane's part of a fragment. Bytes it must move: 170 KB and less.
#pragma once

#include "../fsrcnn.h"
#include "pack.cuh"
#include "tensor_core.cuh"

namespace enaf::fsrcnn {

constexpr int num_threads = 128;

constexpr int head_side = 2 * head_reach + 1;
constexpr int head_tiles = head_width / 8;  // tile: eight outputs
constexpr int shrink_steps = (head_width + 15) / 16;
constexpr int narrow_tiles = 2;  // of 12 outputs

// Hidden channels of a tail in groups of eight. A product takes two groups; the last one of an odd number is alone.
ENAF_HOST_DEVICE constexpr int num_groups(int tail) {
  return (tail_width(tail) + 7) / 8;
}

// The transposed convolution as a convolution to scale x scale pixels of three colours.
ENAF_HOST_DEVICE constexpr int upsample_side(int scale) {
  return 2 * reach(scale) + 1;
}
ENAF_HOST_DEVICE constexpr int upsample_taps(int scale) {
  return upsample_side(scale) * upsample_side(scale);
}
ENAF_HOST_DEVICE constexpr int upsample_outputs(int scale) {
  return colours * scale * scale;
}
ENAF_HOST_DEVICE constexpr int upsample_tiles(int scale) {
  return (upsample_outputs(scale) + 7) / 8;
}
// Products that sum up two groups of channels, one a tap, or a lone group, one for two taps.
ENAF_HOST_DEVICE constexpr int upsample_steps(int scale, bool lone) {
  return lone ? (upsample_taps(scale) + 1) / 2 : upsample_taps(scale);
}

// Which result pixel of a source pixel's block an output is. Neighbouring outputs are neighbours in a row.
struct Place {
  unsigned colour, y, x;
};
ENAF_HOST_DEVICE constexpr Place place_of(unsigned output, unsigned scale) {
  return {output / (scale * scale), output / scale % scale, output % scale};
}

// Whether any of the outputs 8 * n, ..., 8 * n + 7 sees source pixels `dy` rows away.
ENAF_HOST_DEVICE constexpr bool sees_row(int scale, int n, int dy) {
  for (int output = 8 * n; output < 8 * n + 8 && output < upsample_outputs(scale); ++output) {
    const int tap = static_cast<int>(place_of(output, scale).y) + padding(scale) - scale * dy;
    if (tap >= 0 && tap < kernel) {
      return true;
    }
  }
  return false;
}

constexpr int mapping_fragments = 9 * narrow_tiles;

// First fragments of the layers; within one, [pair of groups][tap or step][tile].
struct Fragments {
  int head, shrink, mapping, hidden[num_tails], upsample[num_tails], count;
};
ENAF_HOST_DEVICE constexpr Fragments fragments(int scale) {
  Fragments all{};
  all.shrink = all.head + head_side * head_tiles;
  all.mapping = all.shrink + shrink_steps * narrow_tiles;
  int at = all.mapping + mappings * mapping_fragments;
  for (int tail = 0; tail < num_tails; ++tail) {
    const int pairs = num_groups(tail) / 2;
    const int lone = num_groups(tail) % 2;
    all.hidden[tail] = at;
    at += (pairs + lone) * tail_kernel(tail) * tail_kernel(tail) * narrow_tiles;
    all.upsample[tail] = at;
    at += (pairs * upsample_steps(scale, false) + lone * upsample_steps(scale, true)) * upsample_tiles(scale);
  }
  all.count = at;
  return all;
}

// An input and an output of a layer.
struct Tap {
  int input, y, x, output;
};

// The weight of a convolution of `in` inputs, `side` x `side` taps and `out` outputs; 0 beyond them.
__device__ inline float weight_of(const float* weights, const Layer& layer, int in, int side, int out, const Tap& tap) {
  const bool exists = tap.input < in && tap.y >= 0 && tap.y < side && tap.x >= 0 && tap.x < side && tap.output < out;
  return exists ? weights[layer.weight + ((tap.input * side + tap.y) * side + tap.x) * out + tap.output] : 0.0f;
}

// The same of a layer behind the shrinking one: `fragment` counts from its first one.
template <int tail>
__device__ float hidden_weight(const float* weights, int fragment, int k, int n) {
  constexpr int side = tail_kernel(tail);
  constexpr int in_pair = side * side * narrow_tiles;
  const int tap = fragment % in_pair / narrow_tiles;
  const int output = 16 * (fragment / in_pair) + fragment % narrow_tiles * 8 + n;
  return weight_of(weights, layers().hidden[tail], width, side, tail_width(tail), {k, tap / side, tap % side, output});
}

template <int scale, int tail>
__device__ float upsample_weight(const float* weights, int fragment, int k, int n) {
  constexpr int taps = upsample_taps(scale);
  constexpr int side = upsample_side(scale);
  const int step = fragment / upsample_tiles(scale);
  const int pair = step / taps;
  const bool lone = 2 * pair + 1 == num_groups(tail);
  const int tap = lone ? 2 * (step % taps) + k / 8 : step % taps;
  const int output = fragment % upsample_tiles(scale) * 8 + n;
  if (tap >= taps || output >= upsample_outputs(scale)) {
    return 0.0f;
  }
  const Place place = place_of(output, scale);
  const int y = static_cast<int>(place.y) + padding(scale) - scale * (tap / side - reach(scale));
  const int x = static_cast<int>(place.x) + padding(scale) - scale * (tap % side - reach(scale));
  return weight_of(weights, layers().upsample[tail], tail_width(tail), kernel, colours,
                   {16 * pair + (lone ? k % 8 : k), y, x, static_cast<int>(place.colour)});
}

// The weight between input `k` of 16 and output `n` of 8 of a fragment; 0 where one of them does not exist.
template <int scale>
__device__ float fragment_weight(const float* weights, int fragment, int k, int n) {
  constexpr Fragments first = fragments(scale);
  constexpr Layers all = layers();
  if (fragment < first.shrink) {  // a row of taps: inputs are the colours of five neighbours, and one that is nothing
    const Tap tap{k % colours, fragment / head_tiles, k / colours, fragment % head_tiles * 8 + n};
    return weight_of(weights, all.head, colours, head_side, head_width, tap);
  }
  if (fragment < first.mapping) {
    const int at = fragment - first.shrink;
    const Tap tap{at / narrow_tiles * 16 + k, 0, 0, at % narrow_tiles * 8 + n};
    return weight_of(weights, all.shrink, head_width, 1, width, tap);
  }
  if (fragment < first.hidden[0]) {
    const int at = (fragment - first.mapping) % mapping_fragments;
    const int layer = (fragment - first.mapping) / mapping_fragments;
    constexpr int64_t step = all.mapping[1].weight - all.mapping[0].weight;
    const Tap tap{k, at / narrow_tiles / 3, at / narrow_tiles % 3, at % narrow_tiles * 8 + n};
    return weight_of(weights, {all.mapping[0].weight + layer * step, 0, 0}, width, 3, width, tap);
  }
  if (fragment < first.upsample[0]) {
    return hidden_weight<0>(weights, fragment - first.hidden[0], k, n);
  }
  if (fragment < first.hidden[1]) {
    return upsample_weight<scale, 0>(weights, fragment - first.upsample[0], k, n);
  }
  if (fragment < first.upsample[1]) {
    return hidden_weight<1>(weights, fragment - first.hidden[1], k, n);
  }
  if (fragment < first.hidden[2]) {
    return upsample_weight<scale, 1>(weights, fragment - first.upsample[1], k, n);
  }
  if (fragment < first.upsample[2]) {
    return hidden_weight<2>(weights, fragment - first.hidden[2], k, n);
  }
  return upsample_weight<scale, 2>(weights, fragment - first.upsample[2], k, n);
}

inline void weights_shape(int scale, dim3& grid, dim3& block) {
  block = dim3(num_threads, 1, 1);
  grid = dim3(static_cast<unsigned>(divide_up(fragments(scale).count * 32, num_threads)), 1, 1);
}

// packed: (fragments, 32)
template <int scale>
__global__ void fsrcnn_weights_kernel(const float* __restrict__ weights, WeightFragment* __restrict__ packed) {
  const int index = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  const int fragment = index / 32;
  if (fragment < fragments(scale).count) {
    const int row = index % 32 / 4;
    const int pair = 2 * (index % 4);
    WeightFragment mine;
    for (int i = 0; i < 2; ++i) {
      mine.word[i] = two_halves(fragment_weight<scale>(weights, fragment, pair + 8 * i, row),
                                fragment_weight<scale>(weights, fragment, pair + 8 * i + 1, row));
    }
    packed[index] = mine;
  }
}

}  // namespace enaf::fsrcnn
