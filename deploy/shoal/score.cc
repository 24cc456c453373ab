// SPDX-License-Identifier: Apache-2.0
// `shoal score`: logits of given token ids, all positions, to a file. The hook for golden tests,
// and for people who compare checkpoints.
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "deploy/shoal/commands.h"
#include "deploy/shoal/local_memory.h"
#include "deploy/shoal/local_unit.h"
#include "deploy/shoal/mpirun.h"
#include "deploy/shoal/score_plan.h"
#include "engine/base/status_macros.h"
#include "engine/config/json_internal.h"
#include "engine/config/read_model_config.h"
#include "engine/weights/safetensors_writer.h"

namespace shoal {
namespace {

constexpr int64_t kMaxLogitBytes = int64_t{256} << 20;  // of one step: bounds its rows
constexpr int64_t kMaxStepRows = 2048;

struct ScoreOptions {
  std::string model;   // directory
  std::string tokens;  // JSON file
  std::string out;     // safetensors file
  int workers = 1;
  std::string transport = "inprocess";
  std::string backend = "cpu";
  int threads = 0;
  int32_t chunk = 0;
  bool layers = false;
  bool fp8_activations = false;
  std::string placement;  // JSON file; empty: contiguous
  int block_tokens = 64;
};

using Prompts = std::vector<std::vector<int32_t>>;

absl::StatusOr<Prompts> ParsePrompts(const std::string& path, const ModelConfig& config) {
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  const auto fail = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what...));
  };
  const auto json = ParseJson(text);
  if (!json.ok()) return fail(json.status().message());
  if (!json->is_object() || !json->contains("prompts") || !(*json)["prompts"].is_array() ||
      (*json)["prompts"].empty()) {
    return fail("want {\"prompts\": [[ids], ...]} with at least one prompt");
  }
  Prompts prompts;
  for (const auto& ids : (*json)["prompts"]) {
    const size_t p = prompts.size();
    std::vector<int32_t>& prompt = prompts.emplace_back();
    if (!ids.is_array() || ids.empty()) return fail("prompt ", p, ": want a list of token ids");
    if (static_cast<int64_t>(ids.size()) > config.max_position_embeddings) {
      return fail("prompt ", p, ": want at most ", config.max_position_embeddings,
                  " tokens (max_position_embeddings), found ", ids.size());
    }
    for (const auto& id : ids) {
      if (!id.is_number_integer() || id < 0 || id >= config.vocab_size) {
        return fail("prompt ", p, ": want token ids 0..", config.vocab_size - 1, ", found ",
                    id.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace));
      }
      prompt.push_back(id.get<int32_t>());
    }
  }
  return prompts;
}

// Where each prompt's tensors stand in the output.
std::vector<SafetensorsWriter::Tensor> OutputTensors(const ModelConfig& config,
                                                     const Prompts& prompts, bool layers) {
  std::vector<SafetensorsWriter::Tensor> tensors;
  for (size_t p = 0; p < prompts.size(); ++p) {
    tensors.push_back({absl::StrCat("logits.", p),
                       DType::kF32,
                       {static_cast<int64_t>(prompts[p].size()), config.vocab_size}});
  }
  for (size_t i = 0; layers && i < config.layers.size(); ++i) {
    for (size_t p = 0; p < prompts.size(); ++p) {
      tensors.push_back({absl::StrCat("layers.", i, ".output.", p),
                         DType::kF32,
                         {static_cast<int64_t>(prompts[p].size()), config.hidden_size}});
    }
  }
  return tensors;
}

// One rank's pass over its steps, writing rows as they come.
class RankScorer {
 public:
  RankScorer(const Prompts& prompts, const ScorePlan& plan, const LocalUnit& unit,
             SafetensorsWriter* writer)
      : prompts_(prompts), plan_(plan), unit_(unit), writer_(writer) {}

