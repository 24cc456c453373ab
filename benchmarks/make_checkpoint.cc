// SPDX-License-Identifier: Apache-2.0
// Writes a random checkpoint in Hugging Face form: config.json, index, shards. The layers are those
// of a named family; any key of the config may be set, so that a file fits a small machine. Rates
// measured on it hold per layer; its text is noise, and its experts are chosen evenly.
//
//   make_checkpoint lite OUT --set num_hidden_layers=7
//   make_checkpoint v3 OUT --set num_hidden_layers=3 --set n_routed_experts=32 --set
//   vocab_size=16384 --fp8
#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/base/status_macros.h"
#include "engine/config/model_config.h"
#include "engine/config/tensor_manifest.h"
#include "engine/weights/safetensors_writer.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;
using nlohmann::literals::operator"" _json_pointer;

constexpr int64_t kShardBytes = int64_t{4} << 30;
constexpr int64_t kPieceBytes = int64_t{16} << 20;  // what one thread writes at a time

Json BaseConfig(const std::string& family) {
  Json config = {{"attention_bias", false},
                 {"bos_token_id", 0},
                 {"eos_token_id", 1},
                 {"hidden_act", "silu"},
                 {"kv_lora_rank", 512},
                 {"max_position_embeddings", 163840},
                 {"moe_layer_freq", 1},
                 {"first_k_dense_replace", 1},
                 {"num_nextn_predict_layers", 0},
                 {"qk_nope_head_dim", 128},
                 {"qk_rope_head_dim", 64},
                 {"rms_norm_eps", 1e-6},
                 {"rope_theta", 10000},
                 {"tie_word_embeddings", false},
                 {"torch_dtype", "bfloat16"},
                 {"v_head_dim", 128}};
  const double mscale = family == "lite" ? 0.707 : 1.0;
  config["rope_scaling"] = {{"type", "yarn"},
                            {"factor", 40},
                            {"beta_fast", 32},
                            {"beta_slow", 1},
                            {"mscale", mscale},
                            {"mscale_all_dim", mscale},
                            {"original_max_position_embeddings", 4096}};
  if (family == "lite") {
    config.update({{"architectures", {"DeepseekV2ForCausalLM"}},
                   {"model_type", "deepseek_v2"},
                   {"hidden_size", 2048},
                   {"intermediate_size", 10944},
                   {"moe_intermediate_size", 1408},
                   {"n_group", 1},
                   {"n_routed_experts", 64},
                   {"n_shared_experts", 2},
                   {"norm_topk_prob", false},
                   {"num_attention_heads", 16},
                   {"num_experts_per_tok", 6},
                   {"num_hidden_layers", 27},
                   {"num_key_value_heads", 16},
                   {"q_lora_rank", nullptr},
                   {"routed_scaling_factor", 1.0},
                   {"scoring_func", "softmax"},
                   {"topk_group", 1},
                   {"topk_method", "greedy"},
                   {"vocab_size", 102400}});
  } else {
    config.update({{"architectures", {"DeepseekV3ForCausalLM"}},
                   {"model_type", "deepseek_v3"},
                   {"hidden_size", 7168},
                   {"intermediate_size", 18432},
                   {"moe_intermediate_size", 2048},
                   {"n_group", 8},
                   {"n_routed_experts", 256},
                   {"n_shared_experts", 1},
                   {"norm_topk_prob", true},
                   {"num_attention_heads", 128},
                   {"num_experts_per_tok", 8},
                   {"num_hidden_layers", 61},
                   {"num_key_value_heads", 128},
                   {"q_lora_rank", 1536},
                   {"routed_scaling_factor", 2.5},
                   {"scoring_func", "sigmoid"},
                   {"topk_group", 4},
                   {"topk_method", "noaux_tc"},
                   {"vocab_size", 129280}});
  }
  return config;
}

