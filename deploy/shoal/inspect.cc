// SPDX-License-Identifier: Apache-2.0
// `shoal inspect DIR`: what a model is and what it costs, from its config alone, before anything is
// loaded.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "deploy/shoal/commands.h"
#include "engine/base/status_macros.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_cost.h"
#include "engine/config/read_model_config.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

// 5120 tokens is the median context of DeepSeek's published service; the rest are round numbers.
constexpr int64_t kContexts[] = {0, 1024, 5120, 32768, 131072};
constexpr int64_t kBatches[] = {1, 8, 64, 256};

struct RankMemory {
  int64_t weight_bytes = 0;
  int64_t experts = 0;  // over all layers
};

// Contiguous shares, in closed form: a config alone may promise millions of experts.
absl::StatusOr<std::vector<RankMemory>> MemoryOfRanks(const ModelCost& cost, int ep) {
  if (cost.moe_layers > 0 && ep > cost.n_routed_experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("--ep ", ep, ": want at most one worker per expert, ", cost.n_routed_experts));
  }
  std::vector<RankMemory> ranks(ep);
  for (int rank = 0; rank < ep; ++rank) {
    ranks[rank].experts =
        cost.moe_layers * ExpertPlacement::ContiguousShare(cost.n_routed_experts, ep, rank);
    ranks[rank].weight_bytes = cost.BytesWithExperts(ranks[rank].experts);
  }
  return ranks;
}

std::string Bytes(double bytes) {
  const char* units[] = {"B", "KB", "MB", "GB", "TB"};
  int unit = 0;
  for (; bytes >= 1000 && unit < 4; ++unit) bytes /= 1000;
  return absl::StrFormat(unit == 0 ? "%.0f %s" : "%.2f %s", bytes, units[unit]);
}

std::string Count(double count) {
  const char* units[] = {"", " K", " M", " B", " T"};
  int unit = 0;
  for (; count >= 1000 && unit < 4; ++unit) count /= 1000;
  return absl::StrFormat(unit == 0 ? "%.0f%s" : "%.2f%s", count, units[unit]);
}

// The largest rank decides what machine is needed.
const RankMemory& Largest(const std::vector<RankMemory>& ranks) {
  const RankMemory* largest = &ranks[0];
  for (const RankMemory& rank : ranks) {
    if (rank.weight_bytes > largest->weight_bytes) largest = &rank;
  }
  return *largest;
}

void PrintForPeople(const std::string& directory, const ModelConfig& config, const ModelCost& cost,
                    const std::vector<RankMemory>& ranks) {
  absl::PrintF("%s: %s, %d layers, hidden %d, vocabulary %d, context %d\n", directory,
               GenerationName(config.generation), config.layers.size(), config.hidden_size,
               config.vocab_size, config.max_position_embeddings);
  absl::PrintF("\nParameters   %s in all, %s active per token (%s with the embedding's table)\n",
               Count(cost.total_parameters), Count(cost.active_parameters),
               Count(cost.active_parameters + cost.embedding_parameters));
  if (cost.moe_layers > 0) {
    absl::PrintF("Experts      %d of %d per token in %d layers, %s parameters each\n",
                 cost.num_experts_per_tok, cost.n_routed_experts, cost.moe_layers,
                 Count(cost.expert_parameters));
  }
  if (cost.prediction_parameters > 0) {
    absl::PrintF("Prediction   %s more in %d multi-token-prediction layer(s), not loaded: %s with them\n",
                 Count(cost.prediction_parameters), config.num_nextn_predict_layers,
                 Count(cost.total_parameters + cost.prediction_parameters));
  }
  absl::PrintF("Weights      %s\n", Bytes(cost.total_bytes));
  absl::PrintF(
      "Cache        %s per token of context; multi-head attention %s (%.1fx), GQA-8 %s (%.1fx)\n",
      Bytes(cost.cache_bytes_per_token), Bytes(cost.mha_bytes_per_token),
      static_cast<double>(cost.mha_bytes_per_token) / cost.cache_bytes_per_token,
      Bytes(cost.gqa_8_bytes_per_token),
      static_cast<double>(cost.gqa_8_bytes_per_token) / cost.cache_bytes_per_token);
  absl::PrintF("\nOne decoded token\n  %10s %14s", "context", "FLOPs");
  for (int64_t batch : kBatches) absl::PrintF(" %16s", absl::StrCat("bytes, batch ", batch));
  absl::PrintF("\n");
  for (int64_t context : kContexts) {
    if (context > config.max_position_embeddings) break;
    absl::PrintF("  %10d %14s", context, Count(cost.FlopsPerToken(context)));
    for (int64_t batch : kBatches)
      absl::PrintF(" %16s", Bytes(cost.BytesPerStep(batch, context) / batch));
    absl::PrintF("\n");
  }
  const RankMemory& largest = Largest(ranks);
  absl::PrintF("\nMemory of each of %d workers (the largest)\n", ranks.size());
  absl::PrintF(
      "  weights                    %12s   %d experts, and everything that is not an expert\n",
      Bytes(largest.weight_bytes), largest.experts);
  absl::PrintF("  cache, 1,000,000 tokens    %12s\n", Bytes(1e6 * cost.cache_bytes_per_token));
  absl::PrintF(
      "  cache, one full context    %12s\n",
      Bytes(static_cast<double>(config.max_position_embeddings) * cost.cache_bytes_per_token));
}

