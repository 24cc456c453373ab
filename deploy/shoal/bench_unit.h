// SPDX-License-Identifier: Apache-2.0
// A unit of worker processes for `shoal bench`, without coordinator: ranks that meet at phases,
// each a fixed number of steps. Rank 0 is this process; the others are forked from it, so a unit is
// started while the process still has one thread.
#pragma once

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/fabric.h"
#include "engine/config/model_config.h"
#include "engine/device/kernels.h"
#include "engine/model/model.h"
#include "engine/parallel/exchange.h"

namespace shoal {

struct BenchOptions {
  std::string model;  // directory
  int prompt = 512;   // tokens of each sequence that are prefilled, after the context
  int decode = 64;    // steps
  int batch = 1;      // sequences
  int context = 0;    // tokens in the cache of each sequence before what is measured
  int chunk = 512;    // rows of one step on one rank at most
  int workers = 1;
  std::string transport = "shm";
  std::string backend = "cpu";
  int threads = 0;  // of each worker; 0: as many as there are cores
  int repeat = 3;   // the fastest of so many runs counts
  bool fp8_activations = false;
  bool json = false;
};

// The work of one rank: sequences i with i % workers == rank. Every rank makes the same steps, with
// whatever rows it has.
enum class BenchPhase : char {
  kContext = 'c',  // fills the cache, and warms up
  kPrefill = 'p',  // positions context.. of each sequence
  kDecode = 'd',   // one token of each sequence per step, from position `context` on
  kQuit = 'q',
};

class BenchRank {
 public:
  // `exchange` connects the ranks of options.workers; null for a world of one.
  static absl::StatusOr<std::unique_ptr<BenchRank>> Load(const BenchOptions& options,
                                                         const ModelConfig& config, int rank,
                                                         std::unique_ptr<Kernels> kernels,
                                                         Exchange* exchange);
  absl::Status Run(BenchPhase phase);
  const Kernels& kernels() const { return *kernels_; }

 private:
  BenchRank(const BenchOptions& options, int rank);
  // Positions [begin, begin + count) of every sequence, in steps of the same shape on all ranks.
  absl::Status Prefill(int begin, int count);
  absl::Status Step(Batch& batch);

  BenchOptions options_;
  int sequences_;  // of this rank
  std::unique_ptr<Kernels> kernels_;
  std::unique_ptr<Exchange> local_exchange_;
  std::unique_ptr<Model> model_;
  std::vector<std::vector<BlockId>> block_tables_;  // by sequence
  std::vector<float> logits_;
  int64_t step_ = 0;
  uint32_t random_ = 1;  // tokens
};

class BenchUnit {
 public:
  // Forks the other ranks, connects and loads all. Errors: those of Fabric and Model::Load of any
  // rank.
  static absl::StatusOr<std::unique_ptr<BenchUnit>> Create(const BenchOptions& options,
                                                           const ModelConfig& config);
  ~BenchUnit();  // the other ranks are gone when it returns

  // Runs a phase on all ranks; returns when all have finished it.
  absl::Status Run(BenchPhase phase);
  const Kernels& kernels() const { return rank_->kernels(); }

 private:
  struct Peer {
    pid_t pid = -1;
    int socket = -1;
  };

  explicit BenchUnit(const BenchOptions& options) : options_(options) {}
  absl::Status Start(const ModelConfig& config);
  // A rank's life in a forked process; returns its exit code.
  static int Serve(const BenchOptions& options, const ModelConfig& config, int rank, int socket);

  BenchOptions options_;
  std::vector<Peer> peers_;  // ranks 1..
  std::unique_ptr<Fabric> fabric_;
  std::unique_ptr<BenchRank> rank_;
};

}  // namespace shoal
