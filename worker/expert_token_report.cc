// SPDX-License-Identifier: Apache-2.0
#include "worker/expert_token_report.h"

#include <algorithm>

#include "proto/cluster.pb.h"

namespace shoal {

bool ExpertTokenReport::Take(const Model& model, proto::ExpertTokens& message) {
  const absl::Span<const int64_t> counted = model.expert_tokens();
  reported_.resize(counted.size(), 0);
  if (std::equal(counted.begin(), counted.end(), reported_.begin())) return false;
  const int most = model.config().MaxRoutedExperts();
  size_t first = 0;  // of the layer's counts
  for (const int experts : model.config().RoutedExperts()) {
    auto& tokens = *message.add_layers()->mutable_tokens();
    tokens.Reserve(experts);
    for (int expert = 0; expert < experts; ++expert) {
      tokens.Add(counted[first + expert] - reported_[first + expert]);
    }
    first += most;
  }
  reported_.assign(counted.begin(), counted.end());
  return true;
}

}  // namespace shoal
