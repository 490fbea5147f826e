// SPDX-License-Identifier: Apache-2.0
#include "fsrcnn_patches.cuh"

#include "checks.h"
#include "stable.h"

namespace {

using namespace enaf;

template <typename T>
constexpr fsrcnn::PixelType pixel_type = std::is_same_v<T, uint8_t>    ? fsrcnn::PixelType::uint8
                                         : std::is_same_v<T, uint16_t> ? fsrcnn::PixelType::uint16
                                         : std::is_same_v<T, Half>     ? fsrcnn::PixelType::half
                                         : std::is_same_v<T, BFloat16> ? fsrcnn::PixelType::bfloat16
                                                                       : fsrcnn::PixelType::single;

int attribute(cudaDeviceAttr name, int device) {
  int value = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&value, name, device));
  return value;
}

// Bytes of shared memory that a block takes, known to be there.
int checked_shared_bytes(int device, int64_t patch_size, int scale) {
  const int major = attribute(cudaDevAttrComputeCapabilityMajor, device);
  ENAF_CHECK(major >= 8, "fsrcnn_patches: image: expected a GPU of compute capability 8.0 or newer, got ", major, ".x");
  const int available = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
  int most = 0;
  while (most < fsrcnn::max_patch && fsrcnn::shared_bytes(most + 1, scale) <= available) {
    ++most;
  }
  ENAF_CHECK(patch_size <= most, "fsrcnn_patches: patch_size: expected at most ", most,
             ", for which this GPU has shared memory, got ", patch_size);
  return fsrcnn::shared_bytes(static_cast<int>(patch_size), scale);
}

// Percentage of a multiprocessor's memory that two blocks share; the rest is a cache.
int carveout(int device, int shared_bytes) {
  const int all = attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device);
  const int two = 2 * (shared_bytes + attribute(cudaDevAttrReservedSharedMemoryPerBlock, device));
  return static_cast<int>(at_most(divide_up(int64_t{100} * two, all), 100));
}

template <int scale>
void launch_fsrcnn(const fsrcnn::AnyImage& image, const int64_t* order, const fsrcnn::Depths& depths,
                   const PatchGrid& grid, const Tensor& weights, const Tensor& results, int shared_bytes) {
  const cudaStream_t stream = current_stream(weights);
  const auto* flat = static_cast<const float*>(weights.const_data_ptr());
  constexpr int num_words = fsrcnn::fragments(scale).count * 64;
  const Tensor scratch = empty_on(weights, {num_words}, ScalarType::Int);
  auto* packed = static_cast<WeightFragment*>(scratch.mutable_data_ptr());
  dim3 blocks, threads;
  fsrcnn::weights_shape(scale, blocks, threads);
  fsrcnn::fsrcnn_weights_kernel<scale><<<blocks, threads, 0, stream>>>(flat, packed);
  ENAF_CHECK_LAUNCH();

  const auto kernel = fsrcnn::fsrcnn_patches_kernel<scale>;
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  STD_CUDA_CHECK(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      carveout(weights.get_device_index(), shared_bytes)));
  fsrcnn::patches_shape(results.size(0), blocks, threads);
  kernel<<<blocks, threads, shared_bytes, stream>>>(
      image, order, depths, grid, flat, packed,
      {results.mutable_data_ptr(), results.scalar_type() == ScalarType::Half});
  ENAF_CHECK_LAUNCH();
}

void fsrcnn_patches_cuda(const Tensor& patches, const Tensor& image, const Tensor& order, const Tensor& offsets,
                         const Tensor& weights, int64_t patch_size, int64_t overlap, int64_t scale) {
  const char* op = "fsrcnn_patches";
  const PatchGrid grid = checked_image_grid(op, image, patch_size, overlap);
  check_fsrcnn(op, image, weights, scale);
  check_depths(op, offsets, image);
  check_index(op, "order", order, image);
  check_fsrcnn_results(patches, image, order, scale * patch_size);
  ENAF_CHECK(order.numel() <= max_grid_x, op, ": order: expected at most ", max_grid_x, " patches, got ",
             order.numel());
  ENAF_CHECK(order.numel() == 0 || image.size(0) > 0, op, ": image: expected at least one image, got none");
  const DeviceGuard guard(image.get_device_index());
  const int shared_bytes = checked_shared_bytes(image.get_device_index(), patch_size, static_cast<int>(scale));
  const Tensor indices = torch::stable::contiguous(order);
  const Tensor reached = torch::stable::contiguous(offsets);
  const Tensor flat = torch::stable::contiguous(weights);
  const auto* counts = static_cast<const int64_t*>(reached.const_data_ptr());
  const fsrcnn::Depths depths =
      offsets.is_cpu() ? fsrcnn::Depths{nullptr, counts[2], counts[3]} : fsrcnn::Depths{counts, 0, 0};
  dispatch(ScoredTypes{}, image.scalar_type(), "fsrcnn_patches: image", [&](auto in) {
    if (patches.numel() == 0) {
      return;
    }
    const fsrcnn::AnyImage any{pixel_type<typename decltype(in)::type>, const_view<uint8_t>(image)};
    const auto* named = static_cast<const int64_t*>(indices.const_data_ptr());
    switch (scale) {
      case 2:
        return launch_fsrcnn<2>(any, named, depths, grid, flat, patches, shared_bytes);
      case 3:
        return launch_fsrcnn<3>(any, named, depths, grid, flat, patches, shared_bytes);
      default:
        return launch_fsrcnn<4>(any, named, depths, grid, flat, patches, shared_bytes);
    }
  });
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(enaf_ext, CUDA, m) {
  ENAF_IMPL(m, "fsrcnn_patches", fsrcnn_patches_cuda);
}
