// SPDX-License-Identifier: Apache-2.0
// Shows that `shoal bench`, the program itself, measures the bundled model and says of itself when
// its percentages mean nothing, in both forms of its output. SHOAL_COMMAND is the program.
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace {

std::string Bench(const std::string& flags) {
  const std::string command =
      absl::StrCat("'" SHOAL_COMMAND "' bench --model '", SHOAL_SOURCE_DIR,
                   "/deploy/models/shoal-tiny' --prompt 32 --decode 8 --repeat 1 ", flags);
  std::string output;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return output;
  char buffer[4096];
  while (const size_t size = fread(buffer, 1, sizeof(buffer), pipe)) output.append(buffer, size);
  EXPECT_EQ(pclose(pipe), 0);
  return output;
}

TEST(BenchCommand, SaysWhenItsLimitsMeanNothing) {
  const auto result = nlohmann::json::parse(Bench("--json"), nullptr, false);
  ASSERT_TRUE(result.is_object());
  EXPECT_GT(result["prefill_tokens_per_s"], 0);
  EXPECT_GT(result["decode_tokens_per_s"], 0);
  ASSERT_TRUE(result.contains("limits_unreliable"));
  EXPECT_EQ(result["limits_unreliable"].get<bool>(),
            result["percent_of_peak"] > 100 || result["percent_of_bandwidth"] > 100);

  const std::string text = Bench("");
  const bool noted = text.find("note: above 100 % of a limit") != std::string::npos;
  EXPECT_EQ(noted, text.find("limits_unreliable                true") != std::string::npos) << text;
  EXPECT_THAT(text, ::testing::HasSubstr("limits_unreliable"));
}

}  // namespace
