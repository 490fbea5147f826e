// SPDX-License-Identifier: Apache-2.0
// cell_details, gather_patches, bicubic_patches, fold_patches: their kernels' source, run by the emulation, against
// loops in double.
#include "cuda_emulation.h"

#include "cases.h"
#include "cuda/bicubic_patches.cuh"
#include "cuda/cell_details.cuh"
#include "cuda/fold_patches.cuh"
#include "cuda/gather_patches.cuh"

namespace {

using namespace native;

// Relative precision of a dtype, as half of its last bit.
template <typename T>
constexpr double rounding = std::is_same_v<T, double>     ? 1e-15
                            : std::is_same_v<T, float>    ? 6e-8
                            : std::is_same_v<T, Half>     ? 4.9e-4
                            : std::is_same_v<T, BFloat16> ? 3.9e-3
                                                          : 0;

template <typename T>
double as_double(T x) {
  if constexpr (std::is_same_v<T, double>) {
    return x;
  } else {
    return static_cast<double>(static_cast<float>(x));
  }
}

template <typename T>
double unit(T x) {
  if constexpr (enaf::is_integral_pixel<T>) {
    return static_cast<double>(x) / (sizeof(T) == 1 ? 255.0 : 65535.0);
  } else {
    return as_double(x);
  }
}

struct Geometry {
  explicit Geometry(const Shape& s)
      : shape(s), stride(s.patch - s.overlap), rows(count(s.height)), cols(count(s.width)) {}
  int64_t count(int64_t size) const { return size <= shape.patch ? 1 : 1 + (size - shape.patch + stride - 1) / stride; }
  int64_t patches() const { return rows * cols; }
  int64_t all_patches() const { return shape.batch * patches(); }
  Shape shape;
  int64_t stride, rows, cols;
};

// Pixel (y, x) of patch `index`, clamped to the image.
template <typename T>
T patch_pixel(const enaf::View4<const T>& image, const Geometry& at, int64_t index, int64_t c, int64_t y, int64_t x) {
  const int64_t in_image = index % at.patches();
  return image.at(index / at.patches(), c, std::min(in_image / at.cols * at.stride + y, at.shape.height - 1),
                  std::min(in_image % at.cols * at.stride + x, at.shape.width - 1));
}

// Every patch, shuffled, one of them twice, some left out.
std::vector<int64_t> some_order(int64_t num_patches) {
  std::vector<int64_t> order;
  for (int64_t i = 0; i < num_patches; ++i) {
    order.push_back(i);
  }
  std::shuffle(order.begin(), order.end(), generator());
  order.resize(std::max<int64_t>(1, num_patches - 2));
  order.push_back(order.front());
  return order;
}

template <typename Out, typename In, int V>
void run_gather(const Random4<In>& image, const enaf::PatchGrid& grid, const int64_t* order, int64_t num_selected,
                int32_t inner, Buffer<Out>& out) {
  const auto channels = static_cast<int32_t>(image.view.size[1]);
  const bool as_stored = inner == 1 ? image.view.planar() : image.view.interleaved();
  const enaf::PatchRows<Out> rows{out.data.get(), num_selected, channels / inner, inner};
  dim3 blocks, threads;
  enaf::gather_shape<V>(num_selected, int64_t{rows.planes} * grid.rows.patch, int64_t{grid.cols.patch} * inner, blocks,
                        threads);
  blocks.x = std::min(blocks.x, 3u);  // makes blocks take several patches
  emulation::launch(blocks, threads, enaf::gather_kernel<Out, In, V>, image.view, order, grid, as_stored, rows);
}

template <typename Out, typename In>
void check_gather(const Shape& shape, Layout layout, bool channels_last, bool unfold) {
  const Geometry at(shape);
  const Random4<In> image(shape.batch, shape.channels, shape.height, shape.width, layout);
  const auto grid = enaf::make_patch_grid(shape.height, shape.width, shape.patch, shape.overlap);
  std::vector<int64_t> order = some_order(at.all_patches());
  if (unfold) {
    order.clear();
    for (int64_t i = 0; i < at.all_patches(); ++i) {
      order.push_back(i);
    }
  }
  const auto num_selected = static_cast<int64_t>(order.size());
  const int64_t patch = shape.patch;
  const int64_t elements = shape.channels * patch * patch;
  const auto inner = static_cast<int32_t>(channels_last ? shape.channels : 1);
  constexpr int wide = 16 / static_cast<int>(sizeof(Out));
  for (const bool vectors : {true, false}) {
    if (vectors && patch * inner % wide != 0) {
      continue;
    }
    Buffer<Out> out(num_selected * elements);
    const int64_t* names = unfold ? nullptr : order.data();
    if (vectors) {
      run_gather<Out, In, wide>(image, grid, names, num_selected, inner, out);
    } else {
      run_gather<Out, In, 1>(image, grid, names, num_selected, inner, out);
    }
    for (int64_t m = 0; m < num_selected; ++m) {
      for (int64_t c = 0; c < shape.channels; ++c) {
        for (int64_t y = 0; y < patch; ++y) {
          for (int64_t x = 0; x < patch; ++x) {
            const In pixel = patch_pixel(image.view, at, order[m], c, y, x);
            Out expected;
            if constexpr (std::is_same_v<Out, In>) {
              expected = pixel;
            } else if constexpr (enaf::is_integral_pixel<In>) {
              expected = static_cast<Out>(static_cast<float>(pixel) / (sizeof(In) == 1 ? 255.0f : 65535.0f));
            } else if constexpr (std::is_same_v<Out, double>) {
              expected = as_double(pixel);
            } else {
              expected = static_cast<Out>(static_cast<float>(pixel));
            }
            const int64_t at_out =
                m * elements + (channels_last ? (y * patch + x) * shape.channels + c : (c * patch + y) * patch + x);
            expect(std::memcmp(&out[at_out], &expected, sizeof(Out)) == 0,
                   "gather: patch %ld channel %ld (%ld, %ld): %g, expected %g", order[m], c, y, x,
                   as_double(out[at_out]), as_double(expected));
          }
        }
      }
    }
  }
}

double cubic_weight(double x) {
  const double a = -0.75;
  x = std::abs(x);
  return x <= 1 ? ((a + 2) * x - (a + 3)) * x * x + 1 : x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

template <int fixed_scale, typename Out, typename In>
void check_bicubic(const Shape& shape, Layout layout, int32_t scale, bool channels_last, bool shuffled) {
  const Geometry at(shape);
  const Random4<In> image(shape.batch, shape.channels, shape.height, shape.width, layout);
  const auto grid = enaf::make_patch_grid(shape.height, shape.width, shape.patch, shape.overlap);
  const std::vector<int64_t> order = some_order(at.all_patches());
  const auto num_selected = static_cast<int64_t>(order.size());
  const int64_t channels = shuffled ? shape.channels : shape.channels * scale * scale;
  const int64_t side = shuffled ? shape.patch * scale : shape.patch;
  Buffer<Out> out(num_selected * channels * side * side);
  enaf::View4<Out> view{
      out.data.get(), {num_selected, channels, side, side}, {channels * side * side, side * side, side, 1}};
  if (channels_last) {
    const int64_t stride[4] = {channels * side * side, 1, channels * side, channels};
    std::copy(stride, stride + 4, view.stride);
  }
  dim3 blocks, threads;
  enaf::bicubic_shape(num_selected, shape.channels, shape.patch, blocks, threads);
  blocks.x = std::min(blocks.x, 3u);
  emulation::launch(blocks, threads, enaf::bicubic_kernel<fixed_scale, Out, In>, image.view, order.data(), grid, scale,
                    enaf::bicubic_output(view, scale, shuffled));

  const int64_t last = shape.patch - 1;
  for (int64_t m = 0; m < num_selected; ++m) {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int64_t y = 0; y < shape.patch * scale; ++y) {
        for (int64_t x = 0; x < shape.patch * scale; ++x) {
          const double source_y = (static_cast<double>(y) + 0.5) / scale - 0.5;
          const double source_x = (static_cast<double>(x) + 0.5) / scale - 0.5;
          double expected = 0;
          for (auto j = static_cast<int64_t>(std::floor(source_y)) - 1; j <= std::floor(source_y) + 2; ++j) {
            for (auto i = static_cast<int64_t>(std::floor(source_x)) - 1; i <= std::floor(source_x) + 2; ++i) {
              const In pixel = patch_pixel(image.view, at, order[m], c, std::clamp<int64_t>(j, 0, last),
                                           std::clamp<int64_t>(i, 0, last));
              expected += unit(pixel) * cubic_weight(source_y - static_cast<double>(j)) *
                          cubic_weight(source_x - static_cast<double>(i));
            }
          }
          const Out result = shuffled ? view.at(m, c, y, x)
                                      : view.at(m, (c * scale + y % scale) * scale + x % scale, y / scale, x / scale);
          const double allowed = rounding<Out> * std::abs(expected) + (std::is_same_v<In, double> ? 1e-14 : 2e-6);
          expect(std::abs(as_double(result) - expected) <= allowed,
                 "bicubic x%d: patch %ld (%ld, %ld): %g, expected %g", scale, order[m], y, x, as_double(result),
                 expected);
        }
      }
    }
  }
}

