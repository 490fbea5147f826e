// SPDX-License-Identifier: Apache-2.0
// fsrcnn_patches and fsrcnn_image: a thread takes a patch or a tile from the image through all layers up to its exit,
// with every feature map in its own cache. Vectors hold neighbouring pixels of a row, so that no lane is lost on layers
// of 12 channels; a block of output channels by two vectors stays in registers while its inputs pass by once. Of the
// transposed convolution only the taps that reach a pixel are computed.
#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "checks.h"
#include "cpu/finish.h"
#include "cpu/order.h"
#include "cpu/rows.h"
#include "cpu/simd.h"
#include "fsrcnn.h"
#include "stable.h"

namespace {

using namespace enaf;
using fsrcnn::Layer;

constexpr int tile_side = 96;  // pixels of an image that a thread takes at once

template <int value>
using Constant = std::integral_constant<int, value>;

// body(0), ..., body(N - 1) with constants, so that what they index stays in registers.
template <int... I, typename Body>
inline void unrolled(std::integer_sequence<int, I...>, const Body& body) {
  (body(Constant<I>{}), ...);
}
template <int N, typename Body>
inline void unrolled(const Body& body) {
  unrolled(std::make_integer_sequence<int, N>{}, body);
}

// Feature maps of one patch with zeros around it.
struct Maps {
  float* data;  // of pixel (0, 0) of the first
  int64_t row, plane;

  float* at(int64_t map, int64_t y) const { return data + map * plane + y * row; }
};

struct Buffer {
  std::vector<float> values;
  Maps maps;

