// SPDX-License-Identifier: Apache-2.0
// A row of an image's pixels, converted in dtype and layout.
#pragma once

#include <cstdint>

#include "pixel.h"
#include "tensor_view.h"

namespace enaf {

template <typename Out, typename In>
inline void convert_row(Out* __restrict out, int64_t out_stride, const In* __restrict in, int64_t in_stride,
                        int64_t count) {
  if (in_stride == 1 && out_stride == 1) {
    for (int64_t x = 0; x < count; ++x) {
      out[x] = convert_pixel<Out>(in[x]);
    }
  } else {
    for (int64_t x = 0; x < count; ++x) {
      out[x * out_stride] = convert_pixel<Out>(in[x * in_stride]);
    }
  }
}

// Three planes to interleaved pixels and back: contiguous and channels_last RGB.
template <typename Out, typename In>
inline void interleave_3(Out* __restrict out, const In* __restrict r, const In* __restrict g, const In* __restrict b,
                         int64_t count) {
  for (int64_t x = 0; x < count; ++x) {
    out[3 * x] = convert_pixel<Out>(r[x]);
    out[3 * x + 1] = convert_pixel<Out>(g[x]);
    out[3 * x + 2] = convert_pixel<Out>(b[x]);
  }
}

template <typename Out, typename In>
inline void separate_3(Out* __restrict r, Out* __restrict g, Out* __restrict b, const In* __restrict in,
                       int64_t count) {
  for (int64_t x = 0; x < count; ++x) {
    r[x] = convert_pixel<Out>(in[3 * x]);
    g[x] = convert_pixel<Out>(in[3 * x + 1]);
    b[x] = convert_pixel<Out>(in[3 * x + 2]);
  }
}

// `count` pixels of `image` from `in` on, as (pixel, channel).
template <typename Out, typename In>
inline void interleaved_row(Out* out, const View4<const In>& image, const In* in, int64_t count) {
  const int64_t channels = image.size[1];
  if (image.interleaved()) {
    convert_row(out, 1, in, 1, count * channels);
  } else if (channels == 3 && image.planar()) {
    interleave_3(out, in, in + image.stride[1], in + 2 * image.stride[1], count);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      convert_row(out + c, channels, in + c * image.stride[1], image.stride[3], count);
    }
  }
}

// The same as (channel, pixel), channels `plane` apart.
template <typename Out, typename In>
inline void planar_row(Out* out, int64_t plane, const View4<const In>& image, const In* in, int64_t count) {
  const int64_t channels = image.size[1];
  if (channels == 3 && image.interleaved()) {
    separate_3(out, out + plane, out + 2 * plane, in, count);
  } else {
    for (int64_t c = 0; c < channels; ++c) {
      convert_row(out + c * plane, 1, in + c * image.stride[1], image.stride[3], count);
    }
  }
}

}  // namespace enaf
