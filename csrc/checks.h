// SPDX-License-Identifier: Apache-2.0
// Argument checks of the native entries. The Python wrappers raise first and with better types; these keep direct calls
// of torch.ops.enaf_ext safe. Call them before parallel_for: a message thrown inside it is lost.
#pragma once

#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "blend.h"
#include "detail.h"
#include "fsrcnn.h"
#include "patch_grid.h"
#include "pixel.h"
#include "stable.h"

// A std::runtime_error becomes Python's RuntimeError, with the message as it is.
#define ENAF_CHECK(condition, ...)                       \
  do {                                                   \
    if (!(condition)) {                                  \
      throw std::runtime_error(enaf::text(__VA_ARGS__)); \
    }                                                    \
  } while (false)

namespace enaf {

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream stream;
  (stream << ... << parts);
  return stream.str();
}

constexpr int64_t max_axis = std::numeric_limits<int32_t>::max() / 4;  // headroom for sums of coordinates in 32 bits
constexpr int64_t max_scale = 16;

inline PatchGrid checked_grid(const char* op, int64_t height, int64_t width, int64_t patch_size, int64_t overlap) {
  ENAF_CHECK(height >= 1 && width >= 1 && height <= max_axis && width <= max_axis, op,
             ": expected height and width in [1, ", max_axis, "], got ", height, "x", width);
  ENAF_CHECK(patch_size >= 1 && patch_size <= max_axis, op, ": patch_size: expected patch_size >= 1, got ", patch_size);
  ENAF_CHECK(overlap >= 0 && overlap <= patch_size / 2, op, ": overlap: expected 0 <= overlap <= patch_size // 2, got ",
             overlap);
  return make_patch_grid(height, width, patch_size, overlap);
}

inline PatchGrid checked_image_grid(const char* op, const Tensor& image, int64_t patch_size, int64_t overlap) {
  ENAF_CHECK(image.dim() == 4, op, ": image: expected (B, C, H, W), got ", image.dim(), " dimensions");
  return checked_grid(op, image.size(2), image.size(3), patch_size, overlap);
}

// An image of whole cells with a margin of one pixel.
inline void check_cells(const Tensor& image) {
  const char* op = "cell_details";
  ENAF_CHECK(image.dim() == 4 && image.size(1) == 3, op, ": image: expected (B, 3, 4 * rows + 2, 4 * cols + 2)");
  for (int d = 2; d < 4; ++d) {
    const int64_t side = image.size(d) - 2;
    ENAF_CHECK(side >= cell_side && side % cell_side == 0 && side <= max_axis, op,
               ": image: expected sides of 4n + 2, got ", image.size(d));
  }
}

// Whether patches that an operator is to fill are channels_last; planar and without gaps otherwise.
inline bool checked_target(const char* op, const Tensor& patches, const Tensor& image, const Tensor& order,
                           int64_t channels, int64_t side) {
  ENAF_CHECK(patches.dim() == 4 && patches.size(0) == order.size(0) && patches.size(1) == channels &&
                 patches.size(2) == side && patches.size(3) == side,
             op, ": patches: expected (", order.size(0), ", ", channels, ", ", side, ", ", side, ")");
  ENAF_CHECK(patches.device() == image.device(), op, ": patches: expected the device of the image");
  const bool channels_last = patches.stride(1) == 1;
  const int64_t pixel = channels_last ? channels : 1;
  const bool dense = (side == 1 || (patches.stride(3) == pixel && patches.stride(2) == pixel * side)) &&
                     (channels == 1 || channels_last || patches.stride(1) == side * side) &&
                     (patches.size(0) == 1 || patches.stride(0) == channels * side * side);
  ENAF_CHECK(dense || patches.numel() == 0, op, ": patches: expected contiguous or channels_last");
  return channels_last;
}

// What the operators of FSRCNN are given besides where to work.
inline void check_fsrcnn(const char* op, const Tensor& image, const Tensor& weights, int64_t scale) {
  ENAF_CHECK(image.size(1) == fsrcnn::colours, op, ": image: expected 3 channels, got ", image.size(1));
  ENAF_CHECK(scale >= 2 && scale <= 4, op, ": scale: expected 2, 3 or 4, got ", scale);
  ENAF_CHECK(weights.dim() == 1 && weights.size(0) == fsrcnn::layers().count &&
                 weights.scalar_type() == ScalarType::Float && weights.device() == image.device(),
             op, ": weights: expected (", fsrcnn::layers().count, ",) float32 on the image's device");
}

