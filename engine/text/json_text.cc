// SPDX-License-Identifier: Apache-2.0
#include <charconv>
#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/text/json_text_internal.h"

namespace shoal {

namespace {

using Json = nlohmann::ordered_json;

// Receives the parser's events and builds the value; returning false stops the parser.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Json& root() { return root_; }
  const std::string& error() const { return error_; }

  bool null() override { return Add(nullptr); }
  bool boolean(bool value) override { return Add(value); }
  bool number_integer(int64_t value) override { return Add(value); }
  bool number_unsigned(uint64_t value) override { return Add(value); }
  bool number_float(double value, const std::string& digits) override {
    if (digits.find_first_of(".eE") != std::string::npos) return Add(value);
    return Add(Json::binary({digits.begin(), digits.end()}));
  }
  bool string(std::string& value) override { return Add(std::move(value)); }
  bool binary(Json::binary_t&) override { return false; }  // not in JSON text
  bool start_object(std::size_t) override { return Open(Json::object()); }
  bool start_array(std::size_t) override { return Open(Json::array()); }
  bool end_object() override { return Close(); }
  bool end_array() override { return Close(); }
  bool key(std::string& name) override {
    // The library's own lookup walks all members: a hostile body of many keys would take quadratic
    // time.
    Frame& frame = open_.back();
    auto& members = frame.container->get_ref<Json::object_t&>();
    const auto [place, is_new] = frame.places.try_emplace(name, members.size());
    if (is_new) members.emplace_back(name, nullptr);
    member_ = &members.begin()[place->second].second;
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const Json::exception& error) override {
    // "[json.exception.parse_error.101] parse error at line 1, ...": the part for people.
    const absl::string_view what = error.what();
    const size_t bracket = what.find("] ");
    error_ = std::string(bracket == what.npos ? what : what.substr(bracket + 2));
    return false;
  }

 private:
  struct Frame {
    Json* container;
    absl::flat_hash_map<std::string, size_t> places;  // of an object: key, index of its member
  };

  // Where the next value goes. Pointers stay valid: a container only grows while it is the
  // innermost one.
  Json& Slot() {
    if (open_.empty()) return root_;
    Json& container = *open_.back().container;
    return container.is_object() ? *member_ : container.emplace_back();
  }
  bool Add(Json value) {
    Slot() = std::move(value);
    return true;
  }
  bool Open(Json container) {
    if (open_.size() == kMaxJsonDepth) {
      error_ = absl::StrCat("nested deeper than ", kMaxJsonDepth, " levels");
      return false;
    }
    Json& slot = Slot();
    slot = std::move(container);
    open_.push_back({&slot, {}});
    return true;
  }
  bool Close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Frame> open_;  // the containers around the next value, outermost first
  Json* member_ = nullptr;   // the member whose key came last
  std::string error_;
};

void AppendString(const std::string& text, std::string& out) {
  out.push_back('"');
  for (const char c : text) {
    switch (c) {
      case '"':
        absl::StrAppend(&out, "\\\"");
        break;
      case '\\':
        absl::StrAppend(&out, "\\\\");
        break;
      case '\n':
        absl::StrAppend(&out, "\\n");
        break;
      case '\r':
        absl::StrAppend(&out, "\\r");
        break;
      case '\t':
        absl::StrAppend(&out, "\\t");
        break;
      case '\f':
        absl::StrAppend(&out, "\\f");
        break;
      case '\b':
        absl::StrAppend(&out, "\\b");
        break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          absl::StrAppendFormat(&out, "\\u%04x", c);
        } else {
          out.push_back(c);
        }
    }
  }
  out.push_back('"');
}

// Python's repr of a finite float: the shortest digits that read back equal, with an exponent below
// 1e-4 and from 1e16.
void AppendFloat(double value, std::string& out) {
  char buffer[32];
  const auto scientific =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string digits(buffer, scientific.ptr);
  const int exponent = std::stoi(digits.substr(digits.find('e') + 1));
  if (exponent < -4 || exponent >= 16) {
    absl::StrAppend(&out,
                    digits);  // to_chars, too, writes at least two exponent digits and its sign
    return;
  }
  char fixed[512];
  const auto end = std::to_chars(fixed, fixed + sizeof(fixed), value, std::chars_format::fixed);
  const std::string text(fixed, end.ptr);
  absl::StrAppend(&out, text, text.find('.') == std::string::npos ? ".0" : "");
}

void Append(const Json& value, std::string& out) {
  bool first = true;
  const auto separate = [&] {
    if (!first) absl::StrAppend(&out, ", ");
    first = false;
  };
  switch (value.type()) {
    case Json::value_t::object:
      out.push_back('{');
      for (const auto& [key, member] : value.items()) {
        separate();
        AppendString(key, out);
        absl::StrAppend(&out, ": ");
        Append(member, out);
      }
      out.push_back('}');
      return;
    case Json::value_t::array:
      out.push_back('[');
      for (const Json& element : value) {
        separate();
        Append(element, out);
      }
      out.push_back(']');
      return;
    case Json::value_t::string:
      AppendString(value.get_ref<const std::string&>(), out);
      return;
    case Json::value_t::number_float:
      AppendFloat(value.get<double>(), out);
      return;
    case Json::value_t::binary:  // an integer beyond 64 bits
      out.append(value.get_binary().begin(), value.get_binary().end());
      return;
    default:  // null, booleans, integers
      absl::StrAppend(&out, value.dump());
  }
}

}  // namespace

absl::StatusOr<Json> ParseJsonText(absl::string_view text) {
  Builder builder;
  if (!Json::sax_parse(text.begin(), text.end(), &builder)) {
    return absl::InvalidArgumentError(absl::StrCat("not valid JSON: ", builder.error()));
  }
  return std::move(builder.root());
}

std::string ToPythonJson(const Json& value) {
  std::string out;
  Append(value, out);
  return out;
}

}  // namespace shoal