  Buffer(const Buffer&) = delete;  // `maps` points into `values`
  Buffer(int count, int rows, int columns, int reach) {
    const int64_t row = columns + 2 * reach;
    const int64_t plane = (rows + 2 * reach) * row;
    values.assign(count * plane, 0.0f);
    maps = {values.data() + reach * row + reach, row, plane};
  }
};

// How the vectors of one instruction set are used: N floats each, two side by side, `block` outputs at once.
template <int N, int block_size>
struct Unit {
  using Vector = Pack<float, N>;
  static constexpr int lanes = N;
  static constexpr int pixels = 2 * N;
  static constexpr int block = block_size;
};

// The first `count` of 2 * N pixels.
template <int N>
inline void store_pixels(float* out, const Pack<float, N> (&pixels)[2], int count) {
  if (count >= 2 * N) {
    store<N>(out, pixels[0]);
    store<N>(out + N, pixels[1]);
  } else {
    float all[2 * N];
    store<N>(all, pixels[0]);
    store<N>(all + N, pixels[1]);
    std::copy(all, all + count, out);
  }
}

// Outputs [first, first + B) of a convolution at U::pixels pixels of row `y` from `x` on; `put(output, pixels)` takes
// each.
template <typename U, int B, int side, typename Put>
inline void convolve_block(const Maps& in, int in_width, int out_width, const float* weights, const Layer& layer,
                           int first, int64_t y, int64_t x, const Put& put) {
  using Vector = typename U::Vector;
  constexpr int N = U::lanes;
  Vector sums[B][2] = {};
  unrolled<B>([&](auto n) {
    sums[n][0] += weights[layer.bias + first + n];
    sums[n][1] = sums[n][0];
  });
  const float* weight = weights + layer.weight + first;
  for (int map = 0; map < in_width; ++map) {
    for (int dy = 0; dy < side; ++dy) {
      const float* row = in.at(map, y + dy - side / 2) + x - side / 2;
      unrolled<side>([&](auto dx) {
        Vector a, b;
        load<N, float>(a, row + dx);
        load<N, float>(b, row + dx + N);
        unrolled<B>([&](auto n) {
          sums[n][0] += a * weight[n];
          sums[n][1] += b * weight[n];
        });
        weight += out_width;
      });
    }
  }
  const float slope = weights[layer.slope];
  unrolled<B>([&](auto n) {
    for (Vector& pixels : sums[n]) {
      pixels = pixels > 0.0f ? pixels : slope * pixels;
    }
    put(first + n, sums[n]);
  });
}

// The largest number of outputs, up to `most`, that divides all of them.
constexpr int block_of(int outputs, int most) {
  int block = most;
  while (outputs % block != 0) {
    --block;
  }
  return block;
}

// All outputs of a convolution at the pixels from `x` on of row `y`.
template <typename U, int in_width, int out_width, int side, typename Put>
inline void convolve(const Maps& in, const float* weights, const Layer& layer, int64_t y, int64_t x, const Put& put) {
  constexpr int B = block_of(out_width, U::block);
  for (int first = 0; first < out_width; first += B) {
    convolve_block<U, B, side>(in, in_width, out_width, weights, layer, first, y, x, put);
  }
}

// The scale result rows of row `y` of the hidden features, `count` pixels of it from `x` on, to `out`.
template <typename U, int scale, int in_width>
inline void upsample(const Maps& hidden, int64_t ring, int64_t rows, const float* weights, const Layer& layer,
                     int64_t y, int64_t x, int count, const Maps& out) {
  using Vector = typename U::Vector;
  constexpr int N = U::lanes;
  constexpr int reach = fsrcnn::reach(scale);
  constexpr int at_once = 3 * scale <= U::block ? 3 : 1;  // colours
  for (int ry = 0; ry < scale; ++ry) {
    for (int colour = 0; colour < fsrcnn::colours; colour += at_once) {
      Vector sums[at_once][scale][2] = {};
      unrolled<at_once>([&](auto c) {
        unrolled<scale>([&](auto rx) {
          sums[c][rx][0] += weights[layer.bias + colour + c];
          sums[c][rx][1] = sums[c][rx][0];
        });
      });
      for (int dy = -reach; dy <= reach; ++dy) {
        const int ky = ry + fsrcnn::padding(scale) - scale * dy;
        if (ky < 0 || ky >= fsrcnn::kernel || y + dy < 0 || y + dy >= rows) {
          continue;
        }
        const float* weight =
            weights + layer.weight + static_cast<int64_t>(ky) * fsrcnn::kernel * fsrcnn::colours + colour;
        for (int map = 0; map < in_width; ++map) {
          const float* row = hidden.at(map, (y + dy) & (ring - 1)) + x;
          unrolled<2 * reach + 1>([&](auto step) {
            constexpr int dx = decltype(step)::value - reach;
            Vector a, b;
            load<N, float>(a, row + dx);
            load<N, float>(b, row + dx + N);
            unrolled<scale>([&](auto rx) {
              constexpr int kx = decltype(rx)::value + fsrcnn::padding(scale) - scale * dx;
              if constexpr (kx >= 0 && kx < fsrcnn::kernel) {
                unrolled<at_once>([&](auto c) {
                  sums[c][rx][0] += a * weight[kx * fsrcnn::colours + c];
                  sums[c][rx][1] += b * weight[kx * fsrcnn::colours + c];
                });
              }
            });
          });
          weight += fsrcnn::kernel * fsrcnn::kernel * fsrcnn::colours;
        }
      }
      for (int c = 0; c < at_once; ++c) {
        float phases[scale][2 * N];
        for (int rx = 0; rx < scale; ++rx) {
          store<N>(phases[rx], sums[c][rx][0]);
          store<N>(phases[rx] + N, sums[c][rx][1]);
        }
        float* to = out.at(colour + c, ry);
        for (int i = 0; i < count; ++i) {
          for (int rx = 0; rx < scale; ++rx) {
            to[i * scale + rx] = phases[rx][i];
          }
        }
      }
    }
  }
}

// Runs body(), compiled for the registers that U fills.
template <typename U, typename Body>
inline void run_widest(const Body& body) {
#if defined(ENAF_HAS_AVX2_VERSION)
  if constexpr (U::lanes == 16) {
    return run_avx512(body);
  } else if constexpr (U::lanes == 8) {
    return run_avx2_fma(body);
  }
#endif
  body();
}

struct Range {
  int begin, end;
};

// Where results go: those of row `y` of a tile to `result` at row `y * step`, whereupon `done(y)` is called.
struct Target {
  Maps result;
  int64_t step;
  std::function<void(int64_t y)> done;

