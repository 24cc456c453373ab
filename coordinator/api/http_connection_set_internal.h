// SPDX-License-Identifier: Apache-2.0
// The open connections of a server: counted, limited, found again when the server stops.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "engine/base/steady_clock.h"

namespace shoal {

class HttpConnection;

// Thread-safe.
class HttpConnectionSet {
 public:
  // False: the server holds `limit` connections already, or is closing.
  bool Add(const std::shared_ptr<HttpConnection>& connection, size_t limit);
  void Remove(HttpConnection* connection);
  std::vector<std::shared_ptr<HttpConnection>> All() const;
  size_t size() const;
  // Blocks until none is left or the deadline has passed; false in the latter case.
  bool WaitEmpty(absl::Time deadline) const;
  // No connection is added from now on.
  void Close();

 private:
  mutable absl::Mutex mutex_;
  mutable SteadyCondVar fewer_;  // connections
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  // Weak: the pending operations of a connection own it.
  absl::flat_hash_map<HttpConnection*, std::weak_ptr<HttpConnection>> connections_
      ABSL_GUARDED_BY(mutex_);
};

}  // namespace shoal
