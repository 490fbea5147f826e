// SPDX-License-Identifier: Apache-2.0
// The regular grid of overlapping patches over an image; enaf_ext/grid.py is its mirror.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace enaf {

// The one or two patches that cover a coordinate: `first` and, when count is 2, `first + 1`.
struct Cover {
  int32_t first;
  int32_t count;
};

// One axis of the grid. Invariant: patch / 2 <= stride <= patch, hence at most two patches cover a coordinate.
struct PatchAxis {
  int32_t size;    // pixels of the image
  int32_t patch;   // pixels of a patch
  int32_t stride;  // patch - overlap
  int32_t count;   // patches

  ENAF_HOST_DEVICE int32_t overlap() const { return patch - stride; }
  ENAF_HOST_DEVICE int32_t origin(int32_t index) const { return index * stride; }

  // Pixels past the far edge are the edge pixel.
  ENAF_HOST_DEVICE int32_t clamp(int32_t position) const { return position < size ? position : size - 1; }

  ENAF_HOST_DEVICE Cover cover(int32_t position) const {
    const int32_t last = position / stride < count ? position / stride : count - 1;
    const bool two = last > 0 && position - origin(last - 1) < patch;
    return two ? Cover{last - 1, 2} : Cover{last, 1};
  }
};

ENAF_HOST_DEVICE PatchAxis make_patch_axis(int64_t size, int64_t patch, int64_t overlap) {
  const int64_t stride = patch - overlap;
  const int64_t count = size > patch ? 1 + (size - patch + stride - 1) / stride : 1;
  return {static_cast<int32_t>(size), static_cast<int32_t>(patch), static_cast<int32_t>(stride),
          static_cast<int32_t>(count)};
}

// Where a patch lies: its image and its row and column in the grid.
struct PatchPlace {
  int64_t image;
  int32_t row;
  int32_t col;
};

struct PatchGrid {
  PatchAxis rows;
  PatchAxis cols;

  ENAF_HOST_DEVICE int64_t num_patches() const { return static_cast<int64_t>(rows.count) * cols.count; }

  // Inverse of index = image * num_patches + row * cols + col.
  ENAF_HOST_DEVICE PatchPlace place(int64_t index) const {
    const int64_t image = index / num_patches();
    const int64_t in_image = index - image * num_patches();
    const int32_t row = static_cast<int32_t>(in_image / cols.count);
    return {image, row, static_cast<int32_t>(in_image - static_cast<int64_t>(row) * cols.count)};
  }
};

ENAF_HOST_DEVICE PatchGrid make_patch_grid(int64_t height, int64_t width, int64_t patch_size, int64_t overlap) {
  return {make_patch_axis(height, patch_size, overlap), make_patch_axis(width, patch_size, overlap)};
}

}  // namespace enaf
