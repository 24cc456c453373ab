// SPDX-License-Identifier: Apache-2.0
// See generation_config.h.
#include "coordinator/api/generation_config.h"

#include "absl/strings/str_cat.h"
#include "coordinator/api/json_fields_internal.h"
#include "engine/base/status_macros.h"

namespace shoal {

absl::StatusOr<SamplingDefaults> ParseSamplingDefaults(absl::string_view generation_config_json) {
  SamplingDefaults defaults;
  if (generation_config_json.empty()) return defaults;
  auto object = ParseJsonObject(generation_config_json);
  if (!object.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat("generation_config.json: ", object.status().message()));
  }
  JsonFields fields(*object);
  bool do_sample = true;
  fields.Bool("do_sample", do_sample);
  fields.Number("temperature", 0, 10, defaults.temperature);
  fields.Number("top_p", 0, 1, defaults.top_p, /*open=*/true);
  fields.Int("top_k", 0, 1 << 30, defaults.top_k);
  fields.Number("min_p", 0, 1, defaults.min_p);
  fields.Number("repetition_penalty", 0, 10, defaults.repetition_penalty, /*open=*/true);
  if (const absl::Status status = fields.status(); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("generation_config.json: ", status.message()));
  }
  if (!do_sample) defaults.temperature = 0;
  return defaults;
}

}  // namespace shoal
