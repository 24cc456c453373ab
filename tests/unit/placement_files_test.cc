// SPDX-License-Identifier: Apache-2.0
// Shows which units can be started: that what --workers, --holders and --redundant-experts ask for
// is planned, or refused with what was wanted, and that --expert-load says which experts are
// copied. The model is a list of layers; none is opened.
#include "deploy/shoal/placement_files.h"

#include <fstream>
#include <string>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// A dense layer, then two with 16 experts in 4 groups.
ModelConfig ThreeLayers() {
  ModelConfig model;
  model.layers.resize(3);
  for (int layer : {1, 2}) {
    MoeConfig moe;
    moe.router.n_routed_experts = 16;
    moe.router.n_group = 4;
    model.layers[layer].ffn = moe;
  }
  return model;
}

ShoalConfig Unit(int workers, int holders, int redundant_experts) {
  ShoalConfig config;
  config.workers = workers;
  config.holders = holders;
  config.redundant_experts = redundant_experts;
  return config;
}

std::string Said(const ShoalConfig& config) {
  return OpenPlacement(config, ThreeLayers(), {}).status().ToString();
}

// What --expert-load says of a file with this text.
absl::StatusOr<ExpertLoad> Read(const std::string& text) {
  ShoalConfig config;
  config.expert_load = ::testing::TempDir() + "/load.json";
  std::ofstream(config.expert_load) << text;
  return OpenExpertLoad(config, ThreeLayers());
}

// Sixteen experts, of which `hot` gets 100 tokens and the others one.
std::string Row(int hot) {
  std::string row;
  for (int e = 0; e < 16; ++e) absl::StrAppend(&row, e == 0 ? "[" : ", ", e == hot ? "100" : "1");
  return row + "]";
}

TEST(PlacementFiles, PlannedUnitsMayHaveMoreWorkersThanExperts) {
  for (const auto& [workers, holders, redundant] :
       {std::tuple(16, 1, 0), {20, 2, 0}, {32, 2, 0}, {20, 1, 4}, {37, 2, 5}, {40, 2, 0}}) {
    SCOPED_TRACE(testing::Message() << workers << " workers, " << holders << " holders");
    const auto placement = OpenPlacement(Unit(workers, holders, redundant), ThreeLayers(), {});
    ASSERT_TRUE(placement.ok()) << placement.status();
    EXPECT_EQ(placement->world_size(), workers);
    const size_t all = 16 * holders + redundant;
    for (int layer : {1, 2}) {
      size_t copies = 0;
      for (int rank = 0; rank < workers; ++rank) {
        const size_t held = placement->HeldBy(layer, RankId(rank)).size();
        EXPECT_GE(held, all / workers) << "rank " << rank;  // with too few copies, none
        copies += held;
      }
      EXPECT_EQ(copies, all);
    }
  }
  EXPECT_THAT(Said(Unit(17, 1, 0)), HasSubstr("--workers 17: layer 1 has 16 routed experts: want "
                                              "1..16 workers, found 17"));
}

TEST(PlacementFiles, MoreCopiesThanWorkersCanHoldAreRefused) {
  EXPECT_EQ(Said(Unit(4, 2, 32)), "OK");  // every expert is everywhere
  EXPECT_THAT(Said(Unit(4, 2, 1'000'000)),
              HasSubstr("--workers 4: layer 1: 16 experts, holders 2 and redundant_experts 1000000 "
                        "want 1000032 copies; one of each on 4 workers are 64"));
}

TEST(PlacementFiles, TheHotExpertIsCopiedOrLeftAlone) {
  const auto load = Read(absl::StrCat("{\"load\": [[], ", Row(3), ", ", Row(14), "]}"));
  ASSERT_TRUE(load.ok()) << load.status();
  const auto copied = OpenPlacement(Unit(4, 1, 4), ThreeLayers(), *load);
  ASSERT_TRUE(copied.ok()) << copied.status();
  EXPECT_EQ(copied->Holders(1, ExpertId(3)).size(), 4);
  EXPECT_EQ(copied->Holders(2, ExpertId(14)).size(), 4);

  // With single holders nothing is contiguous any more; workers still hold as many experts each.
  const auto single = OpenPlacement(Unit(3, 1, 0), ThreeLayers(), *load);
  ASSERT_TRUE(single.ok()) << single.status();
  EXPECT_NE(*single, *OpenPlacement(Unit(3, 1, 0), ThreeLayers(), {}));
  for (int rank = 0; rank < 3; ++rank) {
    EXPECT_NEAR(single->HeldBy(1, RankId(rank)).size(), 16 / 3.0, 1.0);
  }
  const absl::StatusOr<ExpertLoad> none = OpenExpertLoad(Unit(4, 1, 4), ThreeLayers());
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->empty());
}

TEST(PlacementFiles, LoadsThatMakeNoSenseAreRefusedByName) {
  const std::string row = Row(0);
  struct Case {
    std::string text;
    std::string wanted;
  };
  for (const Case& c : {
           Case{"{", "load.json: expert load: "},
           {"[[]]", "want {\"load\": [[], [120, 7.5]]}"},
           {"{\"load\": 3}", "want {\"load\": [[], [120, 7.5]]}"},
           {"{\"load\": [[], 3, []]}", "layer 1: want a list of numbers"},
           {"{\"load\": [[], [1, \"x\"], []]}",
            "layer 1 expert 1: want a number of tokens, found \"x\""},
           {absl::StrCat("{\"load\": [[], ", row, "]}"), "want 3 layers, found 2"},
           {absl::StrCat("{\"load\": [", row, ", ", row, ", ", row, "]}"),
            "layer 0: want 0 experts, found 16"},
           {absl::StrCat("{\"load\": [[], ", row, ", [1, 2]]}"),
            "layer 2: want 16 experts, found 2"},
           {absl::StrCat("{\"load\": [[], [-1", row.substr(4), ", ", row, "]}"),
            "layer 1 expert 0: want 0..1e+30 tokens, found -1"},
           {absl::StrCat("{\"load\": [[], [1e300", row.substr(4), ", ", row, "]}"),
            "layer 1 expert 0: want 0..1e+30 tokens, found inf"},
       }) {
    const absl::Status status = Read(c.text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.wanted)) << c.text;
  }
  ShoalConfig config;
  config.expert_load = "/no/load.json";
  EXPECT_THAT(OpenExpertLoad(config, ThreeLayers()).status().ToString(),
              HasSubstr("/no/load.json"));
}

}  // namespace
}  // namespace shoal