nlohmann::ordered_json ForPrograms(const ModelConfig& config, const ModelCost& cost,
                                   const std::vector<RankMemory>& ranks) {
  nlohmann::ordered_json json = {
      {"generation", GenerationName(config.generation)},
      {"layers", config.layers.size()},
      {"hidden_size", config.hidden_size},
      {"vocab_size", config.vocab_size},
      {"max_position_embeddings", config.max_position_embeddings},
      {"parameters",
       {{"total", cost.total_parameters},
        {"active", cost.active_parameters},
        {"active_with_embedding", cost.active_parameters + cost.embedding_parameters},
        {"expert", cost.expert_parameters},
        {"prediction", cost.prediction_parameters},
        {"total_with_prediction", cost.total_parameters + cost.prediction_parameters}}},
      {"weight_bytes", cost.total_bytes},
      {"prediction_bytes", cost.prediction_bytes},
      {"expert_bytes", cost.expert_bytes},
      {"cache_bytes_per_token",
       {{"latent", cost.cache_bytes_per_token},
        {"mha", cost.mha_bytes_per_token},
        {"gqa_8", cost.gqa_8_bytes_per_token}}}};
  json["decode"] = nlohmann::ordered_json::array();
  for (int64_t context : kContexts) {
    if (context > config.max_position_embeddings) break;
    nlohmann::ordered_json row = {{"context", context},
                                  {"flops_per_token", cost.FlopsPerToken(context)}};
    for (int64_t batch : kBatches) {
      row["bytes_per_token"][absl::StrCat("batch_", batch)] =
          cost.BytesPerStep(batch, context) / batch;
    }
    json["decode"].push_back(std::move(row));
  }
  json["workers"] = nlohmann::ordered_json::array();
  for (size_t rank = 0; rank < ranks.size(); ++rank) {
    json["workers"].push_back({{"rank", rank},
                               {"weight_bytes", ranks[rank].weight_bytes},
                               {"experts", ranks[rank].experts}});
  }
  return json;
}

absl::Status Inspect(const std::string& directory, int ep, bool as_json) {
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(directory));
  const ModelCost cost = ComputeModelCost(config);
  SHOAL_ASSIGN_OR_RETURN(const std::vector<RankMemory> ranks, MemoryOfRanks(cost, ep));
  if (as_json) {
    absl::PrintF("%s\n", ForPrograms(config, cost, ranks).dump(2));
  } else {
    PrintForPeople(directory, config, cost, ranks);
  }
  return absl::OkStatus();
}

}  // namespace

void AddInspectCommand(CLI::App& app, int& exit_code) {
  struct Options {
    std::string directory;
    int ep = 1;
    bool json = false;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command =
      app.add_subcommand("inspect", "What a model costs: parameters, cache, FLOPs, bytes, memory");
  command->add_option("DIR", options->directory, "Directory with config.json")->required();
  command->add_option("--ep", options->ep, "Workers that share the experts")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_flag("--json", options->json, "For programs");
  command->callback([options, &exit_code] {
    exit_code = ReportStatus("inspect", Inspect(options->directory, options->ep, options->json));
  });
}

}  // namespace shoal
