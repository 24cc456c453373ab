// SPDX-License-Identifier: Apache-2.0
#include "engine/tensor/tensor.h"

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"

namespace shoal {

std::string TensorView::ToString() const {
  const auto dims = absl::MakeConstSpan(shape_.data(), static_cast<size_t>(rank_));
  return absl::StrCat("[", absl::StrJoin(dims, ", "), "] ",
                      absl::AsciiStrToLower(DTypeName(dtype_)));
}

}  // namespace shoal