// What one element of a tensor may be; filled by drawing from tables, many times faster than from a
// distribution.
class Values {
 public:
  Values() : bf16_(65536), e4m3_(65536) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    for (size_t i = 0; i < bf16_.size(); ++i) {
      bf16_[i] = normal(random);
      e4m3_[i] = FloatToE4M3(bf16_[i] * kE4M3Deviation);
    }
  }
  static constexpr float kE4M3Deviation =
      64;  // a block then fills the range of the format, unsaturated

  void FillBF16(uint64_t seed, float deviation, absl::Span<uint16_t> out) const {
    std::vector<uint16_t> scaled(bf16_.size());
    for (size_t i = 0; i < scaled.size(); ++i) scaled[i] = FloatToBF16(bf16_[i] * deviation);
    Draw(seed, out, scaled);
  }
  void FillE4M3(uint64_t seed, absl::Span<uint8_t> out) const { Draw(seed, out, e4m3_); }

 private:
  template <typename T>
  static void Draw(uint64_t seed, absl::Span<T> out, const std::vector<T>& table) {
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    size_t i = 0;
    while (i < out.size()) {
      state ^= state << 13;
      state ^= state >> 7;
      state ^= state << 17;
      for (int j = 0; j < 4 && i < out.size(); ++j) out[i++] = table[state >> (16 * j) & 0xffff];
    }
  }

  std::vector<float> bf16_;
  std::vector<uint8_t> e4m3_;
};

struct Shard {
  std::string name;
  std::vector<SafetensorsWriter::Tensor> tensors;
  std::vector<float> deviations;  // 0: all ones
  int64_t bytes = 0;
};

void AddTensor(const std::string& name, DType dtype, std::vector<int64_t> shape, float deviation,
               std::vector<Shard>& shards) {
  int64_t bytes = static_cast<int64_t>(DTypeBytes(dtype));
  for (const int64_t dim : shape) bytes *= dim;
  if (shards.empty() || (shards.back().bytes > 0 && shards.back().bytes + bytes > kShardBytes))
    shards.emplace_back();
  shards.back().tensors.push_back({name, dtype, std::move(shape)});
  shards.back().deviations.push_back(deviation);
  shards.back().bytes += bytes;
}

std::vector<Shard> PlanShards(const ModelConfig& config) {
  std::vector<Shard> shards;
  for (const TensorSpec& spec : CheckpointTensors(config)) {
    const float deviation = 1 / std::sqrt(static_cast<float>(spec.cols));
    switch (spec.role) {
      case TensorRole::kNorm:
        AddTensor(spec.name, DType::kBF16, {spec.rows}, 0, shards);
        break;
      case TensorRole::kRouterBias:
        AddTensor(spec.name, DType::kF32, {spec.rows}, 0.01f, shards);
        break;
      case TensorRole::kEmbedding:
        AddTensor(spec.name, DType::kBF16, {spec.rows, spec.cols}, 1, shards);
        break;
      case TensorRole::kHead:
      case TensorRole::kRouter:
        AddTensor(spec.name, DType::kBF16, {spec.rows, spec.cols}, deviation, shards);
        break;
      case TensorRole::kLinear:
        if (!config.quant.has_value()) {
          AddTensor(spec.name, DType::kBF16, {spec.rows, spec.cols}, deviation, shards);
          break;
        }
        AddTensor(spec.name, DType::kF8E4M3, {spec.rows, spec.cols}, 1, shards);
        AddTensor(spec.name + "_scale_inv", DType::kF32,
                  {(spec.rows + config.quant->block_rows - 1) / config.quant->block_rows,
                   (spec.cols + config.quant->block_cols - 1) / config.quant->block_cols},
                  deviation / Values::kE4M3Deviation, shards);
    }
  }
  for (size_t i = 0; i < shards.size(); ++i) {
    shards[i].name = absl::StrFormat("model-%05d-of-%06d.safetensors", i + 1, shards.size());
  }
  return shards;
}

