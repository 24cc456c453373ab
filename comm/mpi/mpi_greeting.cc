// SPDX-License-Identifier: Apache-2.0
#include "comm/mpi/mpi_greeting.h"

#include <mpi.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/connect.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

constexpr absl::Duration kNap = absl::Microseconds(200);

}  // namespace

absl::Status MpiGreeting::Greet(const Hello& mine, absl::Span<const std::string> endpoints,
                                absl::Time deadline, const ConnectGate& gate) {
  Send(mine, endpoints);
  std::vector<bool> greeted(mine.world);
  for (int peer = 0; peer < mine.world; ++peer) {
    greeted[peer] = peer == mine.rank.value() || endpoints[peer].empty();
  }
  while (true) {
    SHOAL_RETURN_IF_ERROR(gate.Check(mine.epoch));
    std::vector<RankId> missing;
    for (int peer = 0; peer < mine.world; ++peer) {
      if (greeted[peer]) continue;
      const absl::StatusOr<bool> has = HasGreeted(mine, endpoints, peer, deadline);
      if (!has.ok()) {
        return ConnectError(mine, endpoints, {RankId(peer)}, has.status());
      }
      greeted[peer] = *has;
      if (!*has) missing.push_back(RankId(peer));
    }
    if (missing.empty()) break;
    if (SteadyNow() >= deadline) {
      return ConnectError(mine, endpoints, missing,
                          absl::DeadlineExceededError("it has not connected"));
    }
    absl::SleepFor(kNap);
  }
  runtime_.SweepQuarantine();
  return absl::OkStatus();
}

void MpiGreeting::Send(const Hello& mine, absl::Span<const std::string> endpoints) {
  const auto text = std::make_shared<const std::string>(EncodeHello(mine));  // shared by the sends
  for (int peer = 0; peer < mine.world; ++peer) {
    if (peer == mine.rank.value() || endpoints[peer].empty()) continue;
    MPI_Request request = MPI_REQUEST_NULL;
    MPI_Isend(text->data(), static_cast<int>(text->size()), MPI_BYTE, peer, tag_, MPI_COMM_WORLD,
              &request);
    // Nobody needs to know when it has gone.
    if (request != MPI_REQUEST_NULL) runtime_.Quarantine(request, text);
  }
}

absl::StatusOr<std::optional<Hello>> MpiGreeting::Receive(int peer, absl::Time deadline) {
  int there = 0;
  MPI_Status status;
  SHOAL_RETURN_IF_ERROR(
      MpiStatus(MPI_Iprobe(peer, tag_, MPI_COMM_WORLD, &there, &status), "MPI_Iprobe"));
  if (there == 0) return std::nullopt;
  int bytes = 0;
  MPI_Get_count(&status, MPI_BYTE, &bytes);
  if (bytes < 0 || static_cast<size_t>(bytes) > kMaxHelloBytes) {
    return absl::DataLossError(absl::StrCat("hello of ", bytes, " bytes"));
  }
  // Shared with the quarantine, should the receive not complete.
  const auto text = std::make_shared<std::string>(bytes, '\0');
  MPI_Request request = MPI_REQUEST_NULL;
  SHOAL_RETURN_IF_ERROR(MpiStatus(
      MPI_Irecv(text->data(), bytes, MPI_BYTE, peer, tag_, MPI_COMM_WORLD, &request), "MPI_Irecv"));
  int completed = 0;
  while (true) {
    SHOAL_RETURN_IF_ERROR(MpiStatus(MPI_Test(&request, &completed, MPI_STATUS_IGNORE), "MPI_Test"));
    if (completed != 0) break;
    if (SteadyNow() >= deadline) {
      runtime_.Quarantine(request, text);
      return absl::DeadlineExceededError("its hello does not come through");
    }
    absl::SleepFor(kNap);
  }
  SHOAL_ASSIGN_OR_RETURN(Hello hello, ParseHello(*text));
  return hello;
}

absl::StatusOr<bool> MpiGreeting::HasGreeted(const Hello& mine,
                                             absl::Span<const std::string> endpoints, int peer,
                                             absl::Time deadline) {
  std::optional<Hello> hello;
  if (const auto early = early_.find(peer); early != early_.end()) {
    hello = std::move(early->second);
    early_.erase(early);
  } else {
    SHOAL_ASSIGN_OR_RETURN(hello, Receive(peer, deadline));
  }
  if (!hello.has_value() || hello->epoch < mine.epoch) return false;  // none, or of the past
  const absl::Status verdict = JudgeHello(mine, *hello, endpoints);
  if (verdict.ok() && hello->rank.value() != peer) {
    return absl::DataLossError(absl::StrCat("it says it is rank ", hello->rank.value()));
  }
  if (hello->epoch > mine.epoch) early_[peer] = *std::move(hello);  // when we have followed
  SHOAL_RETURN_IF_ERROR(verdict);
  return true;
}

}  // namespace shoal
