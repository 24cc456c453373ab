// SPDX-License-Identifier: Apache-2.0
// One that others cannot reach, or that cannot reach them, is out of the epochs for a while: a try
// to let it in costs all others a pause, so each leave soon after another is three times as long.
#pragma once

#include <cstdint>
#include <map>

#include "absl/time/time.h"

namespace shoal {

class Leave {
 public:
  bool ongoing() const { return ongoing_; }
  // Out, and may be tried again by now.
  bool Over(absl::Time now) const { return ongoing_ && now >= ends_; }
  // It was out, and not long ago.
  bool IsRecent(absl::Time now) const;

  // What is left of one that was broken off goes on: it has not had its try.
  void Begin(int world_size, absl::Time now);
  // Out until then, whoever can be reached.
  void BeginRest(absl::Time ends);
  void End() { ongoing_ = false; }

 private:
  bool ongoing_ = false;
  absl::Time ends_;  // or would have
  absl::Duration length_;
};

// What is remembered of processes that come and go. Who was left out and dials in again is not
// tried sooner for it; who is lost, comes again and is soon lost again may enter after a second,
// twice as long each further time.
class Absences {
 public:
  // boot_nonce: 0 is nobody to remember. served: it had loaded its experts.
  void Begin(uint64_t boot_nonce, const Leave& leave, bool served, absl::Time now);
  // It is here again: the leave with which it comes.
  Leave End(uint64_t boot_nonce, absl::Time now);

 private:
  struct Absence {
    Leave leave;
    int losses = 0;  // in a row
    absl::Time rest_ends = absl::InfinitePast();
  };
  // Nothing of it matters any more.
  static bool IsForgotten(const Absence& absence, absl::Time now);

  std::map<uint64_t, Absence> absences_;  // by boot_nonce
};

}  // namespace shoal
