// SPDX-License-Identifier: Apache-2.0
// Shows that `shoal tokenize` gives people what the library computes: the fixtures of the bundled
// tokenizer go through the real program as JSON lines, in one run each, and a line that fails does
// not hurt its neighbours. SHOAL_COMMAND is the path of the program under test.
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <filesystem>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "tests/golden/text_fixtures.h"

namespace shoal {
namespace {

using nlohmann::ordered_json;

struct Outcome {
  int exit_code = -1;
  std::vector<ordered_json> lines;
};

// Runs `shoal tokenize tiny-tokenizer FLAGS` with `lines` as its input.
Outcome RunTokenize(const std::string& flags, const std::vector<std::string>& lines) {
  const std::string input = absl::StrCat(
      testing::TempDir(), "/", testing::UnitTest::GetInstance()->current_test_info()->name());
  std::ofstream file(input);
  for (const std::string& line : lines) file << line << "\n";
  file.close();
  const std::string command =
      absl::StrCat("'" SHOAL_COMMAND "' tokenize '", *golden::TokenizerDirectory("tiny"), "' ",
                   flags, " < '", input, "' 2> /dev/null");
  Outcome outcome;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return outcome;
  std::string output;
  char buffer[4096];
  while (const size_t size = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, size);
  outcome.exit_code = WEXITSTATUS(pclose(pipe));
  std::istringstream stream(output);
  for (std::string line; std::getline(stream, line);) {
    outcome.lines.push_back(ordered_json::parse(line));
  }
  std::filesystem::remove(input);
  return outcome;
}

TEST(TokenizeCommand, TextAndIdsBothWays) {
  const std::vector<ordered_json> rows = golden::ReadFixture("tokenizer-tiny");
  std::vector<std::string> input;
  for (const ordered_json& row : rows) {
    input.push_back(ordered_json{{"text", row.at("text")}}.dump());
    input.push_back(ordered_json{{"text", row.at("text")}, {"plain", true}}.dump());
    input.push_back(ordered_json{{"ids", row.at("ids")}}.dump());
    input.push_back(ordered_json{{"ids", row.at("ids")}, {"skip_special", true}}.dump());
  }
  const Outcome outcome = RunTokenize("", input);
  EXPECT_EQ(outcome.exit_code, 0);
  ASSERT_EQ(outcome.lines.size(), input.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    const ordered_json& row = rows[i];
    EXPECT_EQ(outcome.lines[4 * i].at("ids"), row.at("ids")) << row;
    EXPECT_EQ(outcome.lines[4 * i + 1].at("ids"),
              row.contains("ids_plain") ? row["ids_plain"] : row["ids"])
        << row;
    EXPECT_EQ(outcome.lines[4 * i + 2].at("text"), row.at("decoded")) << row;
    EXPECT_EQ(outcome.lines[4 * i + 3].at("text"),
              row.contains("decoded_skip_special") ? row["decoded_skip_special"] : row["decoded"])
        << row;
  }
}

TEST(TokenizeCommand, ChatBodies) {
  for (const char* flags : {"--chat", "--chat --chat-format v3"}) {
    const std::vector<ordered_json> rows = golden::ReadFixture("chat-tiny");
    std::vector<std::string> input;
    for (const ordered_json& row : rows) input.push_back(row.at("request").dump());
    const Outcome outcome = RunTokenize(flags, input);
    EXPECT_EQ(outcome.exit_code, 0);
    ASSERT_EQ(outcome.lines.size(), rows.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      EXPECT_EQ(outcome.lines[i].at("prompt"), rows[i].at("prompt"));
      // Literals of special tokens in a message stay text; the fixture's ids match them.
      const std::string request = rows[i].at("request").dump();
      const bool has_literals =
          absl::StrContains(request, "<think>") || absl::StrContains(request, "</think>");
      EXPECT_EQ(outcome.lines[i].at("ids") == rows[i].at("ids"), !has_literals) << rows[i];
    }
  }
}

TEST(TokenizeCommand, ABadLineSaysWhyAndTheOthersGoOn) {
  const Outcome outcome = RunTokenize(
      "", {"{\"text\": \"my lord\"}", "not json", "{\"ids\": [2048]}", "{\"text\": \"\xFF\"}", "{}",
           "{\"text\": 1}", "{\"text\": \"a\", \"plain\": 1}", "", "{\"text\": \"my lord\"}"});
  EXPECT_EQ(outcome.exit_code, 1);
  ASSERT_EQ(outcome.lines.size(), 8u);  // an empty line is none
  EXPECT_EQ(outcome.lines.front(), outcome.lines.back());
  EXPECT_TRUE(outcome.lines.front().contains("ids"));
  const char* const parts[] = {
      "line 2: not valid JSON", "line 3: ids[0]: wanted an integer from 0 to 2047, found 2048",
      "line 4: not valid JSON", "line 5: wanted an object",
      "line 6: text",           "line 7: plain"};
  for (size_t i = 0; i < std::size(parts); ++i) {
    const std::string error = outcome.lines[i + 1].at("error");
    EXPECT_TRUE(absl::StrContains(error, parts[i])) << error;
  }
}

TEST(TokenizeCommand, WrongUsageIsTwo) {
  EXPECT_EQ(RunTokenize("--chat --chat-format v9", {}).exit_code, 2);
  EXPECT_EQ(RunTokenize("--nonsense", {}).exit_code, 2);
}

}  // namespace
}  // namespace shoal
