// SPDX-License-Identifier: Apache-2.0
// One fault that lasts a minute, in a unit that lacks nothing else and always has something to
// compute: as long as enough workers are there and reach each other, tokens must come.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shoal::sim {

enum class Outage : uint8_t {
  kLinkCut,     // between two workers, and both notice
  kLinkSilent,  // nobody notices
  kLinkOneWay,
  kTwoLinksCut,   // loudly or silently
  kLinkSwallows,  // two connect, time and again, and then hear nothing of each other
  kPortRefuses,   // nobody reaches one worker, and hears that
  kPortSilent,
  kNewcomerUnreached,    // a worker dies, and nobody reaches the one that takes its place
  kEngineHangs,          // for ever, behind a heart that beats; another one comes
  kLoneEngineHangs,      // of a unit of one; another one stands by
  kNeededLinkSwallows,  // with one holder of each expert; another worker stands by
  kNeededEngineHangs,    // with one holder of each expert, until another one comes
  kProcessStops,         // its heart too
  kProcessesStopInTurn,  // two of them, for half a second each, of three holders
  kNeededLinkCut,        // with one holder of each expert: requests must wait, and none may fail
};
inline constexpr int kOutages = 15;
absl::string_view OutageName(Outage outage);

// What was wrong; empty: nothing. Equal seeds give equal worlds. `trace`, if not null: what
// happened.
std::string RunOutage(uint64_t seed, Outage outage, std::vector<std::string>* trace = nullptr);

}  // namespace shoal::sim
