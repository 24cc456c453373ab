// SPDX-License-Identifier: Apache-2.0
// One process, one prompt: the shortest path through the house.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "engine/config/sampling_params.h"

namespace shoal {

struct RunOptions {
  std::string model;  // Hugging Face directory
  std::string prompt;
  int max_tokens = 128;
  bool ignore_eos = false;
  SamplingParams sampling;  // end tokens are filled in from the model
  std::string backend = "cpu";
  int threads = 0;  // 0: as many as the process may use
  bool fp8_activations = false;
  std::function<void(int64_t done, int64_t total)> progress;  // while loading
};

// Continues the prompt and hands the text to `emit` piece by piece, never half a character. Errors:
// those of loading; InvalidArgument for a prompt that leaves no room in the model's context.
absl::Status Run(const RunOptions& options, const std::function<void(absl::string_view)>& emit);

}  // namespace shoal
