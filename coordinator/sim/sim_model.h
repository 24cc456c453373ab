// SPDX-License-Identifier: Apache-2.0
// A model made of hashes, in the shape of the real one: each layer appends to the cache, reads the whole
// context back from it, block by block, and sends every row to the holders of its experts and sums
// what comes back, through the engine's own bookkeeping and messages. A wrong token, row, block,
// position or rank, an expert that is not where the map says, a contribution that is missing, doubled or of
// another step: each changes the logits, and with them the text.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "coordinator/core/request.h"
#include "engine/config/model_config.h"
#include "engine/config/sampling_params.h"
#include "engine/model/model.h"

namespace shoal::sim {

inline constexpr int32_t kVocabulary = 24;
inline constexpr int32_t kEndToken = 3;
inline constexpr int32_t kPoison = 23;

struct SimModelShape {
  int moe_layers = 2;  // behind one dense layer
  int experts = 8;
  int experts_per_token = 2;
  int64_t max_context = 64;
  // 0: all experts are equally popular. Larger: the i-th is chosen with a weight of (i + 1)^-skew.
  double skew = 0;
  // Of so many rows one has logits that are no numbers, always the same ones; 0: none.
  uint64_t overflow_one_in = 0;
  bool poison = false;  // who computes kPoison at the beginning of a prompt loses its device
};

// What the coordinator and the workers must know of it.
ModelConfig MakeModelConfig(const SimModelShape& shape);

// What the device does in virtual time: called in each layer with the rows it works on, before the dispatch and,
// with those of its experts, before the combine; may suspend. An error is the device's own.
using ComputeHook = std::function<absl::Status(int64_t rows)>;

// As Model::Load, of a model that is there at once.
std::unique_ptr<Model> MakeSimModel(const SimModelShape& shape, const ExpertPlacement& placement,
                                    const ModelOptions& options, Exchange& exchange,
                                    ComputeHook compute);

// What a choice must say: computed alone, on no cluster. kError: its logits are no numbers from
// there on.
struct Reference {
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;
  std::vector<TokenLogprobs> prompt_logprobs;
  FinishReason finish = FinishReason::kLength;
};
Reference ComputeAlone(const SimModelShape& shape, const Request& request, int32_t choice);

}  // namespace shoal::sim