// Elements [begin, end) of a tensor.
absl::Status WritePiece(const Values& values, SafetensorsWriter& writer, size_t index, DType dtype,
                        float deviation, uint64_t seed, int64_t begin, int64_t end,
                        std::vector<std::byte>& buffer) {
  const int64_t count = end - begin;
  const auto size = static_cast<int64_t>(DTypeBytes(dtype));
  buffer.resize(count * size);
  if (dtype == DType::kF8E4M3) {
    values.FillE4M3(seed, {reinterpret_cast<uint8_t*>(buffer.data()), static_cast<size_t>(count)});
  } else if (dtype == DType::kBF16) {
    auto* out = reinterpret_cast<uint16_t*>(buffer.data());
    if (deviation == 0) {
      std::fill_n(out, count, FloatToBF16(1.0f));
    } else {
      values.FillBF16(seed, deviation, {out, static_cast<size_t>(count)});
    }
  } else {  // f32: block scales around `deviation`, or a router's bias below it; both positive
    auto* out = reinterpret_cast<float*>(buffer.data());
    std::mt19937_64 random(seed);
    for (int64_t i = 0; i < count; ++i) {
      out[i] = deviation * (0.75f + 0.5f * static_cast<float>(random() % 1024) / 1024);
    }
  }
  return writer.Write(index, begin * size, buffer);
}

