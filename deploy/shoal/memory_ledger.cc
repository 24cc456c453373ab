// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/memory_ledger.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "engine/base/status_macros.h"
#include "engine/config/cache_layout.h"
#include "engine/config/tensor_manifest.h"

namespace shoal {
namespace {

constexpr int64_t kUnlimited = std::numeric_limits<int64_t>::max();

int CacheElementBytes(const ShoalConfig& config) { return config.backend == "reference" ? 4 : 2; }

std::string Mebibytes(int64_t bytes) {
  return absl::StrFormat("%11.1f MiB", static_cast<double>(bytes) / (1 << 20));
}

int64_t WeightBytes(const ShoalConfig& config, const ModelConfig& model,
                    const Checkpoint& checkpoint, const ExpertPlacement& placement, RankId rank) {
  int64_t bytes = 0;
  VisitCheckpointTensors(model, [&](const TensorSpec& spec) {
    if (!IsOwned(spec, placement, rank)) return true;
    const Checkpoint::Location* tensor = checkpoint.Find(spec.name);
    if (tensor == nullptr) return false;  // the loader will say so
    bytes += config.backend == "reference" ? spec.elements() * 4 : tensor->entry->bytes();
    if (const Checkpoint::Location* scales =
            checkpoint.Find(absl::StrCat(spec.name, "_scale_inv"))) {
      bytes += scales->entry->bytes();
    }
    return true;
  });
  return bytes;
}

// Rows of a step in the widest places of a layer, in f32 where the backend keeps them so. An upper
// bound by a factor of about two for released models.
int64_t ActivationBytes(const ShoalConfig& config, const ModelConfig& model) {
  int64_t row = 0;
  for (const LayerConfig& layer : model.layers) {
    const auto& mla = std::get<MlaConfig>(layer.attention);
    const int64_t latent = mla.kv_lora_rank + mla.qk_rope_head_dim;
    int64_t elements =
        8 * int64_t{model.hidden_size} +
        mla.num_attention_heads * (2 * latent + mla.qk_nope_head_dim + mla.qk_rope_head_dim +
                                   mla.kv_lora_rank + mla.v_head_dim);
    if (const auto* moe = std::get_if<MoeConfig>(&layer.ffn)) {
      elements += int64_t{moe->router.num_experts_per_tok} *
                  (2 * model.hidden_size + 2 * moe->moe_intermediate_size);
    } else {
      elements += 2 * int64_t{std::get<DenseFfnConfig>(layer.ffn).intermediate_size};
    }
    row = std::max(row, elements * 4);
  }
  return row * config.max_batch_rows;
}

// Two phases, two buffers each, for all peers together: every (row, expert) pair travels once,
// doubled for imbalance.
int64_t ExchangeBytes(const ShoalConfig& config, const ModelConfig& model) {
  const int64_t row_bytes = int64_t{model.hidden_size} * CacheElementBytes(config);
  return 8 * row_bytes * model.MaxExpertsPerToken() * config.max_batch_rows;
}

int64_t ReadNumber(const std::string& path) {
  std::ifstream in(path);
  std::string word;
  int64_t value = 0;
  return (in >> word) && absl::SimpleAtoi(word, &value) ? value : kUnlimited;  // "max" is no number
}

// What the control groups (version 2) that this process is in leave, from its own up to the root.
int64_t ControlGroupRoom() {
  std::ifstream in("/proc/self/cgroup");
  int64_t room = kUnlimited;
  for (std::string line; std::getline(in, line);) {
    if (!absl::StartsWith(line, "0::")) continue;
    std::string group = line.substr(3);
    while (true) {
      const std::string folder = absl::StrCat("/sys/fs/cgroup", group == "/" ? "" : group);
      const int64_t limit = ReadNumber(folder + "/memory.max");
      if (limit != kUnlimited) {
        // Clean file pages are counted as used but given back on demand.
        int64_t used = ReadNumber(folder + "/memory.current");
        std::ifstream stat(folder + "/memory.stat");
        std::string key;
        for (int64_t value = 0; stat >> key >> value;) {
          if (key == "inactive_file" || key == "active_file") used -= value;
        }
        room = std::min(room, std::max<int64_t>(limit - std::max<int64_t>(used, 0), 0));
      }
      const size_t slash = group.rfind('/');
      if (group.size() <= 1 || slash == std::string::npos) break;
      group = slash == 0 ? "/" : group.substr(0, slash);
    }
  }
  return room;
}

}  // namespace

int64_t MemoryLedger::total() const {
  int64_t sum = 0;
  for (const auto& [what, bytes] : lines) sum += bytes;
  return sum;
}

std::string MemoryLedger::ToString() const {
  std::string table;
  for (const auto& [what, bytes] : lines)
    absl::StrAppend(&table, absl::StrFormat("  %-36s", what), Mebibytes(bytes), "\n");
  absl::StrAppend(&table, absl::StrFormat("  %-36s", "together"), Mebibytes(total()));
  return table;
}

int64_t CacheBlockBytes(const ShoalConfig& config, const ModelConfig& model) {
  return MakeCacheLayout(model, CacheElementBytes(config)).BytesPerBlock(config.block_tokens);
}

absl::StatusOr<int64_t> CacheBlocks(const ShoalConfig& config, const ModelConfig& model,
                                    int64_t free_bytes, int64_t other_bytes) {
  const int64_t block_bytes = CacheBlockBytes(config, model);
  if (config.cache_blocks > 0) return config.cache_blocks;
  if (!config.cache_memory.empty()) {
    SHOAL_ASSIGN_OR_RETURN(const int64_t bytes, ParseBytes(config.cache_memory));
    if (bytes < block_bytes) {
      return absl::InvalidArgumentError(absl::StrCat("--cache-memory ", config.cache_memory,
                                                     ": one block of ", config.block_tokens,
                                                     " tokens takes ", block_bytes, " bytes"));
    }
    return std::min<int64_t>(bytes / block_bytes, std::numeric_limits<int32_t>::max());
  }
  const int64_t blocks_per_context =
      (model.max_position_embeddings + config.block_tokens - 1) / config.block_tokens;
  const int64_t wanted = blocks_per_context * config.max_running;
  const int64_t fitting = (free_bytes - other_bytes) / 2 / block_bytes;
  return std::clamp<int64_t>(std::min(wanted, fitting), 1, int64_t{1} << 24);
}

absl::StatusOr<MemoryLedger> WorkerMemory(const ShoalConfig& config, const ModelConfig& model,
                                          const Checkpoint& checkpoint,
                                          const ExpertPlacement& placement, RankId rank,
                                          int64_t cache_blocks) {
  MemoryLedger ledger;
  ledger.lines.emplace_back("weights", WeightBytes(config, model, checkpoint, placement, rank));
  ledger.lines.emplace_back(absl::StrCat("cache, ", cache_blocks, " blocks"),
                            cache_blocks * CacheBlockBytes(config, model));
  ledger.lines.emplace_back(absl::StrCat("activations, ", config.max_batch_rows, " rows"),
                            ActivationBytes(config, model));
  ledger.lines.emplace_back(absl::StrCat("logits, ", config.max_running, " rows"),
                            int64_t{config.max_running} * model.vocab_size * 4);
  if (placement.world_size() > 1) {
    ledger.lines.emplace_back("exchange buffers", ExchangeBytes(config, model));
  }
  return ledger;
}

int64_t AvailableMemory() {
  std::ifstream in("/proc/meminfo");
  int64_t available = kUnlimited;
  for (std::string line; std::getline(in, line);) {
    const std::vector<std::string> words = absl::StrSplit(line, ' ', absl::SkipEmpty());
    if (words.size() >= 2 && words[0] == "MemAvailable:" && absl::SimpleAtoi(words[1], &available))
      available *= 1024;
  }
  return std::min(available, ControlGroupRoom());
}

absl::Status CheckMemory(const std::vector<MemoryLedger>& ledgers, int64_t available) {
  int64_t total = 0;
  for (const MemoryLedger& ledger : ledgers) total += ledger.total();
  if (total <= available) return absl::OkStatus();
  const auto largest =
      std::max_element(ledgers.begin(), ledgers.end(),
                       [](const auto& a, const auto& b) { return a.total() < b.total(); });
  return absl::ResourceExhaustedError(absl::StrCat(
      "too little memory: ", ledgers.size(),
      ledgers.size() == 1 ? " worker needs" : " workers need", Mebibytes(total), ", available are",
      Mebibytes(available), "; the largest worker:\n", largest->ToString()));
}

}  // namespace shoal
