// SPDX-License-Identifier: Apache-2.0
// Shows that a worker keeps no pages of tensors that are not its own: the resident bytes of a
// checkpoint's mapping, as the kernel counts them, after its fingerprint and from tensor to
// tensor while one rank of eight loads. Also that fingerprints tell weights and configs apart, one
// bit of a small tensor in a large checkpoint included.
#include "deploy/shoal/fingerprint.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "engine/config/read_model_config.h"
#include "engine/device/reference/reference_kernels.h"
#include "engine/weights/loader.h"
#include "gtest/gtest.h"
#include "tests/unit/checkpoint_copy.h"

namespace shoal {
namespace {

constexpr int64_t kMiB = int64_t{1} << 20;

// Bytes of this process's mappings of files in `folder` that are resident.
int64_t ResidentBytes(const std::string& folder) {
  const std::string path = std::filesystem::canonical(folder).string();
  std::ifstream smaps("/proc/self/smaps");
  bool inside = false;
  int64_t bytes = 0;
  for (std::string line; std::getline(smaps, line);) {
    const std::vector<absl::string_view> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() < 2) continue;
    if (!absl::EndsWith(words[0], ":")) {
      inside = absl::StrContains(line, path);
    } else if (inside && words[0] == "Rss:") {
      int64_t kib = 0;
      EXPECT_TRUE(absl::SimpleAtoi(words[1], &kib)) << line;
      bytes += kib << 10;
    }
  }
  return bytes;
}

// The golden's architecture with experts so wide that only samples of the checkpoint are hashed.
void Widen(CheckpointCopy& copy) {
  std::string config = copy.ReadText("config.json");
  const std::string key = "\"moe_intermediate_size\": ";
  const size_t at = config.find(key);
  ASSERT_NE(at, std::string::npos);
  const size_t begin = at + key.size();
  config.replace(begin, config.find_first_of(",\n", begin) - begin, "4096");
  copy.WriteText("config.json", config);
  const auto parsed = ReadModelConfig(copy.folder());
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  copy.tensors.clear();
  for (const TensorSpec& spec : CheckpointTensors(*parsed)) {
    std::vector<int64_t> shape = {spec.rows};
    if (spec.cols > 0) shape.push_back(spec.cols);
    copy.tensors[spec.name] = {
        DType::kBF16, shape,
        std::vector<std::byte>(spec.elements() * DTypeBytes(DType::kBF16), std::byte{0x3c})};
  }
}

// Brings all that `rank` of `ranks` owns onto a device; `kept` is the most that was resident when a
// tensor was done.
void LoadRank(const Checkpoint& checkpoint, const ModelConfig& config, int ranks, int rank,
              int64_t& owned, int64_t& kept) {
  const auto placement = ExpertPlacement::Contiguous(ranks, config.RoutedExperts());
  ASSERT_TRUE(placement.ok()) << placement.status();
  const auto kernels = CreateReferenceKernels();
  const auto loader = WeightLoader::Create(
      checkpoint, config, *placement, RankId(rank), *kernels, [&](int64_t, int64_t) {
        kept = std::max(kept, ResidentBytes(checkpoint.directory()));
      });
  ASSERT_TRUE(loader.ok()) << loader.status();
  owned = (*loader)->bytes_total();
  for (const TensorSpec& spec : CheckpointTensors(config)) {
    if (!IsOwned(spec, *placement, RankId(rank))) continue;
    const absl::Status status = spec.cols == 0 ? (*loader)->Vector(spec.name).status()
                                               : (*loader)->Table(spec.name).status();
    ASSERT_TRUE(status.ok()) << status;
  }
}

TEST(Fingerprint, LeavesNoPagesOfOthersTensorsResident) {
  CheckpointCopy copy("v3");
  ASSERT_NO_FATAL_FAILURE(Widen(copy));
  copy.WriteShards();
  const auto config = ReadModelConfig(copy.folder());
  ASSERT_TRUE(config.ok()) << config.status();
  const auto checkpoint = Checkpoint::Open(copy.folder());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  int64_t total = 0;
  for (const auto& [name, location] : (*checkpoint)->tensors()) total += location.entry->bytes();
  ASSERT_GT(total, 64 * kMiB);  // samples

  const auto fingerprint = ModelFingerprint(**checkpoint);
  ASSERT_TRUE(fingerprint.ok()) << fingerprint.status();
  EXPECT_LE(ResidentBytes(copy.folder()), kMiB / 4);

  int64_t owned = 0;
  int64_t kept = 0;
  ASSERT_NO_FATAL_FAILURE(LoadRank(**checkpoint, *config, 8, 7, owned, kept));
  EXPECT_LE(owned, total / 4);
  EXPECT_LE(kept, kMiB);
  EXPECT_LE(ResidentBytes(copy.folder()), kMiB);

  // That the count counts: reading through the mapping shows.
  const Checkpoint::Location& any = (*checkpoint)->tensors().begin()->second;
  unsigned sum = 0;
  for (const std::byte byte : any.shard->Data(*any.entry)) sum += std::to_integer<unsigned>(byte);
  EXPECT_GT(sum, 0u);
  EXPECT_GE(ResidentBytes(copy.folder()), any.entry->bytes());
}

TEST(Fingerprint, HashesAllOfASmallCheckpoint) {
  CheckpointCopy copy("v3");
  copy.WriteSingle();
  const auto fingerprint = [&] {
    const auto checkpoint = Checkpoint::Open(copy.folder());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    const auto hash = ModelFingerprint(**checkpoint);
    EXPECT_TRUE(hash.ok()) << hash.status();
    EXPECT_LE(ResidentBytes(copy.folder()), kMiB / 4);
    const std::pair<std::string, std::string> parts = absl::StrSplit(*hash, '-');
    return parts;
  };
  const auto first = fingerprint();
  EXPECT_EQ(fingerprint(), first);

  copy.tensors.at("model.norm.weight").data.back() ^= std::byte{1};
  copy.WriteSingle();
  const auto weights = fingerprint();
  EXPECT_EQ(weights.first, first.first);
  EXPECT_NE(weights.second, first.second);

  copy.WriteText("config.json", copy.ReadText("config.json") + "\n");
  const auto config = fingerprint();
  EXPECT_NE(config.first, first.first);
  EXPECT_EQ(config.second, weights.second);
}

// A checkpoint of 16 GiB that is all holes: one layer's tensors, the expert's far the largest.
class SparseCheckpoint {
 public:
  SparseCheckpoint() : copy_("v3") {
    std::string header = "{";
    int64_t end = 0;
    const auto add = [&](const std::string& name, const std::string& shape, int64_t bytes) {
      begins_[name] = end;
      absl::StrAppend(&header, end == 0 ? "" : ",", "\"", name,
                      "\":{\"dtype\":\"BF16\",\"shape\":[", shape, "],\"data_offsets\":[", end, ",",
                      end + bytes, "]}");
      end += bytes;
    };
    add("model.layers.3.input_layernorm.weight", "7168", 7168 * 2);
    add("model.layers.3.mlp.experts.0.up_proj.weight", "8192,1048576", kMiB << 14);
    add("model.layers.3.mlp.gate.e_score_correction_bias", "256", 256 * 2);
    add("model.layers.3.mlp.gate.weight", "256,7168", 256 * 7168 * 2);
    add("model.layers.3.mlp.shared_experts.up_proj.weight", "512,9216", 9 * kMiB);
    header += "}";
    header.resize((header.size() + 7) / 8 * 8, ' ');
    std::string length;
    for (int i = 0; i < 8; ++i) length += static_cast<char>(header.size() >> (8 * i) & 0xff);
    copy_.WriteText("model.safetensors", length + header);
    data_ = 8 + static_cast<int64_t>(header.size());
    std::filesystem::resize_file(copy_.Path("model.safetensors"), data_ + end);
  }

