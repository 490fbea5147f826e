// SPDX-License-Identifier: Apache-2.0
// The schema of every operator, and nothing else.
#include "stable.h"

STABLE_TORCH_LIBRARY(enaf_ext, m) {
  m.def("edge_score(Tensor image, SymInt patch_size, SymInt overlap) -> Tensor");
  m.def("cell_details(Tensor image) -> Tensor");
  m.def("unfold_patches(Tensor image, SymInt patch_size, SymInt overlap) -> Tensor");
  m.def(
      "gather_patches(Tensor image, Tensor order, SymInt patch_size, SymInt overlap, ScalarType dtype, "
      "bool channels_last) -> Tensor");
  m.def(
      "bicubic_patches(Tensor(a!) patches, Tensor image, Tensor order, SymInt patch_size, SymInt overlap, SymInt "
      "scale, "
      "bool shuffled) -> ()");
  m.def(
      "fsrcnn_patches(Tensor(a!) patches, Tensor image, Tensor order, Tensor offsets, Tensor weights, SymInt "
      "patch_size, "
      "SymInt overlap, SymInt scale) -> ()");
  m.def("fsrcnn_image(Tensor(a!) images, Tensor image, Tensor weights, SymInt scale, SymInt exit, SymInt top) -> ()");
  m.def("route_exits(Tensor exit_index, SymInt num_exits) -> (Tensor, Tensor)");
  m.def(
      "fold_patches(Tensor[] patches, Tensor? order, SymInt batch, SymInt height, SymInt width, SymInt patch_size, "
      "SymInt overlap, SymInt top, SymInt bottom, int window, ScalarType dtype) -> Tensor");
  m.def(
      "fold_patches_into(Tensor(a!) images, Tensor[] patches, Tensor? order, SymInt height, SymInt patch_size, SymInt "
      "overlap, SymInt top, int window) -> ()");
}