absl::Status WriteShard(const std::string& directory, const Values& values, uint64_t seed,
                        const Shard& shard) {
  SHOAL_ASSIGN_OR_RETURN(const auto writer,
                         SafetensorsWriter::Create(directory + "/" + shard.name, shard.tensors));
  struct Piece {
    size_t tensor;
    int64_t begin, end;
  };
  std::vector<Piece> pieces;
  for (size_t i = 0; i < shard.tensors.size(); ++i) {
    int64_t elements = 1;
    for (const int64_t dim : shard.tensors[i].shape) elements *= dim;
    for (int64_t begin = 0; begin < elements; begin += kPieceBytes / 4) {
      pieces.push_back({i, begin, std::min(elements, begin + kPieceBytes / 4)});
    }
  }
  std::atomic<size_t> next{0};
  std::vector<absl::Status> results(std::max(1u, std::thread::hardware_concurrency()));
  std::vector<std::thread> threads;
  for (absl::Status& result : results) {
    threads.emplace_back([&] {
      std::vector<std::byte> buffer;
      for (size_t i = next++; i < pieces.size() && result.ok(); i = next++) {
        const auto& [index, begin, end] = pieces[i];
        const uint64_t piece_seed =
            std::hash<std::string>()(shard.tensors[index].name) ^ seed ^ begin;
        result = WritePiece(values, *writer, index, shard.tensors[index].dtype,
                            shard.deviations[index], piece_seed, begin, end, buffer);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& result : results) SHOAL_RETURN_IF_ERROR(result);
  return writer->Finish();
}

struct Options {
  std::string family, directory, tokenizer;
  std::vector<std::string> set;
  bool fp8 = false;
  uint64_t seed = 1;
};

absl::Status WriteText(const std::string& path, const std::string& text) {
  std::ofstream out(path);
  out << text;
  return out.good() ? absl::OkStatus()
                    : absl::UnavailableError(absl::StrCat(path, ": cannot write"));
}

// Copies tokenizer.json with a token for every id that it lacks, so that it matches the model:
// "unused2048", which no text can become.
absl::Status WriteTokenizer(const Options& options, int vocab_size) {
  const std::string source = options.tokenizer + "/tokenizer.json";
  std::ifstream in(source);
  nlohmann::json tokenizer = nlohmann::json::parse(in, nullptr, false);
  if (tokenizer.is_discarded() || !tokenizer.contains("/model/vocab"_json_pointer)) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not a tokenizer"));
  }
  std::vector<bool> used(vocab_size, false);
  const auto use = [&](const nlohmann::json& id) {
    if (id.is_number_unsigned() && id < vocab_size) used[id.get<size_t>()] = true;
  };
  nlohmann::json& vocabulary = tokenizer["model"]["vocab"];
  for (const auto& [token, id] : vocabulary.items()) use(id);
  for (const auto& added : tokenizer.value("added_tokens", nlohmann::json::array())) {
    use(added.value("id", nlohmann::json()));
  }
  for (int id = 0; id < vocab_size; ++id) {
    if (!used[id]) vocabulary[absl::StrCat("unused", id)] = id;
  }
  return WriteText(options.directory + "/tokenizer.json", tokenizer.dump() + "\n");
}

absl::Status MakeCheckpoint(const Options& options) {
  Json config = BaseConfig(options.family);
  if (options.fp8) {
    config["quantization_config"] = {{"activation_scheme", "dynamic"},
                                     {"fmt", "e4m3"},
                                     {"quant_method", "fp8"},
                                     {"weight_block_size", {128, 128}}};
  }
  for (const std::string& assignment : options.set) {
    const size_t equals = assignment.find('=');
    const Json value = equals == std::string::npos
                           ? Json()
                           : Json::parse(assignment.substr(equals + 1), nullptr, false);
    if (equals == std::string::npos || value.is_discarded()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--set: want key=<JSON value>, found ", assignment));
    }
    config[assignment.substr(0, equals)] = value;
  }
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig parsed, ParseModelConfig(config.dump(), ""));

  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  SHOAL_RETURN_IF_ERROR(WriteText(options.directory + "/config.json", config.dump(2) + "\n"));
  if (!options.tokenizer.empty()) {
    for (const char* name : {"tokenizer_config.json", "generation_config.json"}) {
      std::filesystem::copy_file(options.tokenizer + "/" + name, options.directory + "/" + name,
                                 std::filesystem::copy_options::overwrite_existing, error);
    }
    SHOAL_RETURN_IF_ERROR(WriteTokenizer(options, parsed.vocab_size));
  }
  const Values values;
  const std::vector<Shard> shards = PlanShards(parsed);
  Json index = {{"metadata", {{"total_size", 0}}}, {"weight_map", Json::object()}};
  int64_t total = 0;
  for (const Shard& shard : shards) {
    SHOAL_RETURN_IF_ERROR(WriteShard(options.directory, values, options.seed, shard));
    for (const SafetensorsWriter::Tensor& tensor : shard.tensors)
      index["weight_map"][tensor.name] = shard.name;
    total += shard.bytes;
    std::fprintf(stderr, "%s: %zu tensors, %.2f GB so far\n", shard.name.c_str(),
                 shard.tensors.size(), static_cast<double>(total) / 1e9);
  }
  index["metadata"]["total_size"] = total;
  return WriteText(options.directory + "/model.safetensors.index.json", index.dump() + "\n");
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) {
  CLI::App app{"Writes a random checkpoint in Hugging Face form"};
  shoal::Options options;
  app.add_option("family", options.family, "Whose layer shapes: lite (DeepSeek-V2-Lite) or v3")
      ->required()
      ->check(CLI::IsMember({"lite", "v3"}));
  app.add_option("directory", options.directory, "Where to write")->required();
  app.add_option("--set", options.set, "A key of config.json: num_hidden_layers=7")
      ->allow_extra_args(false);
  app.add_flag("--fp8", options.fp8, "E4M3 weights in 128x128 blocks");
  app.add_option("--seed", options.seed, "Same seed, same file")->capture_default_str();
  app.add_option("--tokenizer", options.tokenizer, "Folder whose tokenizer files are copied, filled up to vocab_size");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = shoal::MakeCheckpoint(options);
  if (status.ok()) return 0;
  std::fprintf(stderr, "make_checkpoint: %s\n", std::string(status.message()).c_str());
  return 1;
}