inline void check_fsrcnn_results(const Tensor& patches, const Tensor& image, const Tensor& order, int64_t side) {
  const char* op = "fsrcnn_patches";
  const bool channels_last = checked_target(op, patches, image, order, fsrcnn::colours, side);
  ENAF_CHECK(!channels_last, op, ": patches: expected contiguous");
  const ScalarType dtype = patches.scalar_type();
  ENAF_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Half, op,
             ": patches: dtype not supported: ", torch::headeronly::toString(dtype));
}

// On the CPU they are known before a launch, on a GPU to the kernel: neither waits for the other.
inline void check_depths(const char* op, const Tensor& offsets, const Tensor& beside) {
  ENAF_CHECK(offsets.dim() == 1 && offsets.size(0) == fsrcnn::num_tails + 2 &&
                 offsets.scalar_type() == ScalarType::Long && (offsets.is_cpu() || offsets.device() == beside.device()),
             op, ": offsets: expected (", fsrcnn::num_tails + 2, ",) int64 on the CPU or the image's device");
}

inline void check_index(const char* op, const char* name, const Tensor& index, const Tensor& beside) {
  ENAF_CHECK(index.dim() == 1 && index.scalar_type() == ScalarType::Long, op, ": ", name, ": expected (M,) int64, got ",
             index.dim(), " dimensions of ", torch::headeronly::toString(index.scalar_type()));
  ENAF_CHECK(index.device() == beside.device(), op, ": ", name, ": expected the device of the other tensor");
}

// Pixels of a patch's side that one pixel of `patches` stands for: 1, or s for the layout before a pixel shuffle by s.
// All parts of `patches` have one dtype, device and layout, so that any of them tells it.
inline int64_t checked_fold_scale(const std::vector<Tensor>& patches, const PatchGrid& grid, int64_t batch, int64_t top,
                                  int64_t bottom, int64_t window) {
  const char* op = "fold_patches";
  ENAF_CHECK(window >= 0 && window < num_windows, op, ": window: expected a window code below ", num_windows, ", got ",
             window);
  ENAF_CHECK(batch >= 0, op, ": batch: expected batch >= 0, got ", batch);
  ENAF_CHECK(top >= 0 && top <= bottom && bottom <= grid.rows.size, op,
             ": rows: expected 0 <= top <= bottom <= ", grid.rows.size, ", got ", top, " and ", bottom);
  ENAF_CHECK(!patches.empty(), op, ": patches: expected at least one tensor, got none");
  const Tensor& first = patches.front();
  int64_t count = 0;
  for (const Tensor& part : patches) {
    ENAF_CHECK(part.dim() == 4, op, ": patches: expected (N, C, P, P), got ", part.dim(), " dimensions");
    count += part.size(0);
    ENAF_CHECK(part.scalar_type() == first.scalar_type() && part.device() == first.device(), op,
               ": patches: expected one dtype and device");
    for (int d = 1; d < 4; ++d) {
      ENAF_CHECK(part.size(d) == first.size(d) && part.stride(d) == first.stride(d), op,
                 ": patches: expected one shape and layout");
    }
  }
  ENAF_CHECK(count == batch * grid.num_patches(), op, ": patches: expected ", batch * grid.num_patches(), ", got ",
             count);
  const int64_t side = first.size(3);
  ENAF_CHECK(first.size(2) == side && side >= 1 && grid.rows.patch % side == 0, op, ": patches: expected sides of ",
             grid.rows.patch, " or of a divisor of it, got ", first.size(2), "x", side);
  const int64_t scale = grid.rows.patch / side;
  ENAF_CHECK(first.size(1) >= 1 && first.size(1) % (scale * scale) == 0, op,
             ": patches: expected channels in a multiple of ", scale * scale, ", got ", first.size(1));
  return scale;
}

inline PatchGrid checked_target_grid(const Tensor& images, int64_t height, int64_t patch_size, int64_t overlap) {
  const char* op = "fold_patches_into";
  ENAF_CHECK(images.dim() == 4, op, ": images: expected (B, C, rows, W), got ", images.dim(), " dimensions");
  return checked_grid(op, height, images.size(3), patch_size, overlap);
}

// Images that an operator is to fill: rows without gaps, wherever they lie.
inline void check_images(const char* op, const Tensor& images, const Tensor& beside, int64_t channels) {
  ENAF_CHECK(images.size(1) == channels, op, ": images: expected ", channels, " channels, got ", images.size(1));
  ENAF_CHECK(images.device() == beside.device(), op, ": images: expected the device of the other tensors");
  const bool rows =
      (images.size(3) == 1 || images.stride(3) == 1) && (images.size(2) == 1 || images.stride(2) == images.size(3));
  ENAF_CHECK(rows || images.numel() == 0, op, ": images: expected rows side by side");
}

}  // namespace enaf