double window_weight(enaf::Window window, int64_t index, int64_t count, int64_t at, const Shape& shape) {
  const int64_t stride = shape.patch - shape.overlap;
  double weight = 1;
  for (const bool left : {true, false}) {
    const int64_t into = left ? at : at - stride;  // pixels into the overlap with the neighbour
    const bool neighbour = left ? index > 0 : index + 1 < count;
    if (neighbour && into >= 0 && into < shape.overlap && window != enaf::Window::sum) {
      const double later = (static_cast<double>(into) + 0.5) / static_cast<double>(shape.overlap);
      weight *= window == enaf::Window::average ? 0.5 : left ? later : 1 - later;
    }
  }
  return weight;
}

template <int V, typename Out, typename In>
void run_fold(const enaf::View4<const In>& patches, const int64_t* place_of, const enaf::PatchGrid& grid,
              enaf::Window window, int32_t scale, int32_t top, const enaf::View4<Out>& out) {
  dim3 blocks, threads;
  enaf::fold_shape(out.size[0], out.size[2], out.size[3], V, blocks, threads);
  blocks.y = std::min(blocks.y, 2u);
  emulation::launch(blocks, threads, enaf::fold_kernel<V, Out, In>, patches, place_of, grid, window, scale, top, out);
}

// `shape` is the output's.
template <typename Out, typename In>
void check_fold(const Shape& shape, Layout layout, int32_t scale, enaf::Window window, bool permuted,
                int expected_run) {
  const Geometry at(shape);
  const int64_t side = shape.patch / scale;
  const Random4<In> patches(at.all_patches(), shape.channels * scale * scale, side, side, layout);
  const auto grid = enaf::make_patch_grid(shape.height, shape.width, shape.patch, shape.overlap);
  std::vector<int64_t> order;
  for (int64_t i = 0; i < at.all_patches(); ++i) {
    order.push_back(i);
  }
  Buffer<int64_t> place_of(at.all_patches());
  if (permuted) {
    std::shuffle(order.begin(), order.end(), generator());
    std::fill(place_of.data.get(), place_of.data.get() + place_of.count, -1);
    emulation::launch({2}, {enaf::fold_threads}, enaf::invert_order_kernel, order.data(), at.all_patches(),
                      place_of.data.get());
  }
  const int64_t* places = permuted ? place_of.data.get() : nullptr;
  std::vector<int64_t> where(order.size());
  for (size_t k = 0; k < order.size(); ++k) {
    where[order[k]] = static_cast<int64_t>(k);
  }

  // all rows, or those that the band in the middle of an image is asked for
  const int32_t top = permuted ? static_cast<int32_t>(shape.height / 3) : 0;
  const int32_t rows = static_cast<int32_t>(shape.height) - 2 * top;
  // these rows of images, alone or between others
  const int64_t plane = shape.width * (permuted ? shape.height : rows);
  Buffer<Out> out(shape.batch * shape.channels * plane);
  const enaf::View4<Out> wanted{out.data.get() + (permuted ? top * shape.width : 0),
                                {shape.batch, shape.channels, rows, shape.width},
                                {shape.channels * plane, plane, shape.width, 1}};
  const int run = enaf::fold_run(patches.view, grid, scale);
  if (expected_run > 0) {
    expect(run == expected_run, "fold: runs of %d, expected %d", run, expected_run);
  }
  if (run == 4) {
    run_fold<4>(patches.view, places, grid, window, scale, top, wanted);
  } else if (run == 2) {
    run_fold<2>(patches.view, places, grid, window, scale, top, wanted);
  } else {
    run_fold<1>(patches.view, places, grid, window, scale, top, wanted);
  }

  for (int64_t b = 0; b < shape.batch; ++b) {
    for (int64_t c = 0; c < shape.channels; ++c) {
      for (int64_t y = top; y < top + rows; ++y) {
        for (int64_t x = 0; x < shape.width; ++x) {
          double expected = 0;
          for (int64_t row = std::max<int64_t>(0, y / at.stride - 2); row <= std::min(at.rows - 1, y / at.stride);
               ++row) {
            for (int64_t col = std::max<int64_t>(0, x / at.stride - 2); col <= std::min(at.cols - 1, x / at.stride);
                 ++col) {
              const int64_t in_y = y - row * at.stride;
              const int64_t in_x = x - col * at.stride;
              if (in_y < shape.patch && in_x < shape.patch) {
                const int64_t n = where[b * at.patches() + row * at.cols + col];
                const In value =
                    patches.view.at(n, (c * scale + in_y % scale) * scale + in_x % scale, in_y / scale, in_x / scale);
                expected += window_weight(window, row, at.rows, in_y, shape) *
                            window_weight(window, col, at.cols, in_x, shape) * as_double(value);
              }
            }
          }
          const Out result = wanted.at(b, c, y - top, x);
          double allowed = rounding<Out> * std::abs(expected) + (std::is_same_v<In, double> ? 1e-14 : 2e-6);
          double got = as_double(result);
          if constexpr (enaf::is_integral_pixel<Out>) {
            const double top = sizeof(Out) == 1 ? 255 : 65535;
            expected = std::nearbyint(std::clamp(expected, 0.0, 1.0) * top);
            got = static_cast<double>(result);
            allowed = sizeof(Out) == 1 ? 0 : 1;
            if (got != expected && sizeof(Out) == 1 && window == enaf::Window::linear) {
              allowed = 1;  // sums in float next to a tie
            }
          }
          expect(std::abs(got - expected) <= allowed, "fold x%d: image %ld channel %ld (%ld, %ld): %g, expected %g",
                 scale, b, c, y, x, got, expected);
        }
      }
    }
  }
}

