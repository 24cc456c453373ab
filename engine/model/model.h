// SPDX-License-Identifier: Apache-2.0
// One rank of one model: a batch of rows in, logits out. Knows no network (only the Exchange port),
// no requests, no time but the deadline it is given.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/device/kernels.h"
#include "engine/parallel/exchange.h"

namespace shoal {

struct ModelOptions {
  RankId rank = RankId(0);
  int64_t max_batch_rows = 512;  // rows of one step on this rank
  int64_t max_logit_rows = 64;   // rows of one step whose logits are wanted
  int block_tokens = 64;         // tokens per cache block
  int64_t cache_blocks = 0;      // blocks in the pool
  bool fp8_activations = false;  // the official FP8 numerics instead of unquantised activations
  // Threads that bring weights in, layer by layer; 0: up to 8, as many as there are cores.
  int load_threads = 0;
  // Called as tensors are loaded, with bytes so far and in all; from loading threads, never from
  // two at once.
  std::function<void(int64_t done, int64_t total)> progress;
};

// One step of one rank. Sequences are independent; rows of one sequence are consecutive positions.
struct Batch {
  std::vector<int32_t> tokens;  // [T]
  std::vector<AttendSequence>
      sequences;  // covering rows 0..T-1 in order; their block tables outlive Forward
  std::vector<int32_t> logit_rows;  // rows whose logits are wanted, ascending
};

// Identifies the step to peers and bounds every wait in it.
struct StepTag {
  Epoch epoch;
  StepId step;
  absl::Time deadline = absl::InfiniteFuture();
};

class Model {
 public:
  virtual ~Model() = default;

  // Loads what `options.rank` owns under `placement` from a Hugging Face directory: attention and
  // shared parts of every layer, its own experts; nothing else is touched. `kernels` and `exchange`
  // outlive the model. Errors name tensor, wanted and found.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& directory,
                                                     const ModelConfig& config,
                                                     const ExpertPlacement& placement,
                                                     const ModelOptions& options, Kernels& kernels,
                                                     Exchange& exchange);

  // Largest message that one rank sends to another in one exchange: what an Exchange must be built
  // for.
  static size_t MaxMessageBytes(const ModelConfig& config, const Kernels& kernels,
                                int64_t max_batch_rows);

  virtual const ModelConfig& config() const = 0;

  // Runs one step: appends to the cache, exchanges expert rows with all peers (also with an empty
  // batch), and writes logits [logit_rows.size(), V] f32. Allocates nothing. Errors: those of
  // Exchange; the step may then be repeated under another tag, since writing the same cache rows
  // again changes nothing.
  virtual absl::Status Forward(const StepTag& tag, const Batch& batch, TensorView logits) = 0;

  // If set, called with the residual stream [T, D] f32 after each layer of Forward. For `shoal
  // score --layers`.
  virtual void SetLayerObserver(std::function<void(int layer, TensorView output)> observer) = 0;

  // Swaps in another placement at an epoch. host_of_rank: see ExpertTargets. Errors:
  // FailedPrecondition if this rank lacks an expert it is to hold.
  virtual absl::Status InstallPlacement(const ExpertPlacement& placement,
                                        absl::Span<const int> host_of_rank) = 0;

  // Rows that this rank has routed to each expert since it was loaded, also in steps that failed:
  // [layers, MaxRoutedExperts], zeros where a layer has fewer.
  virtual absl::Span<const int64_t> expert_tokens() const = 0;

  virtual int64_t weight_bytes() const = 0;  // prepared weights resident on this rank
  virtual int64_t bytes_read() const = 0;    // bytes of checkpoint data touched while loading
};

}  // namespace shoal
