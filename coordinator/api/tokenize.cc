// SPDX-License-Identifier: Apache-2.0
// See tokenize.h.
#include "coordinator/api/tokenize.h"

#include <cstdint>
#include <nlohmann/json.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/json_fields_internal.h"
#include "coordinator/api/prompts_internal.h"
#include "engine/base/status_macros.h"

namespace shoal {

using nlohmann::json;

absl::StatusOr<std::string> Tokenize(absl::string_view body, const ApiModel& model) {
  SHOAL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  JsonFields fields(object);
  SHOAL_RETURN_IF_ERROR(CheckModelName(fields, model.options));
  bool add_bos = model.options.prepend_bos;
  bool plain = false;
  fields.Bool("add_special_tokens", add_bos);
  fields.Bool("plain", plain);
  const json* text = fields.Find("prompt");
  NoteChatFields(fields);
  SHOAL_RETURN_IF_ERROR(fields.Finish());
  ApiPrompt prompt;
  if (text == nullptr) {
    if (!object.contains("messages")) {
      return FieldError("prompt", "missing; want a string, or messages as in a chat request");
    }
    ApiRequest unused;
    SHOAL_ASSIGN_OR_RETURN(prompt, ChatPrompt(body, model, unused));
  } else if (text->is_string()) {
    SHOAL_ASSIGN_OR_RETURN(prompt,
                           TextPrompt(text->get_ref<const std::string&>(), add_bos, plain, model));
  } else {
    return FieldError("prompt", absl::StrCat("want a string, found ", Shown(*text)));
  }
  nlohmann::ordered_json answer;
  answer["count"] = prompt.ids.size();
  answer["max_model_len"] = model.max_context;
  answer["tokens"] = prompt.ids;
  return answer.dump();
}

absl::StatusOr<std::string> Detokenize(absl::string_view body, const ApiModel& model) {
  SHOAL_ASSIGN_OR_RETURN(const json object, ParseJsonObject(body));
  JsonFields fields(object);
  SHOAL_RETURN_IF_ERROR(CheckModelName(fields, model.options));
  bool leave_bos_out = model.options.prepend_bos;
  std::vector<int32_t> ids;
  fields.Bool("add_special_tokens", leave_bos_out);
  fields.Ints("tokens", 0, model.options.model.vocab_size - 1, model.options.limits.max_body_bytes,
              ids);
  SHOAL_RETURN_IF_ERROR(fields.Finish());
  if (!object.contains("tokens")) return FieldError("tokens", "missing; want a list of token ids");
  absl::Span<const int32_t> rest = ids;
  if (leave_bos_out && !rest.empty() && rest[0] == model.bos_id) rest.remove_prefix(1);
  nlohmann::ordered_json answer;
  answer["prompt"] = model.tokenizer.Decode(rest, /*skip_special=*/false);
  return answer.dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace shoal
