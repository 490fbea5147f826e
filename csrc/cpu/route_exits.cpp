// SPDX-License-Identifier: Apache-2.0
// route_exits: stable counting sort of the patches by descending exit.
#include <vector>

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

std::tuple<Tensor, Tensor> route_exits_cpu(const Tensor& exit_index, int64_t num_exits) {
  check_index("route_exits", "exit_index", exit_index, exit_index);
  ENAF_CHECK(num_exits >= 1, "route_exits: num_exits: expected num_exits >= 1, got ", num_exits);
  const Tensor contiguous = torch::stable::contiguous(exit_index);
  const int64_t n = contiguous.numel();
  const int64_t* exits = static_cast<const int64_t*>(contiguous.const_data_ptr());

  const Tensor order = empty_on(exit_index, {n}, ScalarType::Long);
  const Tensor offsets = empty_on(exit_index, {num_exits + 1}, ScalarType::Long);
  int64_t* order_out = static_cast<int64_t*>(order.mutable_data_ptr());
  int64_t* offsets_out = static_cast<int64_t*>(offsets.mutable_data_ptr());

  std::vector<int64_t> next(num_exits + 1, 0);  // next[j + 1]: first counts exit j, then is where its next patch goes
  for (int64_t i = 0; i < n; ++i) {
    ENAF_CHECK(exits[i] >= 0 && exits[i] < num_exits, "route_exits: exit_index: expected 0 <= exit_index < ", num_exits,
               ", got ", exits[i], " at ", i);
    ++next[exits[i] + 1];
  }
  int64_t later = 0;
  offsets_out[num_exits] = 0;
  for (int64_t j = num_exits - 1; j >= 0; --j) {
    const int64_t here = next[j + 1];
    next[j + 1] = later;
    later += here;
    offsets_out[j] = later;
  }
  for (int64_t i = 0; i < n; ++i) {
    order_out[next[exits[i] + 1]++] = i;
  }
  return {order, offsets};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CPU, m) {
  ENAF_IMPL(m, "route_exits", route_exits_cpu);
}
