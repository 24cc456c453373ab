// SPDX-License-Identifier: Apache-2.0
// `shoal tokenize DIR`: for people who check prompts. One JSON object a line in, one a line out, in
// the same order; a line that fails gives {"error": ...} and the others go on.
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/commands.h"
#include "engine/base/status_macros.h"
#include "engine/text/chat_json.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

using nlohmann::ordered_json;

struct Options {
  std::string directory;
  bool chat = false;
  std::string chat_format;
};

absl::StatusOr<bool> ReadFlag(const ordered_json& line, const char* name) {
  const auto it = line.find(name);
  if (it == line.end()) return false;
  if (!it->is_boolean()) {
    return absl::InvalidArgumentError(absl::StrCat(name, ": wanted true or false"));
  }
  return it->get<bool>();
}

absl::StatusOr<ordered_json> EncodeText(const Tokenizer& tokenizer, const ordered_json& line) {
  const ordered_json& text = line["text"];
  if (!text.is_string()) return absl::InvalidArgumentError("text: wanted a string");
  SHOAL_ASSIGN_OR_RETURN(const bool plain, ReadFlag(line, "plain"));
  return ordered_json{{"ids", tokenizer.Encode(text.get<std::string>(),
                                               plain ? Tokenizer::Matching::kPlain
                                                     : Tokenizer::Matching::kAddedTokens)}};
}

absl::StatusOr<ordered_json> DecodeIds(const Tokenizer& tokenizer, const ordered_json& line) {
  const ordered_json& list = line["ids"];
  if (!list.is_array()) return absl::InvalidArgumentError("ids: wanted an array of token ids");
  SHOAL_ASSIGN_OR_RETURN(const bool skip_special, ReadFlag(line, "skip_special"));
  std::vector<int32_t> ids;
  for (size_t i = 0; i < list.size(); ++i) {
    // Unsigned values above int64 turn negative, and are refused with the others.
    const int64_t id = list[i].is_number_integer() ? list[i].get<int64_t>() : -1;
    if (id < 0 || id >= tokenizer.vocab_size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("ids[", i, "]: wanted an integer from 0 to ", tokenizer.vocab_size() - 1,
                       ", found ", list[i].is_number() ? list[i].dump() : list[i].type_name()));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ordered_json{{"text", tokenizer.Decode(ids, skip_special)}};
}

absl::StatusOr<ordered_json> TranslateText(const Tokenizer& tokenizer, const std::string& text) {
  ordered_json line;
  try {
    line = ordered_json::parse(text);
  } catch (const ordered_json::exception& error) {
    // "[json.exception.parse_error.101] parse error at line 1, ...": the part for people.
    const std::string what = error.what();
    const size_t bracket = what.find("] ");
    return absl::InvalidArgumentError(
        absl::StrCat("not valid JSON: ", bracket == what.npos ? what : what.substr(bracket + 2)));
  }
  if (!line.is_object() || line.contains("text") == line.contains("ids")) {
    return absl::InvalidArgumentError("wanted an object with either \"text\" or \"ids\"");
  }
  return line.contains("text") ? EncodeText(tokenizer, line) : DecodeIds(tokenizer, line);
}

absl::StatusOr<ordered_json> TranslateChat(const Tokenizer& tokenizer, ChatFormat format,
                                           const std::string& body) {
  SHOAL_ASSIGN_OR_RETURN(const ChatRequest request, ParseChatBody(body));
  SHOAL_ASSIGN_OR_RETURN(const RenderedPrompt prompt, RenderChat(format, request));
  SHOAL_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, EncodePrompt(tokenizer, prompt));
  return ordered_json{{"prompt", prompt.text}, {"ids", ids}};
}

absl::Status Run(const Options& options) {
  std::ios::sync_with_stdio(false);
  std::optional<ChatFormat> format;
  if (!options.chat_format.empty()) {
    SHOAL_ASSIGN_OR_RETURN(format, ParseChatFormat(options.chat_format));
  } else if (options.chat) {
    SHOAL_ASSIGN_OR_RETURN(format, DetectChatFormat(options.directory));
  }
  SHOAL_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer,
                         Tokenizer::Load(options.directory));
  int lines = 0;
  int failed = 0;
  for (std::string line; std::getline(std::cin, line);) {
    ++lines;
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const absl::StatusOr<ordered_json> result =
        options.chat ? TranslateChat(*tokenizer, *format, line) : TranslateText(*tokenizer, line);
    ordered_json out;
    if (result.ok()) {
      out = *result;
    } else {
      ++failed;
      out["error"] = absl::StrCat("line ", lines, ": ", result.status().message());
    }
    // Error texts may quote bytes of the input that are not UTF-8.
    std::cout << out.dump(-1, ' ', false, ordered_json::error_handler_t::replace) << std::endl;
  }
  if (!std::cout) return absl::DataLossError("cannot write to standard output");
  if (failed > 0) {
    return absl::InvalidArgumentError(absl::StrCat(failed, " of ", lines, " lines failed"));
  }
  return absl::OkStatus();
}

}  // namespace

void AddTokenizeCommand(CLI::App& app, int& exit_code) {
  const auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "tokenize", "Text to token ids and back, and chats to prompts: JSON lines in and out");
  command->footer(
      "Reads one JSON object a line from standard input and writes one for each:\n"
      "  {\"text\": \"...\"}   -> {\"ids\": [...]}    \"plain\": true matches no added tokens\n"
      "  {\"ids\": [...]}    -> {\"text\": \"...\"}   \"skip_special\": true leaves out bos, eos, "
      "...\n"
      "  --chat: an OpenAI chat body -> {\"prompt\": \"...\", \"ids\": [...]}\n"
      "A line that fails gives {\"error\": \"...\"}; the exit code is then 1.");
  command->add_option("directory", options->directory, "Folder with tokenizer.json")
      ->type_name("DIR")
      ->required();
  CLI::Option* chat = command->add_flag("--chat", options->chat, "Lines are OpenAI chat bodies");
  command
      ->add_option("--chat-format", options->chat_format,
                   "Default: told from the folder's chat template")
      ->check(CLI::IsMember({"v2", "v3", "r1", "r1-0528", "v3.1"}))
      ->needs(chat);
  command->callback([options, &exit_code] { exit_code = ReportStatus("tokenize", Run(*options)); });
}

}  // namespace shoal