  absl::Status Score(RankId rank, Model& model, bool layers) {
    const int64_t vocab = model.config().vocab_size;
    const auto& steps = plan_.steps[rank.value()];
    absl::Status layer_status;
    const std::vector<ScorePlan::Chunk>* current = nullptr;
    if (layers && writer_ != nullptr) {
      model.SetLayerObserver([&](int layer, TensorView output) {
        const size_t first = prompts_.size() * (1 + static_cast<size_t>(layer));
        if (layer_status.ok()) layer_status = WriteRows(first, *current, output);
      });
    }
    std::vector<float> logits;
    for (size_t step = 0; step < steps.size(); ++step) {
      current = &steps[step];
      const Batch batch = MakeBatch(*current);
      const int64_t rows = static_cast<int64_t>(batch.tokens.size());
      logits.resize(rows * vocab);
      const TensorView view(logits.data(), DType::kF32, {rows, vocab});
      SHOAL_RETURN_IF_ERROR(model.Forward(unit_.Tag(static_cast<int64_t>(step)), batch, view));
      SHOAL_RETURN_IF_ERROR(layer_status);
      if (writer_ != nullptr) SHOAL_RETURN_IF_ERROR(WriteRows(0, *current, view));
    }
    model.SetLayerObserver(nullptr);
    return absl::OkStatus();
  }

 private:
  Batch MakeBatch(const std::vector<ScorePlan::Chunk>& chunks) const {
    Batch batch;
    for (const ScorePlan::Chunk& chunk : chunks) {
      const auto& prompt = prompts_[chunk.prompt];
      batch.sequences.push_back({static_cast<int32_t>(batch.tokens.size()), chunk.count,
                                 chunk.start, plan_.block_tables[chunk.prompt]});
      batch.tokens.insert(batch.tokens.end(), prompt.begin() + chunk.start,
                          prompt.begin() + chunk.start + chunk.count);
    }
    for (size_t row = 0; row < batch.tokens.size(); ++row) {
      batch.logit_rows.push_back(static_cast<int32_t>(row));
    }
    return batch;
  }

  // Rows of the step's chunks into tensors first_tensor + prompt.
  absl::Status WriteRows(size_t first_tensor, const std::vector<ScorePlan::Chunk>& chunks,
                         TensorView rows) {
    const int64_t row_bytes = rows.dim(1) * static_cast<int64_t>(sizeof(float));
    const auto* data = static_cast<const std::byte*>(rows.data());
    for (const ScorePlan::Chunk& chunk : chunks) {
      SHOAL_RETURN_IF_ERROR(writer_->Write(first_tensor + chunk.prompt, chunk.start * row_bytes,
                                           {data, static_cast<size_t>(chunk.count * row_bytes)}));
      data += chunk.count * row_bytes;
    }
    return absl::OkStatus();
  }

  const Prompts& prompts_;
  const ScorePlan& plan_;
  const LocalUnit& unit_;
  SafetensorsWriter* writer_;  // null: another process writes
};

absl::StatusOr<ExpertPlacement> ReadPlacement(const ScoreOptions& options,
                                              const ModelConfig& config) {
  if (options.placement.empty()) {
    return ExpertPlacement::Contiguous(options.workers, config.RoutedExperts());
  }
  SHOAL_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(options.placement));
  SHOAL_ASSIGN_OR_RETURN(ExpertPlacement placement, ExpertPlacement::FromJson(text));
  SHOAL_RETURN_IF_ERROR(placement.CheckFits(options.workers, config.RoutedExperts()));
  return placement;
}

ScorePlan MakePlan(const ScoreOptions& options, const ModelConfig& config, const Prompts& prompts) {
  std::vector<int32_t> lengths;
  for (const auto& prompt : prompts) lengths.push_back(static_cast<int32_t>(prompt.size()));
  const int64_t row_bytes = config.vocab_size * static_cast<int64_t>(sizeof(float));
  return PlanScore(lengths,
                   {.workers = options.workers,
                    // Only one process can write the file, and under MPI there are many.
                    .first_rank_owns_all = options.transport == "mpi",
                    .chunk = options.chunk,
                    .row_budget = std::clamp<int64_t>(kMaxLogitBytes / row_bytes, 1, kMaxStepRows),
                    .block_tokens = options.block_tokens});
}