// The values of a cell by the definition: taps of every derivative on grey and on two differences of colours.
template <typename T>
std::vector<double> details_of(const enaf::View4<const T>& image, int64_t n, int64_t row, int64_t col) {
  constexpr double colours[3][3] = {{0.3, 0.6, 0.1}, {0.5, -0.5, 0}, {-0.25, -0.25, 0.5}};
  constexpr double taps[6][9] = {{0, 0, 0, 0, -1, 1, 0, 0, 0},  {0, 0, 0, 0, -1, 0, 0, 1, 0},
                                 {0, 0, 0, 1, -2, 1, 0, 0, 0},  {0, 1, 0, 0, -2, 0, 0, 1, 0},
                                 {1, 0, -1, 0, 0, 0, -1, 0, 1}, {0.25, -0.5, 0.25, -0.5, 1, -0.5, 0.25, -0.5, 0.25}};
  std::vector<double> means(8), maxima(8), colour(3), squares(3);
  for (int64_t y = 4 * row + 1; y < 4 * row + 5; ++y) {
    for (int64_t x = 4 * col + 1; x < 4 * col + 5; ++x) {
      for (int k = 0; k < 8; ++k) {
        double sum = 0;
        for (int tap = 0; tap < 9; ++tap) {
          for (int c = 0; c < 3; ++c) {
            sum += (k < 6 ? taps[k][tap] : 2 * taps[5][tap]) * colours[k < 6 ? 0 : k - 5][c] *
                   unit(image.at(n, c, y + tap / 3 - 1, x + tap % 3 - 1));
          }
        }
        means[k] += sum * sum / 16;
        maxima[k] = std::max(maxima[k], sum * sum);
      }
      for (int c = 0; c < 3; ++c) {
        colour[c] += unit(image.at(n, c, y, x)) / 16;
        squares[c] += unit(image.at(n, c, y, x)) * unit(image.at(n, c, y, x)) / 16;
      }
    }
  }
  std::vector<double> values = means;
  values.insert(values.end(), maxima.begin(), maxima.end());
  double variance = 0, furthest = 0;
  for (int c = 0; c < 3; ++c) {
    variance += (squares[c] - colour[c] * colour[c]) / 3;
    furthest = std::max(furthest, std::abs(colour[c] - 0.5));
  }
  values.push_back(std::max(variance, 0.0));
  for (double& energy : values) {
    energy = std::log(energy + 2e-6) / 4 + 2;
  }
  for (int c = 0; c < 3; ++c) {
    values.push_back(4 * (colour[c] - 0.45));
  }
  values.push_back(8 * (furthest - 0.45));
  return values;
}

