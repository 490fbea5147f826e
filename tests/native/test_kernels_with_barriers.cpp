// SPDX-License-Identifier: Apache-2.0
// edge_score and route_exits: their kernels' source, run by the emulation, against plain loops.
#include "cuda_emulation.h"

#include "cases.h"
#include "cuda/edge_score.cuh"
#include "cuda/route_exits.cuh"

namespace {

using namespace native;

int64_t mirrored(int64_t i, int64_t n) {
  return n == 1 ? 0 : i < 0 ? -i : i >= n ? 2 * n - 2 - i : i;
}

template <typename T>
int level_of(T x) {
  if constexpr (std::is_same_v<T, uint8_t>) {
    return x;
  } else if constexpr (std::is_same_v<T, uint16_t>) {
    return x / 257;
  } else {
    return static_cast<int>(static_cast<float>(x) * 255.0f);
  }
}

template <typename T>
int grey_at(const enaf::View4<const T>& image, int64_t b, int64_t y, int64_t x) {
  y = std::min(y, image.size[2] - 1);
  x = std::min(x, image.size[3] - 1);
  const int first = level_of(image.at(b, 0, y, x));
  if (image.size[1] == 1) {
    return first;
  }
  return (9798 * first + 19235 * level_of(image.at(b, 1, y, x)) + 3735 * level_of(image.at(b, 2, y, x)) + 16384) >> 15;
}

template <typename T>
float expected_score(const enaf::View4<const T>& image, int64_t b, int64_t top, int64_t left, int64_t patch) {
  static constexpr int kernel[3][3] = {{2, 0, 2}, {0, -8, 0}, {2, 0, 2}};
  int64_t sum = 0;
  for (int64_t y = 0; y < patch; ++y) {
    for (int64_t x = 0; x < patch; ++x) {
      int value = 0;
      for (int j = -1; j <= 1; ++j) {
        for (int i = -1; i <= 1; ++i) {
          value +=
              kernel[j + 1][i + 1] * grey_at(image, b, top + mirrored(y + j, patch), left + mirrored(x + i, patch));
        }
      }
      sum += std::min(std::abs(value), 255);
    }
  }
  return static_cast<float>(static_cast<double>(sum) / static_cast<double>(patch * patch));
}

template <typename T, int C>
void check_edge_score(const Shape& shape, Layout layout) {
  const Random4<T> image(shape.batch, C, shape.height, shape.width, layout);
  const auto grid = enaf::make_patch_grid(shape.height, shape.width, shape.patch, shape.overlap);
  const auto& view = image.view;
  const auto order = view.interleaved() ? enaf::PixelOrder::interleaved
                     : view.planar()    ? enaf::PixelOrder::planar
                                        : enaf::PixelOrder::strided;
  Buffer<float> score(shape.batch * grid.num_patches());
  dim3 blocks, threads;
  enaf::edge_score_shape(score.count, grid.rows.patch, blocks, threads);
  blocks.x = std::min(blocks.x, 5u);  // makes blocks take several patches
  emulation::launch_with_barriers(blocks, threads, enaf::edge_score_kernel<T, C>, view, grid, order, score.data.get());

  const int64_t stride = shape.patch - shape.overlap;
  for (int64_t i = 0; i < score.count; ++i) {
    const int64_t in_image = i % grid.num_patches();
    const float expected = expected_score(view, i / grid.num_patches(), in_image / grid.cols.count * stride,
                                          in_image % grid.cols.count * stride, shape.patch);
    expect(score[i] == expected, "edge_score: patch %ld of %ldx%ld: %g, expected %g", i, shape.height, shape.width,
           score[i], expected);
  }
}

void check_route_exits(int64_t num_patches, int64_t num_exits, bool out_of_range) {
  Buffer<int64_t> exits(num_patches);
  std::vector<int64_t> clamped;
  for (int64_t i = 0; i < num_patches; ++i) {
    exits[i] = out_of_range ? random_below(num_exits + 4) - 2 : random_below(num_exits);
    clamped.push_back(std::clamp<int64_t>(exits[i], 0, num_exits - 1));
  }
  const auto blocks = static_cast<unsigned>(enaf::divide_up(std::max<int64_t>(num_patches, 1), enaf::route_chunk));
  const dim3 threads{enaf::route_warps * 32};
  Buffer<int32_t> counts(num_exits * blocks);
  Buffer<int64_t> order(num_patches);
  Buffer<int64_t> offsets(num_exits + 1);
  const auto exits_of_type = static_cast<int32_t>(num_exits);
  emulation::launch_with_barriers({blocks}, threads, enaf::count_exits_kernel, exits.data.get(), num_patches,
                                  exits_of_type, counts.data.get());
  emulation::launch_with_barriers({blocks}, threads, enaf::place_exits_kernel, exits.data.get(), counts.data.get(),
                                  num_patches, exits_of_type, order.data.get(), offsets.data.get());

  std::vector<int64_t> expected(num_patches);
  for (int64_t i = 0; i < num_patches; ++i) {
    expected[i] = i;
  }
  std::stable_sort(expected.begin(), expected.end(), [&](int64_t a, int64_t b) { return clamped[a] > clamped[b]; });
  for (int64_t i = 0; i < num_patches; ++i) {
    expect(order[i] == expected[i], "route_exits: order[%ld] of %ld is %ld, expected %ld", i, num_patches, order[i],
           expected[i]);
  }
  for (int64_t j = 0; j <= num_exits; ++j) {
    const int64_t count = std::count_if(clamped.begin(), clamped.end(), [&](int64_t exit) { return exit >= j; });
    expect(offsets[j] == count, "route_exits: offsets[%ld] is %ld, expected %ld", j, offsets[j], count);
  }
}

}  // namespace

int main() {
  // Threads that wait for each other take their time here: every shape once, every dtype and layout on some.
  for (const Shape& shape : shapes) {
    check_edge_score<uint8_t, 3>(shape, shape.width % 2 == 0 ? Layout::contiguous : Layout::channels_last);
  }
  for (const Shape& shape : {shapes[0], shapes[3], shapes[6]}) {
    check_edge_score<uint8_t, 3>(shape, Layout::contiguous);
    check_edge_score<uint8_t, 1>(shape, Layout::sliced);
    check_edge_score<uint16_t, 3>(shape, Layout::contiguous);
    check_edge_score<Half, 3>(shape, Layout::channels_last);
    check_edge_score<BFloat16, 1>(shape, Layout::contiguous);
    check_edge_score<float, 3>(shape, Layout::contiguous);
  }
  check_edge_score<uint8_t, 3>({1, 3, 90, 140, 70, 6}, Layout::contiguous);  // patches of several tiles
  check_edge_score<uint8_t, 3>({1, 3, 66, 131, 131, 4}, Layout::channels_last);

  for (const int64_t num_patches : {0, 1, 33, 4100}) {
    check_route_exits(num_patches, 4, false);
  }
  check_route_exits(300, 1, false);
  check_route_exits(2100, 16, false);
  check_route_exits(2100, 64, false);
  check_route_exits(300, 4, true);
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
