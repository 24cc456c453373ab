// SPDX-License-Identifier: Apache-2.0
#include "comm/faulty/faulty_exchange.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/exchange_errors.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {

double FaultyExchange::Draw(size_t fault, const ExchangeTag& tag) const {
  uint64_t x = script_.seed;
  for (uint64_t part :
       {static_cast<uint64_t>(fault), static_cast<uint64_t>(rank().value()),
        static_cast<uint64_t>(tag.epoch.value()), static_cast<uint64_t>(tag.step.value()),
        static_cast<uint64_t>(tag.layer), static_cast<uint64_t>(tag.phase)}) {
    x = (x ^ part) + 0x9e3779b97f4a7c15u;  // SplitMix64
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    x ^= x >> 31;
  }
  return std::ldexp(static_cast<double>(x >> 11), -53);
}

bool FaultyExchange::Strikes(size_t fault, Fault::Kind kind, const ExchangeTag& tag) const {
  const Fault& f = script_.faults[fault];
  return f.kind == kind && f.step.value_or(tag.step) == tag.step &&
         f.layer.value_or(tag.layer) == tag.layer && f.phase.value_or(tag.phase) == tag.phase &&
         Draw(fault, tag) < f.probability;
}

bool FaultyExchange::Sleep(absl::Time end) const {
  while (!cancelled_ && SteadyNow() < end) {
    absl::SleepFor(std::min(end - SteadyNow(), absl::Milliseconds(1)));
  }
  return !cancelled_;
}

absl::Status FaultyExchange::CheckCuts(const ExchangeTag& tag) {
  for (size_t fault = 0; fault < script_.faults.size(); ++fault) {
    const int peer = script_.faults[fault].peer.value();
    if (peer < world_size() && Strikes(fault, Fault::Kind::kCut, tag)) cut_[peer] = true;
  }
  const auto first = std::find(cut_.begin(), cut_.end(), true);
  if (first == cut_.end()) return absl::OkStatus();
  return GoneError(tag, rank(), RankId(static_cast<int32_t>(first - cut_.begin())),
                   "is gone: cut off by the script");
}

absl::Status FaultyExchange::Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) {
  SHOAL_RETURN_IF_ERROR(CheckCuts(tag));
  for (size_t fault = 0; fault < script_.faults.size(); ++fault) {
    if (Strikes(fault, Fault::Kind::kDelay, tag)) {
      Sleep(SteadyNow() + script_.faults[fault].delay * Draw(fault + script_.faults.size(), tag));
    }
    if (Strikes(fault, Fault::Kind::kStalePost, tag)) {
      ExchangeTag stale = tag;
      stale.epoch = Epoch(tag.epoch.value() - 1);
      if (!absl::IsAborted(inner_.Post(stale, bytes))) {
        return absl::InternalError(
            absl::StrCat(stale.ToString(), ": taken, though it is of the past"));
      }
    }
  }
  return inner_.Post(tag, bytes);
}

absl::Status FaultyExchange::Wait(const ExchangeTag& tag, absl::Time deadline,
                                  absl::Span<absl::Span<const std::byte>> received) {
  SHOAL_RETURN_IF_ERROR(CheckCuts(tag));
  MissingPeers missing;
  for (size_t fault = 0; fault < script_.faults.size(); ++fault) {
    if (Strikes(fault, Fault::Kind::kDrop, tag)) missing.push_back({script_.faults[fault].peer, 0});
  }
  if (missing.empty()) return inner_.Wait(tag, deadline, received);
  if (!Sleep(deadline)) return InExchange(tag, rank(), absl::AbortedError("cancelled"));
  return TimeoutError(tag, rank(), missing);
}

absl::Status FaultyExchange::InstallEpoch(Epoch epoch) {
  SHOAL_RETURN_IF_ERROR(inner_.InstallEpoch(epoch));
  cancelled_ = false;
  return absl::OkStatus();
}

void FaultyExchange::Cancel() {
  cancelled_ = true;
  inner_.Cancel();
}

void FaultyExchange::Reconnected() {
  std::fill(cut_.begin(), cut_.end(), false);
  cancelled_ = false;
}

}  // namespace shoal