template <typename T>
void check_details(int64_t batch, int64_t rows, int64_t cols, Layout layout) {
  const Random4<T> image(batch, 3, 4 * rows + 2, 4 * cols + 2, layout);
  Buffer<float> out(batch * rows * cols * enaf::num_cell_details);
  dim3 blocks, threads;
  enaf::cell_details_shape(batch * rows * cols, blocks, threads);
  blocks.x = std::min(blocks.x, 2u);  // makes threads take several cells
  emulation::launch(blocks, threads, enaf::cell_details_kernel<T>, image.view, rows, cols, out.data.get());
  for (int64_t cell = 0; cell < batch * rows * cols; ++cell) {
    const std::vector<double> expected = details_of(image.view, cell / (rows * cols), cell / cols % rows, cell % cols);
    for (int k = 0; k < enaf::num_cell_details; ++k) {
      const double got = out[cell * enaf::num_cell_details + k];
      expect(std::abs(got - expected[k]) <= 3e-6, "details: cell %ld value %d: %g, expected %g", cell, k, got,
             expected[k]);
    }
  }
}

void check_natural_logarithm() {
  for (double x = 1e-30; x < 1e30; x *= 1.0137) {
    const double expected = std::log(static_cast<double>(static_cast<float>(x)));
    const double got = enaf::natural_logarithm(static_cast<float>(x));
    expect(std::abs(got - expected) <= 1.2e-7 * std::max(1.0, std::abs(expected)), "log(%g): %.9g, expected %.9g", x,
           got, expected);
  }
}

