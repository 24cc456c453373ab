// SPDX-License-Identifier: Apache-2.0
// What a checkpoint's `generation_config.json` says about sampling: the values a request gets when
// it names none.
#pragma once

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

struct SamplingDefaults {
  float temperature = 1.0f;
  float top_p = 1.0f;
  int top_k = 0;  // 0 is off
  float min_p = 0.0f;
  float repetition_penalty = 1.0f;
};

// Reads temperature, top_p, top_k, min_p and repetition_penalty; `do_sample: false` means
// temperature 0. An empty text gives the defaults above. Errors: InvalidArgument for text that is
// no JSON object or a value outside its range, naming the key, what was wanted and what was found.
absl::StatusOr<SamplingDefaults> ParseSamplingDefaults(absl::string_view generation_config_json);

}  // namespace shoal
