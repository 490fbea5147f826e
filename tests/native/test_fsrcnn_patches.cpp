// SPDX-License-Identifier: Apache-2.0
// fsrcnn_patches: its kernels' source, run by the emulation, against plain loops in double that round where the kernel
// does: pixels, weights and the features between layers to half precision.
#include "cuda_emulation.h"

#include "cases.h"
#include "cuda/fsrcnn_patches.cuh"
#include "fsrcnn.h"

namespace {

using namespace native;
namespace fsrcnn = enaf::fsrcnn;

constexpr fsrcnn::Layers layers = fsrcnn::layers();

double rounded(double x) {
  return static_cast<double>(static_cast<float>(Half(static_cast<float>(x))));
}

struct Maps {
  int count, side;
  std::vector<double> values;

  Maps(int count, int side) : count(count), side(side), values(static_cast<size_t>(count) * side * side) {}
  double& at(int map, int y, int x) { return values[(static_cast<size_t>(map) * side + y) * side + x]; }
  double padded(int map, int y, int x) { return y >= 0 && y < side && x >= 0 && x < side ? at(map, y, x) : 0.0; }
};

Maps convolved(Maps& in, const Buffer<float>& weights, const fsrcnn::Layer& layer, int kernel, int out) {
  Maps result(out, in.side);
  for (int n = 0; n < out; ++n) {
    for (int y = 0; y < in.side; ++y) {
      for (int x = 0; x < in.side; ++x) {
        double sum = weights[layer.bias + n];
        for (int map = 0; map < in.count; ++map) {
          for (int ky = 0; ky < kernel; ++ky) {
            for (int kx = 0; kx < kernel; ++kx) {
              sum += in.padded(map, y + ky - kernel / 2, x + kx - kernel / 2) *
                     rounded(weights[layer.weight + ((map * kernel + ky) * kernel + kx) * out + n]);
            }
          }
        }
        result.at(n, y, x) = rounded(sum > 0 ? sum : sum * weights[layer.slope]);
      }
    }
  }
  return result;
}

Maps upsampled(Maps& in, const Buffer<float>& weights, const fsrcnn::Layer& layer, int scale) {
  Maps result(fsrcnn::colours, in.side * scale);
  for (int c = 0; c < fsrcnn::colours; ++c) {
    for (int y = 0; y < result.side; ++y) {
      for (int x = 0; x < result.side; ++x) {
        result.at(c, y, x) = weights[layer.bias + c];
      }
    }
  }
  for (int map = 0; map < in.count; ++map) {
    for (int y = 0; y < in.side; ++y) {
      for (int x = 0; x < in.side; ++x) {
        for (int ky = 0; ky < fsrcnn::kernel; ++ky) {
          for (int kx = 0; kx < fsrcnn::kernel; ++kx) {
            const int to_y = scale * y - fsrcnn::padding(scale) + ky;
            const int to_x = scale * x - fsrcnn::padding(scale) + kx;
            for (int c = 0; c < fsrcnn::colours; ++c) {
              if (to_y >= 0 && to_y < result.side && to_x >= 0 && to_x < result.side) {
                const int64_t at = layer.weight + ((map * fsrcnn::kernel + ky) * fsrcnn::kernel + kx) * 3 + c;
                result.at(c, to_y, to_x) += in.at(map, y, x) * rounded(weights[at]);
              }
            }
          }
        }
      }
    }
  }
  return result;
}

Maps network(Maps& patch, const Buffer<float>& weights, int scale, int exit) {
  Maps head = convolved(patch, weights, layers.head, 5, fsrcnn::head_width);
  Maps features = convolved(head, weights, layers.shrink, 1, fsrcnn::width);
  for (int i = 0; i < (exit == 1 ? 2 : 4); ++i) {
    features = convolved(features, weights, layers.mapping[i], 3, fsrcnn::width);
  }
  const int tail = exit - 1;
  Maps hidden = convolved(features, weights, layers.hidden[tail], fsrcnn::tail_kernel(tail), fsrcnn::tail_width(tail));
  return upsampled(hidden, weights, layers.upsample[tail], scale);
}

template <typename T>
double unit(T x) {
  const double value = static_cast<double>(static_cast<float>(x));
  return enaf::is_integral_pixel<T> ? value / (sizeof(T) == 1 ? 255.0 : 65535.0) : value;
}

template <typename T>
constexpr fsrcnn::PixelType pixel_type = std::is_same_v<T, uint8_t>    ? fsrcnn::PixelType::uint8
                                         : std::is_same_v<T, uint16_t> ? fsrcnn::PixelType::uint16
                                         : std::is_same_v<T, Half>     ? fsrcnn::PixelType::half
                                         : std::is_same_v<T, BFloat16> ? fsrcnn::PixelType::bfloat16
                                                                       : fsrcnn::PixelType::single;

// Loud in every layer, and features of the order of one.
Buffer<float> random_weights() {
  Buffer<float> weights(layers.count);
  std::normal_distribution<float> normal;
  const auto fill = [&](const fsrcnn::Layer& layer, int fan_in, int out) {
    for (int64_t i = layer.weight; i < layer.bias; ++i) {
      weights[i] = normal(generator()) / std::sqrt(static_cast<float>(fan_in));
    }
    for (int i = 0; i < out; ++i) {
      weights[layer.bias + i] = 0.2f * normal(generator());
    }
    weights[layer.slope] = 0.5f + 0.25f * std::tanh(normal(generator()));
  };
  fill(layers.head, 75, fsrcnn::head_width);
  fill(layers.shrink, fsrcnn::head_width, fsrcnn::width);
  for (const fsrcnn::Layer& mapping : layers.mapping) {
    fill(mapping, 9 * fsrcnn::width, fsrcnn::width);
  }
  for (int tail = 0; tail < fsrcnn::num_tails; ++tail) {
    fill(layers.hidden[tail], fsrcnn::tail_kernel(tail) * fsrcnn::tail_kernel(tail) * fsrcnn::width,
         fsrcnn::tail_width(tail));
    fill(layers.upsample[tail], 4 * fsrcnn::tail_width(tail), fsrcnn::colours);
  }
  return weights;
}

// Patches `order` by their exits: `reached[j]` of them go to exit j or further.
template <int scale, typename T, typename Out>
Buffer<Out> run(const Random4<T>& image, const enaf::PatchGrid& grid, const Buffer<int64_t>& order,
                const Buffer<int64_t>& reached, bool on_device, const Buffer<float>& weights) {
  dim3 blocks, threads;
  Buffer<enaf::WeightFragment> packed(int64_t{32} * fsrcnn::fragments(scale).count);
  fsrcnn::weights_shape(scale, blocks, threads);
  emulation::launch(blocks, threads, fsrcnn::fsrcnn_weights_kernel<scale>, weights.data.get(), packed.data.get());

  const int side = grid.rows.patch;
  Buffer<Out> results(order.count * fsrcnn::upsample_outputs(scale) * side * side);
  enaf::View4<const uint8_t> bytes{reinterpret_cast<const uint8_t*>(image.view.data), {}, {}};
  std::copy(image.view.size, image.view.size + 4, bytes.size);
  std::copy(image.view.stride, image.view.stride + 4, bytes.stride);
  const fsrcnn::Depths depths =
      on_device ? fsrcnn::Depths{reached.data.get(), 0, 0} : fsrcnn::Depths{nullptr, reached[2], reached[3]};
  fsrcnn::patches_shape(order.count, blocks, threads);
  emulation::launch_with_shared(blocks, threads, fsrcnn::shared_bytes(side, scale),
                                fsrcnn::fsrcnn_patches_kernel<scale>, fsrcnn::AnyImage{pixel_type<T>, bytes},
                                order.data.get(), depths, grid, weights.data.get(), packed.data.get(),
                                fsrcnn::Results{results.data.get(), std::is_same_v<Out, Half>});
  return results;
}

// Pixels of patch `index` as the head takes them, those past the image's edges replicated.
template <typename T>
Maps patch_of(const enaf::View4<const T>& image, const enaf::PatchGrid& grid, int64_t index) {
  Maps patch(fsrcnn::colours, grid.rows.patch);
  const int64_t in_image = index % grid.num_patches();
  const int64_t top = in_image / grid.cols.count * grid.rows.stride;
  const int64_t left = in_image % grid.cols.count * grid.cols.stride;
  for (int c = 0; c < fsrcnn::colours; ++c) {
    for (int y = 0; y < patch.side; ++y) {
      for (int x = 0; x < patch.side; ++x) {
        patch.at(c, y, x) = rounded(unit(image.at(index / grid.num_patches(), c, std::min(top + y, image.size[2] - 1),
                                                  std::min(left + x, image.size[3] - 1))));
      }
    }
  }
  return patch;
}

// A patch for every exit, from the last one on, which hangs over the image's edges.
template <int scale, typename T, typename Out>
void check(const Shape& shape, Layout layout, const std::vector<int>& exits, bool on_device) {
  const Random4<T> image(shape.batch, fsrcnn::colours, shape.height, shape.width, layout);
  const auto grid = enaf::make_patch_grid(shape.height, shape.width, shape.patch, shape.overlap);
  const Buffer<float> weights = random_weights();
  const int64_t all = shape.batch * grid.num_patches();
  Buffer<int64_t> order(static_cast<int64_t>(exits.size()));
  Buffer<int64_t> reached(5);
  for (int depth = 0; depth < 5; ++depth) {
    reached[depth] = std::count_if(exits.begin(), exits.end(), [&](int exit) { return exit >= depth; });
  }
  for (int64_t k = 0; k < order.count; ++k) {
    order[k] = k == 0 ? all + 1000 : std::max<int64_t>(all - 1 - k, 0);  // out of range: the last
  }
  const Buffer<Out> results = run<scale, T, Out>(image, grid, order, reached, on_device, weights);

  double worst = 0, total = 0, largest = 0;
  for (int64_t k = 0; k < order.count; ++k) {
    Maps patch = patch_of(image.view, grid, std::min(order[k], all - 1));
    const Maps expected = network(patch, weights, scale, exits[k]);
    const auto values = static_cast<int64_t>(expected.values.size());
    for (int64_t i = 0; i < values; ++i) {
      const double wanted = std::is_same_v<Out, Half> ? rounded(expected.values[i]) : expected.values[i];
      const double error = std::fabs(static_cast<double>(static_cast<float>(results[k * values + i])) - wanted);
      worst = std::max(worst, error);
      total += error;  // NaN stays
      largest = std::max(largest, std::fabs(wanted));
    }
  }
  // Sums in another order may round a feature to its neighbour, 2^-10 away. That happens to few of them, and a result
  // is a sum of many.
  expect(worst <= std::ldexp(std::max(largest, 1.0), -10) && total <= std::ldexp(results.count, -14) && largest > 0.3,
         "fsrcnn_patches x%d, patch %ld: error %g, on average %g, of %g", scale, shape.patch, worst,
         total / results.count, largest);
}

// What is too large for half precision does not come out as a number.
void check_overflow() {
  const Random4<uint8_t> image(1, fsrcnn::colours, 8, 8, Layout::contiguous);
  const auto grid = enaf::make_patch_grid(8, 8, 8, 0);
  Buffer<int64_t> order(3);
  Buffer<int64_t> reached(5);
  for (int k = 0; k < 3; ++k) {
    order[k] = 0;
    reached[k + 1] = 3 - k;
  }
  for (const int64_t large : {layers.shrink.bias, layers.mapping[1].bias, layers.upsample[0].bias}) {
    Buffer<float> weights = random_weights();
    weights[large] = 1e6f;
    const Buffer<Half> results = run<3, uint8_t, Half>(image, grid, order, reached, true, weights);
    for (int k = 0; k < 3; ++k) {
      const bool touched = large != layers.upsample[0].bias || k == 2;  // an exit 1
      bool finite = true;
      for (int64_t i = k * results.count / 3; i < (k + 1) * results.count / 3; ++i) {
        finite = finite && std::isfinite(static_cast<float>(results[i]));
      }
      expect(finite != touched, "fsrcnn_patches: an overflow of weight %ld: patch %d is finite: %d", large, k, finite);
    }
  }
}

// The emulation's halves are those of another implementation.
void check_halves() {
  for (uint32_t bits = 0; bits < 1 << 16; ++bits) {
    const float other = Half(static_cast<uint16_t>(bits), Half::from_bits());
    const float value = emulation::half_value(bits);
    expect(value == other || (std::isnan(value) && std::isnan(other)), "half %x: %g, expected %g", bits, value, other);
    // between two halves: a little below, at and a little above the middle
    const float next = Half(static_cast<uint16_t>(bits + 1), Half::from_bits());
    const float middle = std::isfinite(next) ? (value + next) / 2 : value * (1 + 1.0f / 4096);
    for (const float x : {std::nextafterf(middle, 0.0f), middle, std::nextafterf(middle, 2 * middle)}) {
      if (!std::isnan(x)) {
        expect(emulation::half_bits(x) == Half(x).x, "half of %g: %x, expected %x", x, emulation::half_bits(x),
               Half(x).x);
      }
    }
  }
}

}  // namespace

int main() {
  check_halves();
  // Bands: a patch is one of them, has several, has some that begin within a row, or is less than a tile.
  check<4, uint8_t, float>({1, 3, 20, 26, 16, 2}, Layout::contiguous, {3, 3, 2, 1}, true);
  check<4, uint8_t, Half>({1, 3, 32, 32, 32, 4}, Layout::channels_last, {3}, false);
  check<3, Half, float>({1, 3, 17, 40, 17, 2}, Layout::sliced, {3, 2, 1}, true);
  check<2, uint16_t, Half>({1, 3, 21, 35, 19, 2}, Layout::channels_last, {3, 2, 1}, false);
  check<2, BFloat16, float>({2, 3, 8, 8, 8, 2}, Layout::contiguous, {3, 2, 1}, true);
  check<4, float, float>({1, 3, 2, 3, 1, 0}, Layout::contiguous, {3, 2, 1}, true);
  check<3, float, Half>({1, 3, 2, 3, 5, 0}, Layout::contiguous, {3, 2, 1}, true);
  check<2, uint8_t, Half>({1, 3, 40, 40, 40, 4}, Layout::contiguous, {2}, true);
  check_overflow();
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