  Maps rows(int64_t y) const { return {result.data + y * step * result.row, result.row, result.plane}; }
};

// A rectangle of pixels beyond which there is nothing, and what of it is wanted.
struct Tile {
  int rows, columns;
  Range wanted_rows, wanted_columns;

  // What the layers behind need, which reach `reach` pixels around what is wanted.
  static Range around(Range wanted, int reach, int size) {
    return {std::max(0, wanted.begin - reach), std::min(size, wanted.end + reach)};
  }
  Range rows_around(int reach) const { return around(wanted_rows, reach, rows); }
  Range columns_around(int reach) const { return around(wanted_columns, reach, columns); }
};

constexpr int tail_reach(int scale, int tail) {
  return fsrcnn::reach(scale) + fsrcnn::tail_kernel(tail) / 2;
}
constexpr int mappings_of(int exit) {
  return exit == 1 ? fsrcnn::mappings / 2 : fsrcnn::mappings;
}
// Pixels that an exit sees to each side.
constexpr int image_reach(int scale, int exit) {
  return fsrcnn::head_reach + mappings_of(exit) + tail_reach(scale, exit - 1);
}
constexpr int largest_image_reach(int scale) {
  return std::max({image_reach(scale, 1), image_reach(scale, 2), image_reach(scale, 3)});
}

// What one thread needs to run tiles of up to so many pixels: the tile goes to `image`, then `run` is called.
template <typename U, int scale>
struct Worker {
  const float* weights;
  Tile tile{};
  Buffer image, even, odd, hidden;

  static constexpr fsrcnn::Layers layers = fsrcnn::layers();
  static constexpr int reach = fsrcnn::reach(scale);
  static constexpr int ring = reach == 1 ? 4 : 8;  // rows of hidden features that are kept: a power of two

  Worker(const float* weights, int rows, int columns)
      : weights(weights),
        image(fsrcnn::colours, rows, columns + U::pixels, fsrcnn::head_reach),
        even(fsrcnn::width, rows, columns + U::pixels, 1),
        odd(fsrcnn::width, rows, columns + U::pixels, 1),
        hidden(fsrcnn::head_width, ring, columns + U::pixels, reach) {}

  // Around a tile of another size, zeros may be what a former tile left.
  void begin(const Tile& next) {
    if (tile.rows != 0 && (next.rows != tile.rows || next.columns != tile.columns)) {
      for (Buffer* buffer : {&image, &even, &odd, &hidden}) {
        std::fill(buffer->values.begin(), buffer->values.end(), 0.0f);
      }
    }
    tile = next;
  }

  template <typename Body>
  void for_pixels(Range range, const Body& body) {
    for (int x = range.begin; x < range.end; x += U::pixels) {
      body(x, std::min(U::pixels, range.end - x));
    }
  }

  void head(int behind) {
    float features[fsrcnn::head_width * U::pixels];
    const Maps before{features, 0, U::pixels};
    const Range rows = tile.rows_around(behind);
    for (int y = rows.begin; y < rows.end; ++y) {
      for_pixels(tile.columns_around(behind), [&](int x, int count) {
        convolve<U, fsrcnn::colours, fsrcnn::head_width, 2 * fsrcnn::head_reach + 1>(
            image.maps, weights, layers.head, y, x,
            [&](int n, const auto& pixels) { store_pixels<U::lanes>(features + n * U::pixels, pixels, U::pixels); });
        convolve<U, fsrcnn::head_width, fsrcnn::width, 1>(
            before, weights, layers.shrink, 0, 0,
            [&](int n, const auto& pixels) { store_pixels<U::lanes>(even.maps.at(n, y) + x, pixels, count); });
      });
    }
  }

