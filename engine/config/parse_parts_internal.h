// SPDX-License-Identifier: Apache-2.0
// The parts of a config that generations share, read by the checkpoint's own keys. Each records in
// the reader what is absurd or unknown. Private to this room.
#pragma once

#include <cstdint>
#include <optional>

#include "engine/config/config_reader_internal.h"
#include "engine/config/model_config.h"

namespace shoal {

// No model comes near these; beyond them a number is a mistake, and products would overflow.
inline constexpr int64_t kMaxWidth = 1 << 18;
inline constexpr int64_t kMaxLayers = 1 << 10;
inline constexpr int64_t kMaxHeads = 1 << 12;
inline constexpr int64_t kMaxExperts = 1 << 13;
inline constexpr int64_t kMaxVocabulary = 1 << 24;
inline constexpr int64_t kMaxPositions = int64_t{1} << 30;

// `rope_theta` and `rope_scaling`, or transformers 5's `rope_parameters`.
RopeConfig ParseRope(ConfigReader& reader, int rope_dim);
// Multi-head latent attention, with its rope.
MlaConfig ParseMla(ConfigReader& reader);
// Router of a mixture layer; scoring and selection default to those of `generation`.
RouterConfig ParseRouter(ConfigReader& reader, Generation generation);
// `quantization_config`, if there is one.
std::optional<WeightQuantConfig> ParseQuantisation(ConfigReader& reader);

}  // namespace shoal