// The division-free conversion gives the float that division gives, for every integer.
template <typename T>
void check_fast_pixel_value() {
  for (int32_t i = 0; i <= (sizeof(T) == 1 ? 255 : 65535); ++i) {
    const T x = static_cast<T>(i);
    expect(enaf::fast_pixel_value(x) == enaf::pixel_value(x), "fast_pixel_value(%d) differs", i);
  }
}

void check_invert_order_ignores_what_is_out_of_range() {
  Buffer<int64_t> place_of(5);
  std::fill(place_of.data.get(), place_of.data.get() + 5, -1);
  const std::vector<int64_t> wild = {2, -1, 9, 0, int64_t{1} << 40};
  emulation::launch({1}, {enaf::fold_threads}, enaf::invert_order_kernel, wild.data(), int64_t{5}, place_of.data.get());
  const int64_t expected[5] = {3, -1, 0, -1, -1};
  for (int i = 0; i < 5; ++i) {
    expect(place_of[i] == expected[i], "invert_order: place_of[%d] is %ld", i, place_of[i]);
  }
}

void check_gather_clamps_order() {
  const Shape shape{1, 1, 8, 8, 4, 0};
  const Random4<uint8_t> image(1, 1, 8, 8, Layout::contiguous);
  const auto grid = enaf::make_patch_grid(8, 8, 4, 0);
  const std::vector<int64_t> order = {-7, 400};
  Buffer<uint8_t> out(2 * 16);
  run_gather<uint8_t, uint8_t, 1>(image, grid, order.data(), 2, 1, out);
  const Geometry at(shape);
  for (int64_t i = 0; i < 16; ++i) {
    expect(out[i] == patch_pixel(image.view, at, 0, 0, i / 4, i % 4), "gather: order -7 is not patch 0");
    expect(out[16 + i] == patch_pixel(image.view, at, 3, 0, i / 4, i % 4), "gather: order 400 is not the last patch");
  }
}

}  // namespace

