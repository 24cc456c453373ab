// SPDX-License-Identifier: Apache-2.0
// Shows that a rank touches the tensors it owns and no others, in bytes, and that every way in
// which a directory can fail to be the model its config promises, values that are no numbers
// included, is one error with tensor, wanted and found.
#include <cstring>
#include <filesystem>
#include <string>

#include "engine/config/read_model_config.h"
#include "engine/device/reference/reference_kernels.h"
#include "engine/model/model.h"
#include "engine/parallel/local.h"
#include "engine/weights/loader.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/checkpoint_copy.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// Reads everything that `rank` of `ranks` owns; the loader's count of bytes.
absl::StatusOr<int64_t> LoadAll(const std::string& folder, int ranks, int rank) {
  const auto config = ReadModelConfig(folder);
  if (!config.ok()) return config.status();
  const auto checkpoint = Checkpoint::Open(folder);
  if (!checkpoint.ok()) return checkpoint.status();
  const auto placement = ExpertPlacement::Contiguous(ranks, config->RoutedExperts());
  const auto kernels = CreateReferenceKernels();
  int64_t reported = 0;
  int64_t total = 0;
  auto loader = WeightLoader::Create(**checkpoint, *config, *placement, RankId(rank), *kernels,
                                     [&](int64_t done, int64_t all) {
                                       EXPECT_GE(done, reported);
                                       reported = done;
                                       total = all;
                                     });
  if (!loader.ok()) return loader.status();
  for (const TensorSpec& spec : CheckpointTensors(*config)) {
    if (!IsOwned(spec, *placement, RankId(rank))) continue;
    absl::Status status;
    if (spec.cols == 0) {
      status = (*loader)->Vector(spec.name).status();
    } else if (spec.role == TensorRole::kEmbedding || spec.role == TensorRole::kRouter) {
      status = (*loader)->Table(spec.name).status();
    } else {
      status = (*loader)->Linear(spec.name, {}).status();
    }
    if (!status.ok()) return status;
  }
  EXPECT_EQ((*loader)->bytes_read(), (*loader)->bytes_total());
  EXPECT_EQ(reported, total);
  EXPECT_EQ(total, (*loader)->bytes_total());
  return (*loader)->bytes_read();
}

TEST(WeightLoader, RanksShareTheExpertsAndReadNoOthers) {
  for (const std::string model : {"v3", "v3-fp8"}) {
    CheckpointCopy copy(model);
    copy.WriteShards();
    // What a rank must read, from names alone; layer num_hidden_layers is multi-token prediction's.
    const auto config = ReadModelConfig(copy.folder());
    const std::string mtp = absl::StrCat("model.layers.", config->layers.size(), ".");
    int64_t everywhere = 0;
    int64_t experts = 0;
    for (const auto& [name, tensor] : copy.tensors) {
      if (name.rfind(mtp, 0) == 0) continue;
      (name.find(".experts.") == std::string::npos ? everywhere : experts) +=
          static_cast<int64_t>(tensor.data.size());
    }
    for (int ranks : {1, 2, 3, 8}) {
      int64_t read = 0;
      int64_t most = 0;
      for (int rank = 0; rank < ranks; ++rank) {
        const auto bytes = LoadAll(copy.folder(), ranks, rank);
        ASSERT_TRUE(bytes.ok()) << bytes.status();
        read += *bytes;
        most = std::max(most, *bytes);
      }
      EXPECT_EQ(read, everywhere * ranks + experts);
      EXPECT_LE(most,
                everywhere + experts / ranks + experts / 4);  // shares differ by an expert at most
    }
  }
}

TEST(WeightLoader, ModelReadsExactlyWhatTheRankOwns) {
  CheckpointCopy copy("v3-fp8");
  copy.WriteSingle();
  const auto config = ReadModelConfig(copy.folder());
  const auto kernels = CreateReferenceKernels();
  ModelOptions options;
  options.cache_blocks = 1;
  LocalExchange exchange(Model::MaxMessageBytes(*config, *kernels, options.max_batch_rows));
  const auto placement = ExpertPlacement::Contiguous(1, config->RoutedExperts());
  const auto model = Model::Load(copy.folder(), *config, *placement, options, *kernels, exchange);
  ASSERT_TRUE(model.ok()) << model.status();
  EXPECT_EQ((*model)->bytes_read(), *LoadAll(copy.folder(), 1, 0));
  EXPECT_GT((*model)->weight_bytes(), (*model)->bytes_read());  // f32 in memory
}