  void map(const Buffer& from, const Buffer& to, int layer, int behind) {
    const Range rows = tile.rows_around(behind);
    for (int y = rows.begin; y < rows.end; ++y) {
      for_pixels(tile.columns_around(behind), [&](int x, int count) {
        convolve<U, fsrcnn::width, fsrcnn::width, 3>(
            from.maps, weights, layers.mapping[layer], y, x,
            [&](int n, const auto& pixels) { store_pixels<U::lanes>(to.maps.at(n, y) + x, pixels, count); });
      });
    }
  }

  template <int index>
  void tail(const Target& target) {
    constexpr int width = fsrcnn::tail_width(index);
    const Range rows = tile.rows_around(reach);
    int done = rows.begin;
    for (int y = tile.wanted_rows.begin; y < tile.wanted_rows.end; ++y) {
      for (; done < std::min(rows.end, y + reach + 1); ++done) {
        for_pixels(tile.columns_around(reach), [&](int x, int count) {
          convolve<U, fsrcnn::width, width, fsrcnn::tail_kernel(index)>(
              even.maps, weights, layers.hidden[index], done, x, [&](int n, const auto& pixels) {
                store_pixels<U::lanes>(hidden.maps.at(n, done & (ring - 1)) + x, pixels, count);
              });
        });
      }
      const Maps out = target.rows(y);
      for_pixels(tile.wanted_columns, [&](int x, int count) {
        const Maps here{out.data + static_cast<int64_t>(x - tile.wanted_columns.begin) * scale, out.row, out.plane};
        upsample<U, scale, width>(hidden.maps, ring, tile.rows, weights, layers.upsample[index], y, x, count, here);
      });
      if (target.done) {
        target.done(y);
      }
    }
  }

  template <int index>
  void all_layers(const Target& target) {
    constexpr int maps = mappings_of(index + 1);
    int behind = maps + tail_reach(scale, index);
    head(behind);
    for (int layer = 0; layer < maps; layer += 2) {
      map(even, odd, layer, --behind);
      map(odd, even, layer + 1, --behind);
    }
    tail<index>(target);
  }

