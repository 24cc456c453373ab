// SPDX-License-Identifier: Apache-2.0
// See json_fields_internal.h.
#include <algorithm>
#include <functional>
#include <limits>
#include <set>

#include "absl/strings/str_cat.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/json_fields_internal.h"

namespace shoal {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 100;

// The library's own functions recurse over nested values, so depth is bounded before it sees them.
bool TooDeep(absl::string_view text) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') {
        ++i;
      } else if (c == '"') {
        in_string = false;
      }
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > kMaxDepth) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// A client's name for a field, short enough for an error.
std::string CutField(const std::string& name) {
  return name.size() > 60 ? name.substr(0, 60) + "..." : name;
}

bool IsInteger(const json& value, int64_t low, int64_t high, int64_t& out) {
  if (!value.is_number_integer()) return false;
  if (value.is_number_unsigned() &&
      value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return false;
  }
  out = value.get<int64_t>();
  return out >= low && out <= high;
}

// Sees the parser's keys as they come. Which of two equal ones counts differs from reader to
// reader, so neither does.
class DuplicateKeys {
 public:
  bool operator()(int, json::parse_event_t event, const json& parsed) {
    if (event == json::parse_event_t::object_start) {
      seen_.emplace_back();
    } else if (event == json::parse_event_t::object_end) {
      seen_.pop_back();
    } else if (event == json::parse_event_t::key && !found_) {
      const std::string& key = parsed.get_ref<const std::string&>();
      if (!seen_.back().insert(key).second) found_ = key;
    }
    return true;
  }
  const std::optional<std::string>& found() const { return found_; }

 private:
  std::vector<std::set<std::string>> seen_;  // keys of the objects that are open
  std::optional<std::string> found_;
};

}  // namespace

absl::StatusOr<json> ParseJsonObject(absl::string_view body) {
  if (body.empty()) {
    return absl::InvalidArgumentError("the body is empty; want a JSON object");
  }
  if (TooDeep(body)) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body is JSON nested deeper than ", kMaxDepth, " levels"));
  }
  json value;
  DuplicateKeys keys;
  try {
    value = json::parse(body.begin(), body.end(), std::ref(keys));
  } catch (const json::exception& e) {
    absl::string_view what = e.what();
    what.remove_prefix(std::min(what.size(), what.find("] ") + 2));  // "[json.exception...] "
    return absl::InvalidArgumentError(absl::StrCat("the body is not valid JSON: ", what));
  }
  if (!value.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body must be a JSON object, found ", value.type_name()));
  }
  if (keys.found()) {
    const std::string key = CutField(*keys.found());
    return FieldError(key, "this key is given twice", "duplicate_key");
  }
  return value;
}

std::string Shown(const json& value) {
  if (value.is_object() || value.is_array()) {
    return absl::StrCat("an ", value.type_name(), " of ", value.size());
  }
  std::string text =
      value.dump(-1, ' ', true, json::error_handler_t::replace);  // ASCII: safe to cut
  if (text.size() > 60) text = text.substr(0, 60) + "...";
  return text;
}

const json* JsonFields::Find(absl::string_view name) {
  known_.insert(std::string(name));
  if (!status_.ok()) return nullptr;
  const auto found = object_.find(std::string(name));
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

void JsonFields::Bool(absl::string_view name, bool& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_boolean()) {
    return Fail(FieldError(name, absl::StrCat("want true or false, found ", Shown(*value))));
  }
  out = value->get<bool>();
}

void JsonFields::Int(absl::string_view name, int64_t low, int64_t high,
                     std::optional<int64_t>& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  int64_t number = 0;
  if (!IsInteger(*value, low, high, number)) {
    return Fail(FieldError(
        name, absl::StrCat("want an integer from ", low, " to ", high, ", found ", Shown(*value))));
  }
  out = number;
}

void JsonFields::Int(absl::string_view name, int64_t low, int64_t high, int64_t& out) {
  std::optional<int64_t> number;
  Int(name, low, high, number);
  out = number.value_or(out);
}

void JsonFields::Int(absl::string_view name, int64_t low, int64_t high, int32_t& out) {
  std::optional<int64_t> number;
  Int(name, std::max<int64_t>(low, std::numeric_limits<int32_t>::min()),
      std::min<int64_t>(high, std::numeric_limits<int32_t>::max()), number);
  out = static_cast<int32_t>(number.value_or(out));
}

void JsonFields::Number(absl::string_view name, double low, double high, float& out, bool open) {
  const json* value = Find(name);
  if (value == nullptr) return;
  const double number = value->is_number() ? value->get<double>() : low - 1;
  // The negated comparison also refuses NaN.
  if (!(open ? number > low : number >= low) || !(number <= high)) {
    return Fail(
        FieldError(name, absl::StrCat("want a number ", open ? "above " : "from ", low,
                                      open ? " up to " : " to ", high, ", found ", Shown(*value))));
  }
  out = static_cast<float>(number);
}

void JsonFields::String(absl::string_view name, size_t max_bytes, std::string& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_string() || value->get_ref<const std::string&>().size() > max_bytes) {
    return Fail(FieldError(name, absl::StrCat("want a string of at most ", max_bytes,
                                              " bytes, found ", Shown(*value))));
  }
  out = value->get<std::string>();
}

void JsonFields::Ints(absl::string_view name, int64_t low, int64_t high, size_t max_count,
                      std::vector<int32_t>& out) {
  const json* value = Find(name);
  if (value == nullptr) return;
  if (!value->is_array() || value->size() > max_count) {
    return Fail(FieldError(name, absl::StrCat("want a list of at most ", max_count,
                                              " integers, found ", Shown(*value))));
  }
  std::vector<int32_t> numbers;
  for (size_t i = 0; i < value->size(); ++i) {
    int64_t number = 0;
    if (!IsInteger((*value)[i], low, high, number)) {
      return Fail(FieldError(absl::StrCat(name, "[", i, "]"),
                             absl::StrCat("want an integer from ", low, " to ", high, ", found ",
                                          Shown((*value)[i]))));
    }
    numbers.push_back(static_cast<int32_t>(number));
  }
  out = std::move(numbers);
}

void JsonFields::Only(absl::string_view name, const std::vector<json>& allowed,
                      absl::string_view why) {
  const json* value = Find(name);
  if (value == nullptr || *value == json(false)) return;
  for (const json& good : allowed) {
    if (*value == good) return;
  }
  Fail(FieldError(name, absl::StrCat(why, ", found ", Shown(*value)), "unsupported_value"));
}

absl::Status JsonFields::Finish() const {
  if (!status_.ok()) return status_;
  for (const auto& [name, value] : object_.items()) {
    if (known_.find(name) == known_.end()) {
      return FieldError(CutField(name), "unknown field", "unknown_field");
    }
  }
  return absl::OkStatus();
}

}  // namespace shoal
