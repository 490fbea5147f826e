// SPDX-License-Identifier: Apache-2.0
// Argument checks of the native entries. The Python wrappers raise first and with better types; these keep direct calls of
// torch.ops.enaf_ext safe. Call them before parallel_for: a message thrown inside it is lost.
#pragma once

#include <cstdint>
#include <limits>

#include "blend.h"
#include "patch_grid.h"
#include "pixel.h"
#include "stable.h"

#define ENAF_CHECK(condition, ...) STD_TORCH_CHECK(condition, __VA_ARGS__)

namespace enaf {

constexpr int64_t max_axis = std::numeric_limits<int32_t>::max() / 4;  // headroom for sums of coordinates in 32 bits
constexpr int64_t max_scale = 16;

inline PatchGrid checked_grid(const char* op, int64_t height, int64_t width, int64_t patch_size, int64_t overlap) {
  ENAF_CHECK(height >= 1 && width >= 1 && height <= max_axis && width <= max_axis, op,
             ": expected height and width in [1, ", max_axis, "], got ", height, "x", width);
  ENAF_CHECK(patch_size >= 1 && patch_size <= max_axis, op, ": patch_size: expected patch_size >= 1, got ", patch_size);
  ENAF_CHECK(overlap >= 0 && overlap <= patch_size / 2, op,
             ": overlap: expected 0 <= overlap <= patch_size // 2, got ", overlap);
  return make_patch_grid(height, width, patch_size, overlap);
}

inline PatchGrid checked_image_grid(const char* op, const Tensor& image, int64_t patch_size, int64_t overlap) {
  ENAF_CHECK(image.dim() == 4, op, ": image: expected (B, C, H, W), got ", image.dim(), " dimensions");
  return checked_grid(op, image.size(2), image.size(3), patch_size, overlap);
}

inline void check_index(const char* op, const char* name, const Tensor& index, const Tensor& beside) {
  ENAF_CHECK(index.dim() == 1 && index.scalar_type() == ScalarType::Long, op, ": ", name, ": expected (M,) int64, got ",
             index.dim(), " dimensions of ", torch::headeronly::toString(index.scalar_type()));
  ENAF_CHECK(index.device() == beside.device(), op, ": ", name, ": expected the device of the other tensor");
}

}  // namespace enaf
