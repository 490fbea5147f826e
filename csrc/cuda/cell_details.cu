// SPDX-License-Identifier: Apache-2.0
#include "cell_details.cuh"

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

Tensor cell_details_cuda(const Tensor& image) {
  check_cells(image);
  const DeviceGuard guard(image.get_device_index());
  const int64_t rows = (image.size(2) - 2) / cell_side;
  const int64_t cols = (image.size(3) - 2) / cell_side;
  const Tensor details = empty_on(image, {image.size(0), num_cell_details, rows, cols}, ScalarType::Float, true);
  if (details.numel() == 0) {
    return details;
  }
  dispatch(ScoredTypes{}, image.scalar_type(), "cell_details: image", [&](auto type) {
    using T = typename decltype(type)::type;
    dim3 blocks, threads;
    cell_details_shape(image.size(0) * rows * cols, blocks, threads);
    cell_details_kernel<T><<<blocks, threads, 0, current_stream(image)>>>(
        const_view<T>(image), rows, cols, static_cast<float*>(details.mutable_data_ptr()));
    ENAF_CHECK_LAUNCH();
  });
  return details;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "cell_details", cell_details_cuda);
}