// Headers of any length are legal, so data may lie at any address.
TEST(WeightLoader, DataNeedNotBeAligned) {
  CheckpointCopy copy("v3-fp8");
  copy.WriteSingle();
  std::string text = copy.ReadText("model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, text.data(), sizeof(header));
  text.insert(8 + header, " ");
  ++header;
  std::memcpy(text.data(), &header, sizeof(header));
  copy.WriteText("model.safetensors", text);
  const auto bytes = LoadAll(copy.folder(), 1, 0);
  EXPECT_TRUE(bytes.ok()) << bytes.status();
}

class BrokenCheckpoint : public ::testing::Test {
 protected:
  void Expect(absl::StatusCode code, const std::string& message) {
    const absl::Status status = LoadAll(copy_.folder(), 1, 0).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  }
  static constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  static constexpr auto kMissing = absl::StatusCode::kNotFound;
  CheckpointCopy copy_{"v3-fp8"};
};

TEST_F(BrokenCheckpoint, NothingThere) {
  Expect(
      kMissing,
      "want model.safetensors.index.json or model.safetensors, found 0 other .safetensors files");
}

TEST_F(BrokenCheckpoint, ShardsWithoutIndex) {
  copy_.WriteShards();
  std::filesystem::remove(copy_.Path("model.safetensors.index.json"));
  Expect(kMissing, "found 2 other .safetensors files");
}

TEST_F(BrokenCheckpoint, MissingShard) {
  copy_.WriteShards();
  std::filesystem::remove(copy_.Path(CheckpointCopy::kShards[1]));
  Expect(kMissing, CheckpointCopy::kShards[1]);
}

TEST_F(BrokenCheckpoint, TruncatedShard) {
  copy_.WriteShards();
  std::filesystem::resize_file(
      copy_.Path(CheckpointCopy::kShards[1]),
      std::filesystem::file_size(copy_.Path(CheckpointCopy::kShards[1])) - 1);
  Expect(kInvalid, "truncated");
}

TEST_F(BrokenCheckpoint, IndexThatIsNone) {
  copy_.WriteShards();
  for (const char* text : {"", "[]", "{}", "{\"weight_map\": 5}", "{\"weight_map\": {}}",
                           "{\"weight_map\": {\"a\": 7}}", "{\"weight_map\": {\"a\": \"../x\"}}"}) {
    copy_.WriteText("model.safetensors.index.json", text);
    Expect(kInvalid, "model.safetensors.index.json");
  }
}

TEST_F(BrokenCheckpoint, IndexPlacesATensorWrongly) {
  copy_.WriteShards();
  std::string index = copy_.ReadText("model.safetensors.index.json");
  index.insert(index.size() - 2,
               absl::StrCat(", \"model.extra\": \"", CheckpointCopy::kShards[0], "\""));
  copy_.WriteText("model.safetensors.index.json", index);
  Expect(kInvalid,
         "model.extra: the index wants it in model-00001-of-00002.safetensors, found nowhere");
}

TEST_F(BrokenCheckpoint, TheSameTensorInTwoShards) {
  copy_.WriteShards();
  std::filesystem::copy_file(copy_.Path(CheckpointCopy::kShards[0]),
                             copy_.Path(CheckpointCopy::kShards[1]),
                             std::filesystem::copy_options::overwrite_existing);
  Expect(kInvalid, "both in");
}

TEST_F(BrokenCheckpoint, MissingTensor) {
  copy_.tensors.erase("model.layers.1.mlp.experts.5.up_proj.weight");
  copy_.WriteSingle();
  Expect(kMissing, "model.layers.1.mlp.experts.5.up_proj.weight: want [160, 192]");
}

TEST_F(BrokenCheckpoint, MoreLayersThanTheConfigCounts) {
  copy_.WriteSingle();
  std::string config = copy_.ReadText("config.json");
  const auto parsed = ReadModelConfig(copy_.folder());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  const int layers = static_cast<int>(parsed->layers.size());
  ASSERT_EQ(parsed->num_nextn_predict_layers, 1);
  const std::string key = absl::StrCat("\"num_hidden_layers\": ", layers);
  ASSERT_NE(config.find(key), std::string::npos);
  config.replace(config.find(key), key.size(),
                 absl::StrCat("\"num_hidden_layers\": ", layers - 1));
  copy_.WriteText("config.json", config);
  Expect(kInvalid, absl::StrCat("model.layers.", layers, "."));
  Expect(kInvalid, absl::StrCat(": want layers 0..", layers - 1, " (num_hidden_layers ", layers - 1,
                                ", num_nextn_predict_layers 1), checkpoint has layer ", layers));
}

TEST_F(BrokenCheckpoint, WrongShape) {
  auto& tensor = copy_.tensors.at("model.layers.1.self_attn.o_proj.weight");
  std::swap(tensor.shape[0], tensor.shape[1]);
  copy_.WriteSingle();
  Expect(kInvalid,
         "model.layers.1.self_attn.o_proj.weight: want [192, 128] f8_e4m3, bf16, f16 or f32, "
         "checkpoint has [128, 192] F8_E4M3");
}

TEST_F(BrokenCheckpoint, WrongDType) {
  auto& tensor = copy_.tensors.at("model.layers.1.self_attn.o_proj.weight");
  tensor.dtype = DType::kI8;
  copy_.WriteSingle();
  Expect(kInvalid, "checkpoint has [192, 128] I8");
}

TEST_F(BrokenCheckpoint, Fp8WhereThereIsNone) {
  auto& tensor = copy_.tensors.at("model.norm.weight");
  tensor.dtype = DType::kF8E4M3;
  tensor.data.resize(tensor.data.size() / 2);
  copy_.WriteSingle();
  Expect(kInvalid, "model.norm.weight: want [192] bf16, f16 or f32, checkpoint has [192] F8_E4M3");
}

// One value that is no number, first, last or in between, in each kind of tensor and format.
TEST_F(BrokenCheckpoint, ValuesThatAreNotFinite) {
  const struct {
    const char* tensor;
    int64_t index;
    uint32_t bits;
    const char* message;
  } cases[] = {
      {"model.embed_tokens.weight", 0, 0x7fc0, "holds NaN at [0, 0]"},
      {"model.layers.1.input_layernorm.weight", 17, 0x7f81, "holds NaN at [17]"},
      {"model.norm.weight", 191, 0xff80, "holds -infinity at [191]"},
      {"model.layers.1.mlp.gate.weight", 200, 0x7f80, "holds infinity at [1, 8]"},
      {"model.layers.1.mlp.gate.e_score_correction_bias", 2, 0x7f800000, "holds infinity at [2]"},
      {"model.layers.1.mlp.experts.5.up_proj.weight", 5000, 0x7f, "holds NaN at [26, 8]"},
      {"model.layers.1.mlp.experts.5.up_proj.weight", 0, 0xff, "holds NaN at [0, 0]"},
      {"model.layers.0.mlp.down_proj.weight_scale_inv", 5, 0x7f800001, "holds NaN at [1, 2]"},
      {"model.layers.0.mlp.down_proj.weight_scale_inv", 0, 0xff800000, "holds -infinity at [0, 0]"},
      {"lm_head.weight", 4097, 0xffc0, "holds NaN at [21, 65]"},
  };
  for (const auto& broken : cases) {
    SCOPED_TRACE(broken.tensor);
    auto& tensor = copy_.tensors.at(broken.tensor);
    const std::vector<std::byte> whole = tensor.data;
    const size_t bytes = DTypeBytes(tensor.dtype);
    std::memcpy(tensor.data.data() + broken.index * bytes, &broken.bits, bytes);
    copy_.WriteSingle();
    Expect(kInvalid, absl::StrCat(broken.tensor, ": ", broken.message));
    tensor.data = whole;
  }
}

TEST_F(BrokenCheckpoint, HalfPrecisionAndPowersOfTwoThatAreNotFinite) {
  auto& norm = copy_.tensors.at("model.norm.weight");
  norm.dtype = DType::kF16;
  const uint16_t largest = 0x7bff, infinity = 0x7c00;
  for (size_t i = 0; i < norm.data.size(); i += 2) std::memcpy(&norm.data[i], &largest, 2);
  copy_.WriteSingle();
  EXPECT_TRUE(LoadAll(copy_.folder(), 1, 0).ok());
  std::memcpy(&norm.data[6], &infinity, 2);
  copy_.WriteSingle();
  Expect(kInvalid, "model.norm.weight: holds infinity at [3]");
  std::memcpy(&norm.data[6], &largest, 2);

  auto& scales = copy_.tensors.at("model.layers.0.mlp.down_proj.weight_scale_inv");
  scales.dtype = DType::kF8E8M0;
  scales.data.assign(6, std::byte{0xfe});
  copy_.WriteSingle();
  EXPECT_TRUE(LoadAll(copy_.folder(), 1, 0).ok());
  scales.data[4] = std::byte{0xff};
  copy_.WriteSingle();
  Expect(kInvalid, "model.layers.0.mlp.down_proj.weight_scale_inv: holds NaN at [1, 1]");
}

// What a rank does not own it does not look at: another's expert may be broken.
TEST_F(BrokenCheckpoint, OnlyOwnedTensorsAreLookedAt) {
  auto& tensor = copy_.tensors.at("model.layers.1.mlp.experts.0.up_proj.weight");
  tensor.data[0] = std::byte{0x7f};
  copy_.WriteSingle();
  EXPECT_FALSE(LoadAll(copy_.folder(), 2, 0).ok());
  EXPECT_TRUE(LoadAll(copy_.folder(), 2, 1).ok());
}

TEST_F(BrokenCheckpoint, MissingScales) {
  copy_.tensors.erase("model.layers.0.mlp.down_proj.weight_scale_inv");
  copy_.WriteSingle();
  Expect(kMissing, "model.layers.0.mlp.down_proj.weight_scale_inv: want [2, 3] f32");
}

TEST_F(BrokenCheckpoint, ScalesOfAnotherShape) {
  auto& tensor = copy_.tensors.at("model.layers.0.mlp.down_proj.weight_scale_inv");
  tensor.shape = {3, 2};
  copy_.WriteSingle();
  Expect(kInvalid, "want [2, 3] f32 or f8_e8m0, checkpoint has [3, 2] F32");
}

TEST_F(BrokenCheckpoint, ScalesOfAnUnquantisedWeight) {
  copy_.tensors["lm_head.weight_scale_inv"] = {DType::kF32, {1}, std::vector<std::byte>(4)};
  copy_.WriteSingle();
  Expect(kInvalid, "lm_head.weight_scale_inv: want none");
}

}  // namespace
}  // namespace shoal
