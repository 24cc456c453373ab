// SPDX-License-Identifier: Apache-2.0
// `shoal run`: one process, one prompt; text streams to the terminal. engine/run.cc does the work.
#include "engine/run.h"

#include <unistd.h>

#include <cstdio>
#include <memory>
#include <string>

#include "deploy/shoal/commands.h"
#include "deploy/shoal/local_memory.h"
#include "engine/base/status_macros.h"
#include "engine/cache/kv_cache.h"
#include "engine/config/read_model_config.h"
#include "engine/text/utf8.h"

namespace shoal {
namespace {

// A line that overwrites itself, for people only.
void ShowProgress(int64_t done, int64_t total) {
  if (isatty(STDERR_FILENO) == 0) return;
  std::fprintf(stderr, "\rloading %3.0f %%",
               100.0 * static_cast<double>(done) / static_cast<double>(total));
  if (done == total) std::fprintf(stderr, "\r              \r");
}

absl::Status CheckMemoryFor(const RunOptions& options) {
  SHOAL_ASSIGN_OR_RETURN(const ModelConfig config, ReadModelConfig(options.model));
  SHOAL_ASSIGN_OR_RETURN(const auto placement,
                         ExpertPlacement::Contiguous(1, config.RoutedExperts()));
  ModelOptions sizes;
  // A token is at least a byte of the prompt.
  const int64_t tokens = static_cast<int64_t>(options.prompt.size()) + 1 + options.max_tokens;
  sizes.cache_blocks = BlocksForTokens(tokens, sizes.block_tokens);
  sizes.max_logit_rows = 1;
  return CheckLocalMemory(options.model, config, placement, sizes, options.backend);
}

absl::Status RunToTerminal(const RunOptions& options) {
  if (!IsValidUtf8(options.prompt)) return absl::InvalidArgumentError("--prompt: not valid UTF-8");
  SHOAL_RETURN_IF_ERROR(CheckMemoryFor(options));
  bool started = false;
  absl::Status status = Run(options, [&](absl::string_view text) {
    if (!started) std::fputs(options.prompt.c_str(), stdout);
    started = true;
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
  });
  if (started) std::fputc('\n', stdout);
  return status;
}

}  // namespace

void AddRunCommand(CLI::App& app, int& exit_code) {
  auto options = std::make_shared<RunOptions>();
  options->sampling.temperature = 0;
  options->progress = ShowProgress;
  CLI::App* command =
      app.add_subcommand("run", "One process, one prompt: text streams to the terminal");
  command->add_option("--model", options->model, "Hugging Face directory")->required();
  command->add_option("--prompt", options->prompt, "Text to continue")->required();
  command->add_option("--max-tokens", options->max_tokens, "Tokens to generate at most")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  command->add_option("--temperature", options->sampling.temperature, "0: the most probable token")
      ->check(CLI::Range(0.0, 100.0))
      ->capture_default_str();
  command->add_option("--top-p", options->sampling.top_p, "Probability mass to draw from")
      ->check(CLI::Range(1e-6, 1.0))
      ->capture_default_str();
  command->add_option("--seed", options->sampling.seed, "Same seed, same text")
      ->capture_default_str();
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after an end token");
  command->add_option("--backend", options->backend, "reference or cpu")
      ->check(CLI::IsMember({"reference", "cpu"}))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "0: all of the machine's")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  command->add_flag("--fp8-activations", options->fp8_activations,
                    "Official FP8 numerics: activations quantised as well");
  command->callback(
      [options, &exit_code] { exit_code = ReportStatus("run", RunToTerminal(*options)); });
}

}  // namespace shoal