  // The wanted pixels to exit 1, 2 or 3.
  void run(int exit, const Target& target) {
    run_widest<U>([&] {
      exit == 1 ? all_layers<0>(target) : exit == 2 ? all_layers<1>(target) : all_layers<2>(target);
    });
  }
};

template <typename In>
inline void take_patch(const View4<const In>& image, const PatchGrid& grid, int64_t index, const Maps& to) {
  const int64_t patch = grid.rows.patch;
  const PatchPlace place = grid.place(index);
  const int32_t y0 = grid.rows.origin(place.row);
  const int32_t x0 = grid.cols.origin(place.col);
  const int64_t inside = std::min<int64_t>(patch, grid.cols.size - x0);
  for (int64_t y = 0; y < patch; ++y) {
    float* row = to.at(0, y);
    planar_row(row, to.plane, image, &image.at(place.image, 0, grid.rows.clamp(y0 + y), x0), inside);
    for (int64_t c = 0; c < image.size[1]; ++c) {
      std::fill(row + c * to.plane + inside, row + c * to.plane + patch, row[c * to.plane + inside - 1]);
    }
  }
}

// Calls body(index) for every index in [0, count), on all threads: whoever is free takes the next. Each thread makes
// what it needs by `worker()`.
template <typename Make, typename Body>
void share_out(int64_t count, const Make& worker, const Body& body) {
  std::atomic<int64_t> next = 0;
  const int64_t threads = std::min<int64_t>(count, torch::stable::get_num_threads());
  torch::stable::parallel_for(0, threads, 1, [&](int64_t, int64_t) {
    auto mine = worker();
    for (int64_t k = next++; k < count; k = next++) {
      body(mine, k);
    }
  });
}

template <typename U, int scale, typename In>
void run_patches(const View4<const In>& image, const PatchGrid& grid, const int64_t* order, const int64_t* offsets,
                 const float* weights, float* out, int64_t count) {
  const int patch = grid.rows.patch;
  const int64_t row = static_cast<int64_t>(scale) * patch;
  const auto worker = [&] { return std::make_unique<Worker<U, scale>>(weights, patch, patch); };
  share_out(count, worker, [&](auto& mine, int64_t k) {
    mine->begin({patch, patch, {0, patch}, {0, patch}});
    vectorised([&] { take_patch(image, grid, order[k], mine->image.maps); });
    const Target target{{out + k * fsrcnn::colours * row * row, row, row * row}, scale, nullptr};
    mine->run(k < offsets[3] ? 3 : k < offsets[2] ? 2 : 1, target);
  });
}

// Rows of the images, from `top` on, through an exit, in tiles that see as much around them as the network does.
template <typename U, int scale, typename Out, typename In>
void run_images(const View4<const In>& image, const float* weights, int exit, int top, const View4<Out>& out) {
  constexpr int largest_side = tile_side + 2 * largest_image_reach(scale);
  const int reach = image_reach(scale, exit);
  const int height = static_cast<int>(image.size[2]);
  const int width = static_cast<int>(image.size[3]);
  const int bottom = top + static_cast<int>(out.size[2]) / scale;
  const int64_t down = divide_up(bottom - top, tile_side);
  const int64_t across = divide_up(width, tile_side);
  struct Mine {
    Worker<U, scale> worker;
    std::vector<float> sums = std::vector<float>(fsrcnn::colours * scale * scale * tile_side);
    explicit Mine(const float* weights) : worker(weights, largest_side, largest_side) {}
  };
  const auto make = [&] { return std::make_unique<Mine>(weights); };
  share_out(image.size[0] * down * across, make, [&](auto& mine, int64_t k) {
    const int64_t n = k / (down * across);
    const auto part = [&](int64_t index, int first, int last) {
      const int begin = first + static_cast<int>(index) * tile_side;
      return Range{begin, std::min(last, begin + tile_side)};
    };
    const Range rows = part(k / across % down, top, bottom);
    const Range columns = part(k % across, 0, width);
    const Range all_rows = Tile::around(rows, reach, height);
    const Range all_columns = Tile::around(columns, reach, width);
    const auto inside = [](Range wanted, Range all) { return Range{wanted.begin - all.begin, wanted.end - all.begin}; };
    const Tile tile{all_rows.end - all_rows.begin, all_columns.end - all_columns.begin, inside(rows, all_rows),
                    inside(columns, all_columns)};
    mine->worker.begin(tile);
    vectorised([&] {
      for (int y = 0; y < tile.rows; ++y) {
        const Maps& to = mine->worker.image.maps;
        planar_row(to.at(0, y), to.plane, image, &image.at(n, 0, all_rows.begin + y, all_columns.begin), tile.columns);
      }
    });
    const int64_t line = static_cast<int64_t>(scale) * tile_side;
    const Maps sums{mine->sums.data(), line, line * scale};
    Out* to =
        &out.at(n, 0, static_cast<int64_t>(rows.begin - top) * scale, static_cast<int64_t>(columns.begin) * scale);
    // A function of its own, and so not compiled with fused multiply-adds: the bits of a pixel are those of
    // fold_patches.
    const Target target{
        sums, 0, [&](int64_t y) {
          for (int c = 0; c < fsrcnn::colours; ++c) {
            for (int r = 0; r < scale; ++r) {
              Out* line_to = to + out.offset(0, c, (y - tile.wanted_rows.begin) * scale + r, 0);
              vectorised([&] { finish_row(line_to, sums.at(c, r), (columns.end - columns.begin) * scale); });
            }
          }
        }};
    mine->worker.run(exit, target);
  });
}

// Calls body(unit, scale) with the unit of this CPU's registers and the scale, 2, 3 or 4, as a constant. Outputs at
// once: as many as leave two registers free for the inputs and one for a weight.
template <typename Body>
void specialised(int64_t scale, const Body& body) {
  const auto with = [&](auto unit) {
    scale == 2 ? body(unit, Constant<2>{}) : scale == 3 ? body(unit, Constant<3>{}) : body(unit, Constant<4>{});
  };
  switch (widest_registers()) {
    case Registers::avx512:
      return with(Unit<16, 14>{});
    case Registers::avx2:
      return with(Unit<8, 6>{});
    case Registers::baseline:
      return with(Unit<4, 6>{});
  }
}

void fsrcnn_patches_cpu(const Tensor& patches, const Tensor& image, const Tensor& order, const Tensor& offsets,
                        const Tensor& weights, int64_t patch_size, int64_t overlap, int64_t scale) {
  const char* op = "fsrcnn_patches";
  const PatchGrid grid = checked_image_grid(op, image, patch_size, overlap);
  check_fsrcnn(op, image, weights, scale);
  check_depths(op, offsets, image);
  const Tensor checked = checked_order(op, order, image, image.size(0) * grid.num_patches());
  const Tensor depths = torch::stable::contiguous(offsets);
  const Tensor flat = torch::stable::contiguous(weights);
  const int64_t count = order.size(0);
  check_fsrcnn_results(patches, image, order, scale * patch_size);
  const bool narrow = patches.scalar_type() != ScalarType::Float;
  const Tensor sums =
      narrow ? empty_on(image, {count, fsrcnn::colours, patches.size(2), patches.size(3)}, ScalarType::Float) : patches;
  const auto* indices = static_cast<const int64_t*>(checked.const_data_ptr());
  const auto* reached = static_cast<const int64_t*>(depths.const_data_ptr());
  const auto* values = static_cast<const float*>(flat.const_data_ptr());
  auto* out = static_cast<float*>(sums.mutable_data_ptr());
  dispatch(ScoredTypes{}, image.scalar_type(), "fsrcnn_patches: image", [&](auto in) {
    using In = typename decltype(in)::type;
    specialised(scale, [&](auto unit, auto factor) {
      run_patches<decltype(unit), decltype(factor)::value>(const_view<In>(image), grid, indices, reached, values, out,
                                                           count);
    });
  });
  if (narrow) {
    std::copy(out, out + sums.numel(), static_cast<Half*>(patches.mutable_data_ptr()));
  }
}

void fsrcnn_image_cpu(const Tensor& images, const Tensor& image, const Tensor& weights, int64_t scale, int64_t exit,
                      int64_t top) {
  const char* op = "fsrcnn_image";
  ENAF_CHECK(image.dim() == 4, op, ": image: expected (B, 3, H, W), got ", image.dim(), " dimensions");
  checked_grid(op, image.size(2), image.size(3), 1, 0);
  check_fsrcnn(op, image, weights, scale);
  ENAF_CHECK(exit >= 1 && exit <= fsrcnn::num_tails, op, ": exit: expected 1 to 3, got ", exit);
  ENAF_CHECK(images.dim() == 4 && images.size(0) == image.size(0) && images.size(2) % scale == 0 &&
                 images.size(3) == scale * image.size(3),
             op, ": images: expected (", image.size(0), ", 3, ", scale, " * rows, ", scale * image.size(3), ")");
  check_images(op, images, image, fsrcnn::colours);
  const int64_t bottom = top + images.size(2) / scale;
  ENAF_CHECK(top >= 0 && bottom <= image.size(2), op, ": rows: expected 0 <= top <= bottom <= ", image.size(2),
             ", got ", top, " and ", bottom);
  const Tensor flat = torch::stable::contiguous(weights);
  const auto* values = static_cast<const float*>(flat.const_data_ptr());
  dispatch(ScoredTypes{}, image.scalar_type(), "fsrcnn_image: image", [&](auto in) {
    using In = typename decltype(in)::type;
    dispatch(Types<uint8_t, uint16_t, float>{}, images.scalar_type(), "fsrcnn_image: dtype", [&](auto type) {
      using Out = typename decltype(type)::type;
      specialised(scale, [&](auto unit, auto factor) {
        run_images<decltype(unit), decltype(factor)::value>(const_view<In>(image), values, static_cast<int>(exit),
                                                            static_cast<int>(top), mutable_view<Out>(images));
      });
    });
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "fsrcnn_patches", fsrcnn_patches_cpu);
  ENAF_IMPL(m, "fsrcnn_image", fsrcnn_image_cpu);
}
