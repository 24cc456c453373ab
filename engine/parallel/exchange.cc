// SPDX-License-Identifier: Apache-2.0
#include "engine/parallel/exchange.h"

#include "absl/strings/str_cat.h"

namespace shoal {

absl::string_view ExchangePhaseName(ExchangePhase phase) {
  return phase == ExchangePhase::kDispatch ? "dispatch" : "combine";
}

std::string ExchangeTag::ToString() const {
  return absl::StrCat("epoch ", epoch.value(), " step ", step.value(), " layer ", layer, " ",
                      ExchangePhaseName(phase));
}

}  // namespace shoal
