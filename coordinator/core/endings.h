// SPDX-License-Identifier: Apache-2.0
// How choices and requests come to their end, and what becomes of them when the unit fails.
#pragma once

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

// Ends requests whose deadline has passed.
void ExpireDeadlines(ServingState& state, absl::Time now, std::vector<Command>& commands);

// The unit stopped in the middle: no step in flight will be committed. Requests with a sequence in
// a batch end with `why`, or go back to the front of the queue if the config says so; all others
// wait. Cache contents of committed steps are kept for workers that stay.
void Interrupt(ServingState& state, const absl::Status& why, absl::Time now,
               std::vector<Command>& commands);

// While draining: ends what can never run, and says once when nothing is left.
void ContinueDrain(ServingState& state, absl::Time now, std::vector<Command>& commands);

}  // namespace shoal
