// SPDX-License-Identifier: Apache-2.0
// Names of chat formats, and which one a checkpoint directory speaks.
#include <array>
#include <nlohmann/json.hpp>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/text/chat_template.h"
#include "engine/text/json_file_internal.h"

namespace shoal {

namespace {

struct FormatName {
  ChatFormat format;
  absl::string_view name;
};
constexpr std::array<FormatName, 5> kNames = {{{ChatFormat::kV2, "v2"},
                                               {ChatFormat::kV3, "v3"},
                                               {ChatFormat::kR1, "r1"},
                                               {ChatFormat::kR1_0528, "r1-0528"},
                                               {ChatFormat::kV31, "v3.1"}}};

constexpr absl::string_view kSayWhich = "say which with --chat-format v2|v3|r1|r1-0528|v3.1";

// The template's text out of tokenizer_config.json's `chat_template`; nullptr if there is none.
const std::string* TemplateText(const nlohmann::ordered_json& value) {
  if (value.is_string()) return value.get_ptr<const std::string*>();
  if (!value.is_array()) return nullptr;
  for (const nlohmann::ordered_json& entry : value) {
    if (!entry.is_object()) continue;
    const auto name = entry.find("name");
    const auto text = entry.find("template");
    if (name != entry.end() && *name == "default" && text != entry.end() && text->is_string()) {
      return text->get_ptr<const std::string*>();
    }
  }
  return nullptr;
}

absl::StatusOr<std::string> ReadTemplate(const std::string& directory) {
  absl::StatusOr<std::string> jinja =
      ReadWholeFile(absl::StrCat(directory, "/chat_template.jinja"));
  if (!absl::IsNotFound(jinja.status())) return jinja;
  const std::string path = absl::StrCat(directory, "/tokenizer_config.json");
  SHOAL_ASSIGN_OR_RETURN(const nlohmann::ordered_json config, ReadJsonObject(path));
  const auto value = config.find("chat_template");
  const std::string* text = value == config.end() ? nullptr : TemplateText(*value);
  if (text == nullptr) {
    return absl::NotFoundError(absl::StrCat(path, " has no chat_template: ", kSayWhich));
  }
  return *text;
}

}  // namespace

absl::string_view ChatFormatName(ChatFormat format) {
  for (const FormatName& entry : kNames) {
    if (entry.format == format) return entry.name;
  }
  SHOAL_CHECK(false);
  return "";
}

absl::StatusOr<ChatFormat> ParseChatFormat(absl::string_view name) {
  for (const FormatName& entry : kNames) {
    if (entry.name == name) return entry.format;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("chat format \"", name, "\": wanted v2, v3, r1, r1-0528 or v3.1"));
}

bool ChatFormatReasons(ChatFormat format) {
  return format == ChatFormat::kR1 || format == ChatFormat::kR1_0528 || format == ChatFormat::kV31;
}

absl::StatusOr<ChatFormat> DetectChatFormatOfTemplate(absl::string_view chat_template) {
  if (absl::StrContains(chat_template, "<｜Assistant｜>")) {
    const bool ends_thoughts = absl::StrContains(chat_template, "</think>");
    if (ends_thoughts && absl::StrContains(chat_template, "thinking")) return ChatFormat::kV31;
    if (absl::StrContains(chat_template, "<｜Assistant｜><think>")) return ChatFormat::kR1;
    return ends_thoughts ? ChatFormat::kR1_0528 : ChatFormat::kV3;
  }
  if (absl::StrContains(chat_template, "User: ") &&
      absl::StrContains(chat_template, "Assistant:")) {
    return ChatFormat::kV2;
  }
  return absl::UnimplementedError(
      absl::StrCat("the chat template is none that Shoal knows: ", kSayWhich));
}

absl::StatusOr<ChatFormat> DetectChatFormat(const std::string& directory) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadTemplate(directory));
  absl::StatusOr<ChatFormat> format = DetectChatFormatOfTemplate(text);
  if (!format.ok()) {
    return absl::Status(format.status().code(),
                        absl::StrCat(directory, ": ", format.status().message()));
  }
  return format;
}

}  // namespace shoal
