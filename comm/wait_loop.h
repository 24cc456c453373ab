// SPDX-License-Identifier: Apache-2.0
// How a rank waits: a short bounded spin, then sleep on a doorbell. Ranks often share cores with
// the very peers they wait for, so a spin longer than a wake-up costs more than it saves, and none
// is worth it when there are more ranks than cores.
#pragma once

#include <algorithm>

#include "absl/time/time.h"
#include "comm/carrier.h"
#include "comm/doorbell.h"
#include "comm/peer_board.h"
#include "engine/base/steady_clock.h"

namespace shoal {

enum class WaitEnd { kReady, kStopped, kDeadline };

// Turns of CpuRelax that a rank of a `world` on this host may spend before it sleeps.
int SpinTurns(int world);

// A doorbell may miss what nobody rings for (a peer killed between publishing and ringing): look
// again at least so often.
inline constexpr absl::Duration kLookAgain = absl::Milliseconds(50);

// Returns when ready() holds; when not, and the board is stopped, hopeless() holds or `deadline`
// has passed, says which. ready() is called again after every ring of `bell`, hopeless() only
// before it idles.
template <typename Ready, typename Hopeless>
WaitEnd WaitUntil(Carrier& carrier, Doorbell& bell, int spin_turns, absl::Time deadline,
                  const PeerBoard& board, Ready ready, Hopeless hopeless) {
  for (int turn = 0; turn < spin_turns; ++turn) {
    if (ready()) return WaitEnd::kReady;
    CpuRelax();
  }
  while (true) {
    const uint32_t heard = bell.Listen();
    if (ready()) return WaitEnd::kReady;
    if (board.stopped() || hopeless()) return WaitEnd::kStopped;
    const absl::Duration left = deadline - SteadyNow();
    if (left <= absl::ZeroDuration()) return WaitEnd::kDeadline;
    carrier.Idle(bell, heard, std::min(left, kLookAgain));
  }
}

}  // namespace shoal
