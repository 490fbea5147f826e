// SPDX-License-Identifier: Apache-2.0
// FSRCNN with its early exits as fsrcnn_patches knows it: the widths of its layers, and where the weights of each lie.
// python/enaf/models/fsrcnn.py is the network itself.
//
//   stage 1: head 5x5, PReLU, shrink 1x1, PReLU, mapping 3x3 twice        tail 1: 3x3 to 16, LeakyReLU, upsample
//   stage 2: mapping 3x3 twice, PReLU                                      tail 2: 3x3 to 36, LeakyReLU, upsample
//   stage 3: nothing                                                       tail 3: 1x1 to 56, PReLU, upsample
#pragma once

#include <cstdint>

#include "host_device.h"

namespace enaf::fsrcnn {

constexpr int colours = 3;
constexpr int head_width = 56;
constexpr int width = 12;
constexpr int mappings = 4;
constexpr int num_tails = 3;
constexpr int head_reach = 2;
constexpr int kernel = 9;  // side of the upsampling transposed convolution

ENAF_HOST_DEVICE constexpr int tail_width(int tail) {
  return tail == 0 ? 16 : tail == 1 ? 36 : 56;
}
ENAF_HOST_DEVICE constexpr int tail_kernel(int tail) {
  return tail == 2 ? 1 : 3;
}
ENAF_HOST_DEVICE constexpr int padding(int scale) {
  return scale == 2 ? 4 : 3;
}
// Of its taps, those of one result pixel lie at most so many source pixels away.
ENAF_HOST_DEVICE constexpr int reach(int scale) {
  return scale == 2 ? 2 : 1;
}

// A convolution: weights [in][y][x][out], biases, and the slope of the activation behind it below zero (1: none).
struct Layer {
  int64_t weight, bias, slope;
};

ENAF_HOST_DEVICE constexpr Layer take_layer(int64_t& at, int in, int side, int out) {
  const Layer layer{at, at + static_cast<int64_t>(in) * side * side * out, 0};
  at = layer.bias + out + 1;
  return {layer.weight, layer.bias, at - 1};
}

// Places in the flat list of weights. Upsampling weights are [in][y][x][colour] of the transposed convolution.
struct Layers {
  Layer head, shrink, mapping[mappings], hidden[num_tails], upsample[num_tails];
  int64_t count;
};

ENAF_HOST_DEVICE constexpr Layers layers() {
  Layers all{};
  int64_t at = 0;
  all.head = take_layer(at, colours, 2 * head_reach + 1, head_width);
  all.shrink = take_layer(at, head_width, 1, width);
  for (int i = 0; i < mappings; ++i) {
    all.mapping[i] = take_layer(at, width, 3, width);
  }
  for (int tail = 0; tail < num_tails; ++tail) {
    all.hidden[tail] = take_layer(at, width, tail_kernel(tail), tail_width(tail));
    all.upsample[tail] = take_layer(at, tail_width(tail), kernel, colours);
  }
  all.count = at;
  return all;
}

}  // namespace enaf::fsrcnn
