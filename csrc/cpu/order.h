// SPDX-License-Identifier: Apache-2.0
// Checks of a list of patch indices by its values, which only the CPU can do without waiting for a device.
#pragma once

#include <vector>

#include "checks.h"
#include "stable.h"

namespace enaf {

// `order` contiguous, its values known to lie in [0, count).
inline Tensor checked_order(const char* op, const Tensor& order, const Tensor& beside, int64_t count) {
  check_index(op, "order", order, beside);
  const Tensor contiguous = torch::stable::contiguous(order);
  const int64_t* values = static_cast<const int64_t*>(contiguous.const_data_ptr());
  for (int64_t k = 0; k < contiguous.numel(); ++k) {
    ENAF_CHECK(values[k] >= 0 && values[k] < count, op, ": order: expected 0 <= order < ", count, ", got ", values[k],
               " at ", k);
  }
  return contiguous;
}

// `order` contiguous, known to name each of `count` indices once.
inline Tensor checked_permutation(const char* op, const Tensor& order, const Tensor& beside, int64_t count) {
  const Tensor contiguous = checked_order(op, order, beside, count);
  ENAF_CHECK(contiguous.numel() == count, op, ": order: expected ", count, " indices, got ", contiguous.numel());
  const int64_t* values = static_cast<const int64_t*>(contiguous.const_data_ptr());
  std::vector<bool> seen(count, false);
  for (int64_t k = 0; k < count; ++k) {
    ENAF_CHECK(!seen[values[k]], op, ": order: expected a permutation, got ", values[k], " twice");
    seen[values[k]] = true;
  }
  return contiguous;
}

}  // namespace enaf
