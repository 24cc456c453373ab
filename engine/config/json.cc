// SPDX-License-Identifier: Apache-2.0
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/config/json_internal.h"

namespace shoal {

absl::StatusOr<nlohmann::json> ParseJson(absl::string_view text) {
  constexpr int kMaxDepth = 32;
  using Event = nlohmann::json::parse_event_t;
  std::vector<std::set<std::string>> names;  // of the objects that are open
  bool too_deep = false;
  std::string repeated;
  const auto callback = [&](int depth, Event event, nlohmann::json& parsed) {
    if (depth > kMaxDepth) too_deep = true;
    if (too_deep) return false;
    if (event == Event::object_start) names.emplace_back();
    if (event == Event::object_end) names.pop_back();
    if (event == Event::key && !names.back().insert(parsed.get<std::string>()).second) {
      repeated = parsed.get<std::string>();
    }
    return true;
  };
  nlohmann::json json = nlohmann::json::parse(text.begin(), text.end(), callback, false);
  if (too_deep) return absl::InvalidArgumentError("JSON nested too deep");
  if (json.is_discarded()) return absl::InvalidArgumentError("not valid JSON");
  if (!repeated.empty()) return absl::InvalidArgumentError(absl::StrCat(repeated, " occurs twice"));
  return json;
}

}  // namespace shoal
