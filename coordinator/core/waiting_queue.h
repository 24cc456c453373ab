// SPDX-License-Identifier: Apache-2.0
// Sequences that wait for a place in a batch, and whose turn it is: lower priority numbers first;
// then sequences that were in a batch before, oldest first; then the user who was served least,
// oldest request first. Bounded by the bound on requests.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>

#include "coordinator/core/sequence.h"

namespace shoal {

class WaitingQueue {
 public:
  // The sequence's seniority, user and `resumed` must not change while it is here.
  void Push(Sequence& sequence);
  void Remove(Sequence& sequence);
  // Whose turn it is; null when nobody waits.
  Sequence* Front() const;
  size_t size() const { return size_; }

  // Calls visit(Sequence&) for each, in no order that means anything but always the same one.
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [priority, level] : levels_) {
      for (const auto& [seniority, sequence] : level.resumed) visit(*sequence);
      for (const auto& [user, line] : level.by_user) {
        for (const auto& [seniority, sequence] : line) visit(*sequence);
      }
    }
  }

 private:
  using Line = std::map<Seniority, Sequence*>;
  struct Level {
    Line resumed;
    std::map<int64_t, Line> by_user;  // by FairShare::User::serial; no empty lines
  };

  std::map<int32_t, Level> levels_;  // by priority; no empty levels
  size_t size_ = 0;
};

}  // namespace shoal
