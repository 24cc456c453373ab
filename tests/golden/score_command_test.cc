// SPDX-License-Identifier: Apache-2.0
// Shows that `shoal score`, the program itself, writes the golden logits and layer outputs for
// prompts scored as one batch; that the file is the same to the last byte for any workers,
// transport, placement and chunk; and that what it cannot do ends with exit code 1, one line that
// names the thing, and no output file. SHOAL_COMMAND is the program.
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/config/expert_placement.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/golden/golden_file.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

struct Outcome {
  int exit_code = -1;
  std::string error;
};

class ScoreCommand : public ::testing::Test {
 protected:
  ScoreCommand() {
    folder_ =
        absl::StrCat(testing::TempDir(), "/shoal-score-",
                     testing::UnitTest::GetInstance()->current_test_info()->name(), "-", getpid());
    std::filesystem::create_directories(folder_);
  }
  ~ScoreCommand() override { std::filesystem::remove_all(folder_); }

  std::string Path(const std::string& name) const { return absl::StrCat(folder_, "/", name); }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(Path(name)) << text;
  }
  std::string Read(const std::string& name) const {
    std::ifstream in(Path(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  }

  Outcome Score(const std::string& model, const std::string& out, const std::string& flags) {
    const std::string command =
        absl::StrCat("'" SHOAL_COMMAND "' score --model '", ModelsFolder(), model, "' --tokens '",
                     Path("in.json"), "' --out '", Path(out), "' ", flags, " 2>&1");
    Outcome outcome;
    FILE* pipe = popen(command.c_str(), "r");
    if (pipe == nullptr) return outcome;
    char buffer[4096];
    while (const size_t size = fread(buffer, 1, sizeof(buffer), pipe))
      outcome.error.append(buffer, size);
    outcome.exit_code = WEXITSTATUS(pclose(pipe));
    return outcome;
  }

  // in.json with the golden's three prompts.
  void WritePrompts(const GoldenFile& golden) {
    std::vector<std::string> prompts;
    for (const std::string prompt : {"c0", "c1", "c2"}) {
      prompts.push_back(
          absl::StrCat("[", absl::StrJoin(golden.Ints(prompt + ".tokens"), ","), "]"));
    }
    Write("in.json", absl::StrCat("{\"prompts\": [", absl::StrJoin(prompts, ","), "]}"));
  }

  std::string folder_;
};

TEST_F(ScoreCommand, WritesTheGoldenLogitsAndLayers) {
  for (const std::string model : {"v2-lite", "v2", "v3", "v3-fp8", "odd"}) {
    const GoldenFile golden(model);
    WritePrompts(golden);
    const Outcome outcome =
        Score(model, "out.safetensors", "--layers --backend reference --workers 2");
    ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
    const auto file = SafetensorsFile::Open(Path("out.safetensors"));
    ASSERT_TRUE(file.ok()) << file.status();
    const auto expect = [&](const std::string& name, const std::string& key) {
      const auto it = (*file)->tensors().find(name);
      ASSERT_NE(it, (*file)->tensors().end()) << name;
      const auto bytes = (*file)->Data(it->second);
      std::vector<float> values(bytes.size() / sizeof(float));
      std::memcpy(values.data(), bytes.data(), bytes.size());
      const Distance distance = Compare(values, golden.Floats(key));
      EXPECT_LE(distance.max_abs, 2e-4) << model << " " << name;
      EXPECT_LE(distance.relative, 1e-5) << model << " " << name;
    };
    size_t tensors = 0;
    for (int p = 0; p < 3; ++p) {
      expect(absl::StrCat("logits.", p), absl::StrCat("c", p, ".logits"));
      ++tensors;
      for (int i = 0; golden.Has(absl::StrCat("c", p, ".layers.", i, ".output")); ++i) {
        expect(absl::StrCat("layers.", i, ".output.", p),
               absl::StrCat("c", p, ".layers.", i, ".output"));
        ++tensors;
      }
    }
    EXPECT_EQ((*file)->tensors().size(), tensors);
  }
}

TEST_F(ScoreCommand, SameBytesForAnyUnit) {
  const GoldenFile golden("v3-fp8");
  WritePrompts(golden);
  // Experts dealt out in turn to three ranks, the first of each layer everywhere.
  std::vector<std::vector<std::vector<RankId>>> holders(3);
  for (int layer : {1, 2}) {
    for (int e = 0; e < 8; ++e) {
      holders[layer].push_back(e == 0 ? std::vector<RankId>{RankId(0), RankId(1), RankId(2)}
                                      : std::vector<RankId>{RankId(e % 3)});
    }
  }
  Write("placement.json", ExpertPlacement::Create(3, holders)->ToJson());
  for (const std::string flags :
       {"--backend reference", "--backend cpu", "--backend cpu --fp8-activations"}) {
    ASSERT_EQ(Score("v3-fp8", "alone", flags).exit_code, 0);
    const std::string wanted = Read("alone");
    ASSERT_GT(wanted.size(), 100000u);
    for (const std::string& unit :
         {std::string("--chunk 7"), std::string("--workers 2 --transport shm"),
          absl::StrCat("--workers 3 --chunk 1 --placement '", Path("placement.json"), "'"),
          std::string("--workers 4 --transport grpc --chunk 64"),
          std::string("--workers 8 --transport shm")}) {
      const Outcome outcome = Score("v3-fp8", "unit", absl::StrCat(flags, " ", unit));
      ASSERT_EQ(outcome.exit_code, 0) << outcome.error;
      EXPECT_TRUE(Read("unit") == wanted) << flags << " " << unit;
    }
  }
}

TEST_F(ScoreCommand, SaysWhatIsWrong) {
  const GoldenFile golden("v3");
  const auto expect = [&](const std::string& input, const std::string& flags,
                          const std::string& message) {
    Write("in.json", input);
    const Outcome outcome = Score("v3", "none", flags);
    EXPECT_EQ(outcome.exit_code, 1) << message;
    EXPECT_THAT(outcome.error, HasSubstr(message));
    EXPECT_THAT(outcome.error, HasSubstr("shoal score: "));
    EXPECT_FALSE(std::filesystem::exists(Path("none")));
    EXPECT_FALSE(std::filesystem::exists(Path("none.tmp")));
  };
  const std::string good = R"({"prompts": [[1, 2]]})";
  expect("", "", "not valid JSON");
  expect("[[1]]", "", "with at least one prompt");
  expect(R"({"prompts": []})", "", "with at least one prompt");
  expect(R"({"prompts": [[1], []]})", "", "prompt 1: want a list of token ids");
  expect(R"({"prompts": [[1, 384]]})", "", "prompt 0: want token ids 0..383, found 384");
  expect(R"({"prompts": [[1, -1]]})", "", "found -1");
  expect(R"({"prompts": [[1.5]]})", "", "found 1.5");
  expect(R"({"prompts": [["a"]]})", "", "found \"a\"");
  expect(good, "--workers 17", "layer 1 has 16 routed experts: want 1..16 workers, found 17");
  expect(good, "--placement /no/such/file", "/no/such/file");
  expect(good, "--fp8-activations", "want FP8 weights");
  Write("placement.json", R"({"world_size": 1, "layers": [[], [], [], []]})");
  expect(good, absl::StrCat("--placement '", Path("placement.json"), "'"),
         "layer 1: want 16 experts, found 0");
  Write("in.json", good);
  EXPECT_EQ(Score("v3", "none", "--backend abacus").exit_code, 2);
  EXPECT_EQ(Score("v3", "none", "--chunk -1").exit_code, 2);
  EXPECT_THAT(Score("v9", "none", "").error, HasSubstr("v9/config.json"));
}

}  // namespace
}  // namespace shoal
