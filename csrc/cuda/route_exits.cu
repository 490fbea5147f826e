// SPDX-License-Identifier: Apache-2.0
#include "route_exits.cuh"

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

void launch_route_exits(const Tensor& exit_index, int64_t num_exits, const Tensor& block_counts, const Tensor& order,
                        const Tensor& offsets) {
  const auto* exits = static_cast<const int64_t*>(exit_index.const_data_ptr());
  auto* counts = static_cast<int32_t*>(block_counts.mutable_data_ptr());
  const auto blocks = static_cast<unsigned>(block_counts.size(1));
  const cudaStream_t stream = current_stream(exit_index);
  count_exits_kernel<<<blocks, route_warps * 32, 0, stream>>>(exits, exit_index.numel(),
                                                              static_cast<int32_t>(num_exits), counts);
  ENAF_CHECK_LAUNCH();
  place_exits_kernel<<<blocks, route_warps * 32, 0, stream>>>(
      exits, counts, exit_index.numel(), static_cast<int32_t>(num_exits),
      static_cast<int64_t*>(order.mutable_data_ptr()), static_cast<int64_t*>(offsets.mutable_data_ptr()));
  ENAF_CHECK_LAUNCH();
}

std::tuple<Tensor, Tensor> route_exits_cuda(const Tensor& exit_index, int64_t num_exits) {
  check_index("route_exits", "exit_index", exit_index, exit_index);
  ENAF_CHECK(num_exits >= 1 && num_exits <= max_routed_exits,
             "route_exits: num_exits: expected 1 <= num_exits <= ", max_routed_exits, " on CUDA, got ", num_exits);
  ENAF_CHECK(exit_index.numel() <= max_axis, "route_exits: exit_index: expected at most ", max_axis, " patches, got ",
             exit_index.numel());
  const DeviceGuard guard(exit_index.get_device_index());
  const Tensor contiguous = torch::stable::contiguous(exit_index);
  const Tensor order = empty_on(exit_index, {exit_index.numel()}, ScalarType::Long);
  const Tensor offsets = empty_on(exit_index, {num_exits + 1}, ScalarType::Long);
  // No patches: one block of none still writes the offsets.
  const int64_t blocks = divide_up(exit_index.numel() + (exit_index.numel() == 0), route_chunk);
  const Tensor block_counts = empty_on(exit_index, {num_exits, blocks}, ScalarType::Int);
  launch_route_exits(contiguous, num_exits, block_counts, order, offsets);
  return {order, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "route_exits", route_exits_cuda);
}
