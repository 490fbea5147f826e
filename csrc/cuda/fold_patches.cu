// SPDX-License-Identifier: Apache-2.0
#include "fold_patches.cuh"

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

// Where the patch of each grid index lies. Patches that no index of `order` names count as absent.
Tensor launch_invert_order(const Tensor& order) {
  const Tensor place_of = empty_on(order, {order.numel()}, ScalarType::Long);
  auto* places = static_cast<int64_t*>(place_of.mutable_data_ptr());
  const cudaStream_t stream = current_stream(order);
  STD_CUDA_CHECK(cudaMemsetAsync(places, 0xff, order.numel() * sizeof(int64_t), stream));
  const auto blocks = static_cast<unsigned>(at_most(divide_up(order.numel(), fold_threads), max_grid_x));
  invert_order_kernel<<<blocks, fold_threads, 0, stream>>>(static_cast<const int64_t*>(order.const_data_ptr()),
                                                           order.numel(), places);
  ENAF_CHECK_LAUNCH();
  return place_of;
}

template <int V, typename Out, typename In>
void launch_fold(const View4<const In>& patches, const int64_t* place_of, const PatchGrid& grid, Window window,
                 int32_t scale, int32_t top, const Tensor& images) {
  dim3 blocks, threads;
  fold_shape(images.size(0), images.size(2), grid.cols.size, V, blocks, threads);
  fold_kernel<V><<<blocks, threads, 0, current_stream(images)>>>(patches, place_of, grid, window, scale, top,
                                                                 mutable_view<Out>(images));
  ENAF_CHECK_LAUNCH();
}

template <typename Out, typename In>
void launch_fold_of_run(const View4<const In>& patches, const int64_t* place_of, const PatchGrid& grid, Window window,
                        int32_t scale, int32_t top, const Tensor& images) {
  if constexpr (!std::is_same_v<In, double> && !std::is_same_v<Out, double>) {
    switch (fold_run(patches, grid, scale)) {
      case 4:
        return launch_fold<4, Out>(patches, place_of, grid, window, scale, top, images);
      case 2:
        return launch_fold<2, Out>(patches, place_of, grid, window, scale, top, images);
      default:
        break;
    }
  }
  launch_fold<1, Out>(patches, place_of, grid, window, scale, top, images);
}

// The parts behind one another in memory. A copy of the patches more, unless there is only one part.
Tensor joined(const std::vector<Tensor>& parts, int64_t count) {
  const Tensor& first = parts.front();
  if (parts.size() == 1) {
    return first;
  }
  const int64_t width = first.size(3);
  const bool channels_last = first.stride(1) == 1 && (width == 1 || first.stride(3) == first.size(1));
  Tensor all = empty_on(first, {count, first.size(1), first.size(2), width}, first.scalar_type(), channels_last);
  int64_t filled = 0;
  for (const Tensor& part : parts) {
    Tensor here = torch::stable::narrow(all, 0, filled, part.size(0));
    torch::stable::copy_(here, part);
    filled += part.size(0);
  }
  return all;
}

void fold_into(const Tensor& images, const std::vector<Tensor>& parts, const std::optional<Tensor>& order,
               const PatchGrid& grid, int64_t scale, int64_t top, int64_t window) {
  const int64_t count = images.size(0) * grid.num_patches();
  if (order.has_value()) {
    check_index("fold_patches", "order", *order, parts.front());
    ENAF_CHECK(order->numel() == count, "fold_patches: order: expected ", count, " indices, got ", order->numel());
  }
  const Tensor patches = joined(parts, count);
  std::optional<Tensor> place_of;
  if (order.has_value() && order->numel() > 0) {
    place_of = launch_invert_order(torch::stable::contiguous(*order));
  }
  const auto* places = place_of.has_value() ? static_cast<const int64_t*>(place_of->const_data_ptr()) : nullptr;
  dispatch(FloatTypes{}, patches.scalar_type(), "fold_patches: patches", [&](auto in) {
    using In = typename decltype(in)::type;
    dispatch(PixelTypes{}, images.scalar_type(), "fold_patches: dtype", [&](auto out) {
      if (images.numel() > 0) {
        launch_fold_of_run<typename decltype(out)::type>(const_view<In>(patches), places, grid,
                                                         static_cast<Window>(window), static_cast<int32_t>(scale),
                                                         static_cast<int32_t>(top), images);
      }
    });
  });
}

Tensor fold_patches_cuda(std::vector<Tensor> parts, std::optional<Tensor> order, int64_t batch, int64_t height,
                         int64_t width, int64_t patch_size, int64_t overlap, int64_t top, int64_t bottom,
                         int64_t window, ScalarType dtype) {
  const PatchGrid grid = checked_grid("fold_patches", height, width, patch_size, overlap);
  const int64_t scale = checked_fold_scale(parts, grid, batch, top, bottom, window);
  const Tensor& any = parts.front();
  const DeviceGuard guard(any.get_device_index());
  const Tensor images = empty_on(any, {batch, any.size(1) / (scale * scale), bottom - top, width}, dtype);
  fold_into(images, parts, order, grid, scale, top, window);
  return images;
}

void fold_patches_into_cuda(const Tensor& images, std::vector<Tensor> parts, std::optional<Tensor> order,
                            int64_t height, int64_t patch_size, int64_t overlap, int64_t top, int64_t window) {
  const PatchGrid grid = checked_target_grid(images, height, patch_size, overlap);
  const int64_t scale = checked_fold_scale(parts, grid, images.size(0), top, top + images.size(2), window);
  check_images("fold_patches_into", images, parts.front(), parts.front().size(1) / (scale * scale));
  const DeviceGuard guard(images.get_device_index());
  fold_into(images, parts, order, grid, scale, top, window);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "fold_patches", fold_patches_cuda);
  ENAF_IMPL(m, "fold_patches_into", fold_patches_into_cuda);
}
