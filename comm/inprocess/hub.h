// SPDX-License-Identifier: Apache-2.0
// Where the ranks of one process meet: each offers every peer a lane to itself and takes those
// offered to it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/connect_gate.h"
#include "comm/hello.h"
#include "comm/lane.h"
#include "engine/base/steady_clock.h"

namespace shoal {

class Hub {
 public:
  struct Offer {
    Hello hello;  // of the rank that offers
    Lane lane;    // from the taker to it
  };

  // The hub of `cluster` in this process, made when nobody holds it.
  static std::shared_ptr<Hub> Of(const std::string& cluster);

  // A new endpoint name.
  std::string Enter();
  // Withdraws the endpoint and whatever it offered.
  void Leave(const std::string& endpoint);

  // Replaces an earlier offer of the same pair.
  void Put(const std::string& from, const std::string& to, Offer offer);
  // Waits for an offer of `from` to `to` with an epoch of at least `epoch`; takes it when it is of
  // `epoch`, else leaves it there and returns Aborted. Errors: Unavailable when `from` has left or
  // never was; DeadlineExceeded; Aborted when `gate` is closed to the epoch.
  absl::StatusOr<Offer> Take(const std::string& from, const std::string& to, Epoch epoch,
                             absl::Time deadline, const ConnectGate& gate);
  // Makes every Take look at its gate.
  void Wake();

 private:
  absl::Mutex mutex_;
  SteadyCondVar changed_;  // an offer, an endpoint, or a gate
  int64_t entered_ ABSL_GUARDED_BY(mutex_) = 0;
  std::set<std::string> present_ ABSL_GUARDED_BY(mutex_);
  std::map<std::pair<std::string, std::string>, Offer> offers_
      ABSL_GUARDED_BY(mutex_);  // by (from, to)
};

}  // namespace shoal
