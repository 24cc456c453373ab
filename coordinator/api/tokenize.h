// SPDX-License-Identifier: Apache-2.0
// Text to tokens and back, for clients who count or compare.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/api/openai_request.h"

namespace shoal {

// POST /tokenize {"prompt": text, "add_special_tokens": true, "plain": false} or {"messages": ...}
// as in a chat request. Returns {"count", "max_model_len", "tokens"}, as vLLM does.
absl::StatusOr<std::string> Tokenize(absl::string_view body, const ApiModel& model);

// POST /detokenize {"tokens": [ids]}. Returns {"prompt": text}. Undoes /tokenize: a leading begin
// of sentence is left out, unless "add_special_tokens" is false.
absl::StatusOr<std::string> Detokenize(absl::string_view body, const ApiModel& model);

}  // namespace shoal
