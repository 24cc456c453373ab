// SPDX-License-Identifier: Apache-2.0
// An expert-parallel unit without a coordinator: the ranks are threads of this process (or, under
// mpirun, the MPI processes, one of which is this one). For commands and tests that know all their
// work beforehand.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric.h"
#include "engine/config/expert_placement.h"
#include "engine/config/model_config.h"
#include "engine/device/kernels.h"
#include "engine/model/model.h"
#include "engine/parallel/exchange.h"

namespace shoal {

struct LocalUnitOptions {
  std::string model;  // directory
  int workers = 1;
  std::string transport = "inprocess";  // one worker needs none
  std::string backend = "cpu";
  int threads = 0;  // of all ranks together; 0: as many as the machine has
  const ExpertPlacement* placement = nullptr;  // null: contiguous
  ModelOptions options;                        // of each rank; `rank` is set here
  absl::Duration timeout = absl::Minutes(10);  // of one step, and of connecting
};

class LocalUnit {
 public:
  // Loads every rank. Errors: those of Fabric, CreateKernels and Model::Load; Unimplemented for
  // `mpi` outside mpirun, InvalidArgument when mpirun started another number of processes.
  static absl::StatusOr<std::unique_ptr<LocalUnit>> Create(const ModelConfig& config,
                                                           const LocalUnitOptions& options);
  ~LocalUnit();

  int world_size() const { return world_size_; }
  // Ranks that live in this process.
  const std::vector<RankId>& local_ranks() const { return local_ranks_; }
  // Of a local rank.
  Model& model(RankId rank);
  Kernels& kernels(RankId rank);

  // Runs `body` for each local rank, each on a thread of its own, and waits for all. Every rank
  // makes the same number of steps, with tags from NextTag. When one fails the exchanges of the
  // others are cancelled; returns the error that came first.
  absl::Status Run(const std::function<absl::Status(RankId rank, Model& model)>& body);
  // Tag of the n-th step ever made.
  StepTag Tag(int64_t step) const;

 private:
  struct Rank {
    std::unique_ptr<Kernels> kernels;
    std::unique_ptr<Exchange> local_exchange;  // a world of one
    std::unique_ptr<Fabric> fabric;
    Exchange* exchange = nullptr;
    std::unique_ptr<Model> model;
  };

  LocalUnit() = default;
  absl::Status OpenFabrics(const ModelConfig& config, const LocalUnitOptions& options);
  absl::Status ForEachRank(const std::function<absl::Status(RankId, Rank&)>& body,
                           bool cancel_others);

  int world_size_ = 1;
  std::vector<RankId> local_ranks_;
  std::vector<Rank> ranks_;  // by position in local_ranks_
  absl::Duration timeout_;
};

}  // namespace shoal