  void Write(const std::string& tensor, int64_t offset, const std::string& bytes) {
    std::fstream file(copy_.Path("model.safetensors"),
                      std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(data_ + begins_.at(tensor) + offset);
    file << bytes;
    ASSERT_TRUE(file.flush().good());
  }

  std::string Fingerprint() const {
    const auto checkpoint = Checkpoint::Open(copy_.folder());
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    if (!checkpoint.ok()) return "";
    const auto hash = ModelFingerprint(**checkpoint);
    EXPECT_TRUE(hash.ok()) << hash.status();
    return hash.value_or("");
  }

 private:
  CheckpointCopy copy_;
  std::map<std::string, int64_t> begins_;
  int64_t data_ = 0;  // in the file
};

TEST(Fingerprint, SeesOneBitOfASmallTensorInALargeCheckpoint) {
  SparseCheckpoint checkpoint;
  std::set<std::string> seen = {checkpoint.Fingerprint()};
  for (const char* name :
       {"input_layernorm.weight", "mlp.gate.e_score_correction_bias", "mlp.gate.weight"}) {
    SCOPED_TRACE(name);
    checkpoint.Write(absl::StrCat("model.layers.3.", name), 333, "\x01");
    EXPECT_TRUE(seen.insert(checkpoint.Fingerprint()).second);
  }
}

TEST(Fingerprint, SamplesEveryLargeTensorThatIsNoExpert) {
  SparseCheckpoint checkpoint;
  const std::string before = checkpoint.Fingerprint();
  // Of those every 16 MiB the last ones lie before this tensor, and at its very end.
  checkpoint.Write("model.layers.3.mlp.shared_experts.up_proj.weight", 0,
                   std::string(8 * kMiB, '\x3c'));
  EXPECT_NE(checkpoint.Fingerprint(), before);
}

}  // namespace
}  // namespace shoal
