// SPDX-License-Identifier: Apache-2.0
// See http_connection_set_internal.h.
#include <utility>

#include "coordinator/api/http_connection_internal.h"

namespace shoal {

bool HttpConnectionSet::Add(const std::shared_ptr<HttpConnection>& connection, size_t limit) {
  absl::MutexLock lock(&mutex_);
  if (closed_ || connections_.size() >= limit) return false;
  connections_.emplace(connection.get(), connection);
  return true;
}

void HttpConnectionSet::Remove(HttpConnection* connection) {
  absl::MutexLock lock(&mutex_);
  connections_.erase(connection);
  fewer_.NotifyAll();
}

std::vector<std::shared_ptr<HttpConnection>> HttpConnectionSet::All() const {
  std::vector<std::shared_ptr<HttpConnection>> all;
  absl::MutexLock lock(&mutex_);
  for (const auto& [pointer, weak] : connections_) {
    if (auto connection = weak.lock()) all.push_back(std::move(connection));
  }
  return all;
}

size_t HttpConnectionSet::size() const {
  absl::MutexLock lock(&mutex_);
  return connections_.size();
}

bool HttpConnectionSet::WaitEmpty(absl::Time deadline) const {
  const auto empty = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return connections_.empty(); };
  absl::MutexLock lock(&mutex_);
  return fewer_.WaitUntil(mutex_, deadline, empty);
}

void HttpConnectionSet::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

}  // namespace shoal
