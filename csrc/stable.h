// SPDX-License-Identifier: Apache-2.0
// Torch's stable ABI as the operators use it: the only file that touches its raw shims.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <cstdint>
#include <optional>
#include <tuple>
#include <type_traits>

#include "tensor_view.h"

#if defined(__CUDACC__)
#include <cuda_runtime.h>
#endif

namespace enaf {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Half = c10::Half;
using BFloat16 = c10::BFloat16;

template <typename T>
constexpr ScalarType scalar_type_of = torch::headeronly::CppTypeToScalarType<T>::value;

template <typename T>
struct Type {
  using type = T;
};

template <typename... T>
struct Types {};

using FloatTypes = Types<Half, BFloat16, float, double>;
using PixelTypes = Types<uint8_t, uint16_t, Half, BFloat16, float, double>;
using ScoredTypes = Types<uint8_t, uint16_t, Half, BFloat16, float>;

// Calls body(Type<T>{}) with the listed T that `dtype` names.
template <typename... T, typename Body>
void dispatch(Types<T...>, ScalarType dtype, const char* name, Body&& body) {
  const bool found = ((dtype == scalar_type_of<T> && (body(Type<T>{}), true)) || ...);
  STD_TORCH_CHECK(found, name, ": dtype not supported: ", torch::headeronly::toString(dtype));
}

template <typename T>
View4<const T> const_view(const Tensor& tensor) {
  View4<const T> view{static_cast<const T*>(tensor.const_data_ptr()), {}, {}};
  for (int d = 0; d < 4; ++d) {
    view.size[d] = tensor.size(d);
    view.stride[d] = tensor.stride(d);
  }
  return view;
}

template <typename T>
View4<T> mutable_view(const Tensor& tensor) {
  View4<T> view{static_cast<T*>(tensor.mutable_data_ptr()), {}, {}};
  for (int d = 0; d < 4; ++d) {
    view.size[d] = tensor.size(d);
    view.stride[d] = tensor.stride(d);
  }
  return view;
}

// A new tensor on the device of `like`.
inline Tensor empty_on(const Tensor& like, std::initializer_list<int64_t> size, ScalarType dtype,
                       bool channels_last = false) {
  const auto format =
      channels_last ? torch::headeronly::MemoryFormat::ChannelsLast : torch::headeronly::MemoryFormat::Contiguous;
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(size.begin(), size.size()), dtype, std::nullopt,
                              like.device(), std::nullopt, format);
}

// Schema scalars arrive as 64-bit words: a float or int parameter of a boxed function would silently hold garbage.
template <typename T>
struct HasStableScalars : std::true_type {};

template <typename R, typename... A>
struct HasStableScalars<R(A...)>
    : std::bool_constant<((!std::is_same_v<std::decay_t<A>, float> && !std::is_same_v<std::decay_t<A>, int>) && ...)> {
};

}  // namespace enaf

// Registers `function` as the implementation of the operator of the same position in the library.
#define ENAF_IMPL(library, name, function)                                                           \
  static_assert(enaf::HasStableScalars<decltype(function)>::value, "int64_t, double and bool only"); \
  (library).impl(name, TORCH_BOX(&function))

#if defined(__CUDACC__)

namespace enaf {

using torch::stable::accelerator::DeviceGuard;

// The stream torch is launching on: what makes the operators capturable in a CUDA graph.
inline cudaStream_t current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return static_cast<cudaStream_t>(stream);
}

}  // namespace enaf

// After every launch. Asynchronous: it reports a bad launch, it does not wait for the kernel.
#define ENAF_CHECK_LAUNCH() STD_CUDA_KERNEL_LAUNCH_CHECK()

#endif  // defined(__CUDACC__)
