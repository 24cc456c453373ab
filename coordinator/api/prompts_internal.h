// SPDX-License-Identifier: Apache-2.0
// What a request says to the model: text, ids or a conversation become prompts that fit the
// context.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "coordinator/api/json_fields_internal.h"
#include "coordinator/api/openai_request.h"

namespace shoal {

// Reads `model`: NotFound for a name that is not ours.
absl::Status CheckModelName(JsonFields& fields, const ApiOptions& options);

// `text` with the begin of sentence in front if `add_bos` and it is not there. `plain`: no added
// tokens are matched.
absl::StatusOr<ApiPrompt> TextPrompt(const std::string& text, bool add_bos, bool plain,
                                     const ApiModel& model);

// Reads `prompt` into request.prompts: a string, a list of ids, or a list of either.
absl::Status ParsePrompts(JsonFields& fields, const ApiModel& model, ApiRequest& request);

// Notes the fields that ChatPrompt reads from the body. Fails for a message with a field that
// nobody knows, or with one whose content no template can show: ChatPrompt would skip both.
void NoteChatFields(JsonFields& fields);
// Renders and tokenises a chat body. Sets the request's reasoning fields too.
absl::StatusOr<ApiPrompt> ChatPrompt(absl::string_view body, const ApiModel& model,
                                     ApiRequest& request);

// Gives each prompt its max_tokens: what the client asked for, else `fallback` or what is left of
// the context, whichever is less. InvalidArgument with the numbers when it does not fit.
absl::Status FitContext(absl::string_view param, const ApiModel& model,
                        std::optional<int64_t> max_tokens, int64_t fallback, ApiRequest& request);

}  // namespace shoal