int main() {
  check_fast_pixel_value<uint8_t>();
  check_fast_pixel_value<uint16_t>();
  check_invert_order_ignores_what_is_out_of_range();
  check_gather_clamps_order();
  check_natural_logarithm();
  for (const Layout layout : layouts) {
    check_details<float>(1, 1, 1, layout);
    check_details<uint8_t>(2, 5, 37, layout);
    check_details<uint16_t>(1, 3, 4, layout);
    check_details<Half>(1, 20, 20, layout);
    check_details<BFloat16>(3, 1, 9, layout);
  }

  for (const Shape& shape : shapes) {
    for (const Layout layout : layouts) {
      for (const bool channels_last : {false, true}) {
        check_gather<uint8_t, uint8_t>(shape, layout, channels_last, false);
        check_gather<Half, uint8_t>(shape, layout, channels_last, false);
        check_bicubic<4, Half, uint8_t>(shape, layout, 4, channels_last, false);
      }
      check_gather<uint8_t, uint8_t>(shape, layout, false, true);
    }
    check_gather<float, uint8_t>(shape, Layout::contiguous, true, false);
    check_gather<BFloat16, uint16_t>(shape, Layout::contiguous, true, false);
    check_gather<double, uint16_t>(shape, Layout::channels_last, true, false);
    check_gather<float, Half>(shape, Layout::contiguous, false, false);
    check_gather<Half, double>(shape, Layout::contiguous, false, false);
    check_gather<float, float>(shape, Layout::sliced, false, true);

    check_bicubic<4, float, float>(shape, Layout::contiguous, 4, false, true);
    check_bicubic<4, BFloat16, uint16_t>(shape, Layout::contiguous, 4, true, true);
    check_bicubic<3, float, uint8_t>(shape, Layout::contiguous, 3, true, false);
    check_bicubic<2, Half, Half>(shape, Layout::channels_last, 2, true, false);
    check_bicubic<0, double, double>(shape, Layout::contiguous, 3, false, true);
    check_bicubic<0, float, uint8_t>(shape, Layout::sliced, 5, true, false);
    check_bicubic<0, float, double>(shape, Layout::contiguous, 1, false, false);
  }

  for (const Shape& lr : shapes) {
    for (const int32_t scale : {1, 2, 3, 4}) {
      // Odd sizes too: the output of a crop need not be a multiple of the scale.
      const Shape shape{lr.batch,         lr.channels,      lr.height * scale - (scale > 1 && lr.height > 1),
                        lr.width * scale, lr.patch * scale, lr.overlap * scale};
      for (const Layout layout : layouts) {
        const int run =
            layout == Layout::channels_last && scale % 2 == 0 && lr.channels * scale * scale % scale == 0 ? scale : 0;
        check_fold<uint8_t, Half>(shape, layout, scale, enaf::Window::average, true, run);
      }
      check_fold<uint8_t, float>(shape, Layout::channels_last, scale, enaf::Window::linear, true, 0);
      check_fold<float, float>(shape, Layout::contiguous, scale, enaf::Window::linear, false, 0);
      check_fold<uint16_t, float>(shape, Layout::channels_last, scale, enaf::Window::average, false, 0);
      check_fold<BFloat16, BFloat16>(shape, Layout::channels_last, scale, enaf::Window::sum, true, 0);
    }
    check_fold<double, double>(lr, Layout::contiguous, 1, enaf::Window::linear, true, 0);
    check_fold<Half, float>({lr.batch, lr.channels, lr.height * 5, lr.width * 5, lr.patch * 5, lr.overlap * 5},
                            Layout::channels_last, 5, enaf::Window::average, true, 0);
  }
  std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