absl::Status Score(const ScoreOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(options.model));
  SHOAL_ASSIGN_OR_RETURN(const Prompts prompts, ParsePrompts(options.tokens, config));
  SHOAL_ASSIGN_OR_RETURN(const ExpertPlacement placement, ReadPlacement(options, config));
  // Checked so far by one process, so that a mistake is said once.
  if (options.transport == "mpi" && !IsMpiRank()) return BecomeMpirun(options.workers);
  const ScorePlan plan = MakePlan(options, config, prompts);

  LocalUnitOptions unit_options;
  unit_options.model = options.model;
  unit_options.workers = options.workers;
  unit_options.transport = options.transport;
  unit_options.backend = options.backend;
  unit_options.threads = options.threads;
  unit_options.placement = &placement;
  unit_options.options.max_batch_rows = plan.max_rows;
  unit_options.options.max_logit_rows = plan.max_rows;
  unit_options.options.block_tokens = options.block_tokens;
  unit_options.options.cache_blocks = plan.max_blocks;
  unit_options.options.fp8_activations = options.fp8_activations;

  // Under MPI each process loads one rank, and only the first writes.
  const bool mpi = options.transport == "mpi";
  std::unique_ptr<SafetensorsWriter> writer;
  const auto open_output = [&]() -> absl::Status {
    SHOAL_ASSIGN_OR_RETURN(
        writer,
        SafetensorsWriter::Create(options.out, OutputTensors(config, prompts, options.layers)));
    return absl::OkStatus();
  };
  if (!mpi) {
    SHOAL_RETURN_IF_ERROR(
        CheckLocalMemory(options.model, config, placement, unit_options.options, options.backend));
    SHOAL_RETURN_IF_ERROR(open_output());
  }
  SHOAL_ASSIGN_OR_RETURN(const auto unit, LocalUnit::Create(config, unit_options));
  if (mpi && unit->local_ranks()[0] == RankId(0)) SHOAL_RETURN_IF_ERROR(open_output());
  SHOAL_RETURN_IF_ERROR(unit->Run([&](RankId rank, Model& model) {
    return RankScorer(prompts, plan, *unit, writer.get()).Score(rank, model, options.layers);
  }));
  return writer != nullptr ? writer->Finish() : absl::OkStatus();
}

}  // namespace

void AddScoreCommand(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<ScoreOptions>();
  CLI::App* command =
      app.add_subcommand("score", "Logits of given token ids, all positions, to a file");
  command->add_option("--model", options->model, "Hugging Face directory")->required();
  command->add_option("--tokens", options->tokens, "{\"prompts\": [[ids], ...]}")->required();
  command
      ->add_option("--out", options->out,
                   "Safetensors file to write: logits.0, logits.1, ... f32 [T, V]")
      ->required();
  command->add_option("--workers", options->workers, "Ranks that share the experts")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->add_option("--transport", options->transport, "Between ranks: inprocess, shm, grpc, mpi")
      ->check(CLI::IsMember({"inprocess", "shm", "grpc", "mpi"}))
      ->capture_default_str();
  command->add_option("--backend", options->backend, "reference or cpu")
      ->check(CLI::IsMember({"reference", "cpu"}))
      ->capture_default_str();
  command
      ->add_option("--threads", options->threads, "Of all ranks together; 0: all of the machine's")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_option("--chunk", options->chunk, "Rows of one prompt in one step; 0: whole prompts")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  command->add_flag("--layers", options->layers,
                    "Also layers.{i}.output.{p}: the residual stream after every layer");
  command->add_flag("--fp8-activations", options->fp8_activations,
                    "Official FP8 numerics: activations quantised as well");
  command->add_option("--placement", options->placement,
                      "JSON file that says which rank holds which expert; default: contiguous");
  command->add_option("--block-tokens", options->block_tokens, "Tokens of one cache block")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  command->callback([options, &exit_code] { exit_code = ReportStatus("score", Score(*options)); });
}

}  // namespace shoal
