// SPDX-License-Identifier: Apache-2.0
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/config/config_reader_internal.h"
#include "engine/config/json_internal.h"

namespace shoal {
namespace {

constexpr size_t kLongestFound = 80;

// An integer, also when written as a float without fraction.
bool AsInteger(const nlohmann::json& value, int64_t* out) {
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
    return false;
  }
  if (value.is_number_integer()) {
    *out = value.get<int64_t>();
    return true;
  }
  if (!value.is_number_float()) return false;
  const double number = value.get<double>();
  if (!(std::fabs(number) < 9e15) || number != std::floor(number)) return false;
  *out = static_cast<int64_t>(number);
  return true;
}

}  // namespace

absl::StatusOr<ConfigReader> ConfigReader::Parse(absl::string_view name, absl::string_view text) {
  ConfigReader reader;
  reader.name_ = std::string(name);
  auto json = ParseJson(text);
  if (!json.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": ", json.status().message()));
  }
  reader.object_ = *std::move(json);
  if (!reader.object_.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": want a JSON object, found ", reader.object_.type_name()));
  }
  return reader;
}

bool ConfigReader::Has(const char* key) const {
  const auto it = object_.find(key);
  return it != object_.end() && !it->is_null();
}

const nlohmann::json* ConfigReader::Find(const char* key) {
  read_.insert(key);
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

std::string ConfigReader::Found(const char* key) const {
  const auto it = object_.find(key);
  if (it == object_.end()) return "nothing";
  std::string text = it->dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  if (text.size() > kLongestFound) text = absl::StrCat(text.substr(0, kLongestFound), "...");
  return text;
}

void ConfigReader::Invalid(const std::string& key, const std::string& wanted,
                           const std::string& found) {
  Fail(absl::InvalidArgumentError(
      absl::StrCat(name_, ": ", key, ": want ", wanted, ", found ", found)));
}

void ConfigReader::Unsupported(const std::string& key, const std::string& wanted,
                               const std::string& found) {
  Fail(absl::UnimplementedError(
      absl::StrCat(name_, ": ", key, ": this build knows ", wanted, ", found ", found)));
}

int64_t ConfigReader::Int(const char* key, int64_t low, int64_t high) {
  const nlohmann::json* value = Find(key);
  int64_t number = 0;
  if (value == nullptr || !AsInteger(*value, &number) || number < low || number > high) {
    Invalid(key, absl::StrCat("an integer ", low, "..", high), Found(key));
    return low;
  }
  return number;
}

int64_t ConfigReader::IntOr(const char* key, int64_t fallback, int64_t low, int64_t high) {
  return Find(key) == nullptr ? fallback : Int(key, low, high);
}

double ConfigReader::Number(const char* key, double low, double high) {
  const nlohmann::json* value = Find(key);
  const double number = value != nullptr && value->is_number() ? value->get<double>() : NAN;
  if (!(number >= low && number <= high)) {
    Invalid(key, absl::StrCat("a number ", low, "..", high), Found(key));
    return low;
  }
  return number;
}

double ConfigReader::NumberOr(const char* key, double fallback, double low, double high) {
  return Find(key) == nullptr ? fallback : Number(key, low, high);
}

bool ConfigReader::BoolOr(const char* key, bool fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) {
    Invalid(key, "true or false", Found(key));
    return fallback;
  }
  return value->get<bool>();
}

std::string ConfigReader::StringOr(const char* key, absl::string_view fallback) {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::string(fallback);
  if (!value->is_string()) {
    Invalid(key, "a string", Found(key));
    return std::string(fallback);
  }
  return value->get<std::string>();
}

std::vector<std::string> ConfigReader::Strings(const char* key) {
  std::vector<std::string> strings;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return strings;
  bool good = value->is_array();
  for (size_t i = 0; good && i < value->size(); ++i) {
    good = (*value)[i].is_string();
    if (good) strings.push_back((*value)[i].get<std::string>());
  }
  if (!good) Invalid(key, "a list of strings", Found(key));
  return strings;
}

std::vector<int64_t> ConfigReader::IntOrInts(const char* key, int64_t low, int64_t high) {
  std::vector<int64_t> numbers;
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return numbers;
  const nlohmann::json list = value->is_array() ? *value : nlohmann::json::array({*value});
  for (const nlohmann::json& item : list) {
    int64_t number = 0;
    if (!AsInteger(item, &number) || number < low || number > high) {
      Invalid(key, absl::StrCat("integers ", low, "..", high), Found(key));
      return {};
    }
    numbers.push_back(number);
  }
  return numbers;
}

ConfigReader ConfigReader::Object(const char* key) {
  ConfigReader child;
  child.name_ = absl::StrCat(name_, ": ", key);
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return child;
  if (!value->is_object()) {
    Invalid(key, "an object", Found(key));
    return child;
  }
  child.object_ = *value;
  return child;
}

void ConfigReader::Ignore(std::initializer_list<const char*> keys) {
  for (const char* key : keys) read_.insert(key);
}

void ConfigReader::Adopt(const ConfigReader& child) { Fail(child.Finish()); }

absl::Status ConfigReader::Finish() const {
  if (!status_.ok()) return status_;
  for (const auto& [key, value] : object_.items()) {
    if (read_.count(key) != 0 || value.is_null() || key.starts_with('_')) continue;
    return absl::UnimplementedError(
        absl::StrCat(name_, ": unknown key ", key, ": ", Found(key.c_str()),
                     "; it may change the mathematics, so it is not guessed at"));
  }
  return absl::OkStatus();
}

}  // namespace shoal
