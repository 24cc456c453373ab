// SPDX-License-Identifier: Apache-2.0
// Fairness between users: each has a counter of tokens served, and among equals the user with the
// lowest one goes next. The virtual token counter of "Fairness in Serving Large Language Models"
// (arXiv:2401.00588), with weight 1 for prompt and generated tokens.
#pragma once

#include <cstdint>
#include <map>
#include <string>

namespace shoal {

class FairShare {
 public:
  struct User {
    int64_t serial = 0;  // order of first appearance; settles ties
    int64_t served = 0;  // tokens
    int64_t live = 0;    // requests not ended
  };

  // A request of this user begins; the reference is good until its Leave. A user who was away does
  // not bring back credit: the counter is lifted to the lowest one among users present.
  User& Join(const std::string& name);
  // A request of this user has ended. Counters of absent users are kept (else leaving would pay),
  // but only so many: the lowest are dropped first.
  void Leave(const std::string& name);

  static constexpr size_t kMaxAbsent = 1024;

 private:
  std::map<std::string, User> users_;
  size_t absent_ = 0;
  int64_t last_serial_ = 0;
};

}  // namespace shoal
