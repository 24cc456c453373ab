// SPDX-License-Identifier: Apache-2.0
// How choices and requests come to their end.
#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "coordinator/core/events.h"
#include "coordinator/core/serving_state.h"

namespace shoal {

// An emission of the sequence's next tokens, filled but for them; the first one tells of the
// prompt.
Emit BeginEmission(Sequence& sequence);

// Frees all that the choice holds; the caller has emitted its end. With the last choice the request
// is gone, and references to either with it.
void EndChoice(ServingState& state, Sequence& sequence, absl::Time now);

// Ends all choices that are left: kCancelled, or kError with `why`. A request of which nothing was
// said is Rejected instead if `why` is not OK. It is gone afterwards.
void EndRequest(ServingState& state, RequestId id, const absl::Status& why, absl::Time now,
                std::vector<Command>& commands);

// The client does not want the choice (or any of them) any more. Unknown ones are ignored.
void Cancel(ServingState& state, const RequestCancelled& event, absl::Time now,
            std::vector<Command>& commands);

// Ends requests whose deadline has passed; the error says if the unit was `paused`, and why, and
// how many workers died while they ran it.
void ExpireDeadlines(ServingState& state, const std::string& paused, absl::Time now,
                     std::vector<Command>& commands);

// While draining: says once when nothing is left. A unit that is paused may yet go on, within the time
// that the drain has; one that was never formed is not waited for.
void ContinueDrain(ServingState& state, absl::Time now, std::vector<Command>& commands);

}  // namespace shoal
