// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_fabric.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/connect.h"
#include "comm/mpi/make_mpi_fabric.h"
#include "comm/mpi/mpi_outlet.h"
#include "comm/wait_loop.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

constexpr int kHelloTag = kPhases;  // behind the two phases
static_assert(kHelloTag < MpiRuntime::kTagsPerFabric);

// "mpi:<MPI rank>:" opens an endpoint; what follows tells jobs apart.
std::string EndpointPrefix(int rank) { return absl::StrCat("mpi:", rank, ":"); }

// How a wait for MPI goes on when nothing arrives. With a core for every rank, yielding finds a
// message soonest; with fewer, the core belongs to a peer, and only sleep gives it away for sure.
// A nap takes its time and the kernel's timer slack (50 us); long waits nap longer.
constexpr int kYields = 200;
constexpr int kShortNaps = 200;
constexpr absl::Duration kShortNap = absl::Microseconds(10);
constexpr absl::Duration kLongNap = absl::Microseconds(200);

}  // namespace

absl::StatusOr<std::unique_ptr<Fabric>> MakeMpiFabric(const FabricOptions& options) {
  return MpiFabric::Make(options);
}

absl::StatusOr<std::unique_ptr<Fabric>> MpiFabric::Make(const FabricOptions& options) {
  constexpr size_t kLargest = std::numeric_limits<int>::max() - kMessageHeaderBytes;
  if (options.max_message_bytes > kLargest) {
    return absl::InvalidArgumentError(absl::StrCat("messages of ", options.max_message_bytes,
                                                   " bytes: MPI carries at most ", kLargest));
  }
  SHOAL_ASSIGN_OR_RETURN(MpiRuntime * runtime, MpiRuntime::Get());
  return absl::WrapUnique<Fabric>(new MpiFabric(options, *runtime));
}

MpiFabric::MpiFabric(const FabricOptions& options, MpiRuntime& runtime)
    : options_(options),
      runtime_(runtime),
      first_tag_(runtime.NextTags()),
      endpoint_(absl::StrCat(EndpointPrefix(runtime.rank()), runtime.host(), ":", getpid())),
      greeting_(runtime, first_tag_ + kHelloTag) {}

MpiFabric::~MpiFabric() {
  exchange_.reset();
  inlets_.clear();
  runtime_.SweepQuarantine();
}

std::string MpiFabric::EndpointOf(RankId rank) const {
  return absl::StrCat(EndpointPrefix(rank.value()), "*");  // MPI knows who it is
}

absl::Status MpiFabric::CheckRanks(const Hello& mine,
                                   absl::Span<const std::string> endpoints) const {
  if (mine.rank.value() != runtime_.rank()) {
    return absl::InvalidArgumentError(absl::StrCat("rank ", mine.rank.value(),
                                                   ": this process is MPI rank ", runtime_.rank(),
                                                   " and can be no other"));
  }
  if (endpoints.size() > static_cast<size_t>(runtime_.size())) {
    return absl::InvalidArgumentError(
        absl::StrCat("a world of ", endpoints.size(), " ranks: the MPI job has ", runtime_.size(),
                     "; start the workers together with mpirun -n ", endpoints.size()));
  }
  std::vector<RankId> unfit;
  for (int peer = 0; peer < mine.world; ++peer) {
    if (endpoints[peer].empty()) continue;
    if (!absl::StartsWith(endpoints[peer], EndpointPrefix(peer))) unfit.push_back(RankId(peer));
  }
  if (unfit.empty()) return absl::OkStatus();
  return ConnectError(mine, endpoints, unfit,
                      absl::InvalidArgumentError(absl::StrCat(
                          "its endpoint is not that of MPI rank ", unfit.front().value())));
}

absl::StatusOr<Exchange*> MpiFabric::Connect(Epoch epoch, RankId rank,
                                             absl::Span<const std::string> endpoints,
                                             absl::Time deadline) {
  SHOAL_ASSIGN_OR_RETURN(
      const Hello mine, BeginConnect(options_, endpoint_, exchange_.get(), epoch, rank, endpoints));
  SHOAL_RETURN_IF_ERROR(CheckRanks(mine, endpoints));
  const int world = mine.world;
  SHOAL_RETURN_IF_ERROR(greeting_.Greet(mine, endpoints, deadline, gate_));
  std::vector<bool> present(world);
  for (int peer = 0; peer < world; ++peer) present[peer] = !endpoints[peer].empty();
  // An MPI rank is never replaced, so what was made the first time serves for ever, also to ranks
  // that are absent for a while: epochs keep the rest apart.
  if (exchange_ != nullptr) {
    SHOAL_RETURN_IF_ERROR(exchange_->Enter(epoch, present));
    return exchange_.get();
  }
  std::vector<std::unique_ptr<MpiInlet>> inlets(world);
  std::vector<Lane> in(world);
  std::vector<std::unique_ptr<Outlet>> out(world);
  for (int peer = 0; peer < world; ++peer) {
    if (peer == rank.value()) continue;
    SHOAL_ASSIGN_OR_RETURN(inlets[peer], MpiInlet::Make(runtime_, RankId(peer), peer, first_tag_,
                                                        options_.max_message_bytes));
    SHOAL_ASSIGN_OR_RETURN(out[peer],
                           MpiOutlet::Make(runtime_, peer, first_tag_, options_.max_message_bytes));
    in[peer] = inlets[peer]->lane();
  }
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<LaneExchange> exchange,
                         LaneExchange::Make(rank, world, options_.max_message_bytes, *this));
  exchange_ = std::move(exchange);
  inlets_ = std::move(inlets);
  spin_turns_ = SpinTurns(world);
  SHOAL_RETURN_IF_ERROR(exchange_->Relink(epoch, std::move(in), std::move(out)));
  SHOAL_RETURN_IF_ERROR(exchange_->Enter(epoch, present));
  return exchange_.get();
}

bool MpiFabric::Progress() {
  bool any = false;
  for (size_t peer = 0; peer < inlets_.size(); ++peer) {
    if (inlets_[peer] == nullptr) continue;
    const absl::StatusOr<bool> took = inlets_[peer]->Progress();
    if (took.ok()) {
      any = any || *took;
      continue;
    }
    inlets_[peer].reset();
    exchange_->LinkLost(RankId(static_cast<int32_t>(peer)), took.status());
  }
  return any;
}

void MpiFabric::RoomMade() {
  idle_turns_ = 0;
  Progress();
}

void MpiFabric::Idle(Doorbell&, uint32_t, absl::Duration at_most) {
  if (Progress()) {
    idle_turns_ = 0;
    return;
  }
  const int turn = idle_turns_++ - spin_turns_;
  const int yields = spin_turns_ > 0 ? kYields : 0;
  if (turn < 0) return;
  if (turn < yields) {
    sched_yield();
    return;
  }
  absl::SleepFor(std::min(turn < yields + kShortNaps ? kShortNap : kLongNap, at_most));
}

}  // namespace shoal
