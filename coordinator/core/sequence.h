// SPDX-License-Identifier: Apache-2.0
// A live request and its sequences (one per choice) as the core sees them: what is known, what is
// planned, where it runs. Plain state; the functions that change it are in the other files.
#pragma once

#include <algorithm>
#include <array>
#include <compare>
#include <cstdint>
#include <vector>

#include "absl/time/time.h"
#include "coordinator/core/fair_share.h"
#include "coordinator/core/prefix_cache.h"
#include "coordinator/core/request.h"
#include "engine/base/ids.h"

namespace shoal {

struct LiveRequest;

// The smaller goes first and yields last. Unique among live sequences.
struct Seniority {
  int32_t priority = 0;
  int64_t arrival = 0;
  int32_t choice = 0;
  friend auto operator<=>(const Seniority&, const Seniority&) = default;
};

// One stay of a sequence in a rank's batch: begins with NewSequence, ends with `forget`. After a
// preemption the sequence comes back with another stay, under another id. A stay outlives an epoch if
// its worker does and its first step is committed.
struct Stay {
  SequenceId id;
  RankId rank;
  StepId entered;               // the step that brings the NewSequence
  int32_t planned_rows = 0;     // rows [0, planned_rows) are cached, computed or in a plan sent
  bool decoding = false;        // a row that samples is planned: the worker goes on by itself
  std::vector<BlockId> blocks;  // the block table; one reference each
  int32_t told_blocks = 0;      // blocks at its front that plans have named
  int32_t indexed_blocks = 0;   // full blocks at its front known to the prefix cache
  PrefixCache::Serial parent = PrefixCache::kRoot;  // node of the last of them; kNone: gave up

  // What the stay was before a step changed it in ways that known tokens do not tell: to go back to
  // when that step is void. Of the last two steps that did, which all steps in flight are among.
  struct Mark {
    StepId step;  // 0: none
    int32_t planned_rows = 0;
    int32_t indexed_blocks = 0;
    PrefixCache::Serial parent = PrefixCache::kRoot;
  };
  std::array<Mark, 2> marks;

  // To be called before prefill rows are planned with `step`, or blocks indexed that are valid after it.
  void MarkBefore(StepId step) {
    if (marks[0].step == step || marks[1].step == step) return;
    Mark& older = marks[0].step < marks[1].step ? marks[0] : marks[1];
    older = Mark{step, planned_rows, indexed_blocks, parent};
  }
};

struct Sequence {
  enum class State : uint8_t {
    kHeld,        // a further choice, until choice 0 has the prompt's full blocks planned
    kWaiting,     // in the waiting queue
    kRunning,     // in a rank's batch
    kLeaving,     // left the batch with its last row planned; its last results are in flight
    kSetAside,    // fits into no rank present; waits outside the queue for another epoch
    kBackingOff,  // workers died that ran it; waits outside the queue until it is tried again
    kEnded,       // finished, cancelled or failed
  };

  LiveRequest* request = nullptr;
  Seniority seniority;
  int32_t prompt_tokens = 0;
  // Rows that the whole sequence needs: the last token generated is never fed. Without tokens to
  // generate, the last prompt token is not either.
  int32_t total_rows = 0;
  bool wants_logprobs = false;  // of the tokens sampled
  bool wants_prompt_logprobs = false;
  State state = State::kHeld;
  bool resumed = false;            // was in a batch before: goes to the front of the queue
  bool emitted = false;            // the first emission is out
  int32_t deaths = 0;              // of workers that ran it, since its last progress
  int32_t most_rows = 0;           // committed ones that a worker had when it died, of all deaths
  Epoch interrupted;               // whose end took it out of its batch last
  absl::Time backoff_ends;         // while kBackingOff
  int32_t results_in_flight = 0;   // steps in flight that report anything of this sequence
  RankId last_rank;                // of the last stay: all results in flight are that rank's
  std::vector<int32_t> generated;  // committed tokens
  std::vector<TokenLogprobs> prompt_logprobs;  // committed: of prompt tokens 1, 2, ...
  std::vector<uint64_t> block_hashes;  // of the full blocks of known tokens, computed lazily
  Stay stay;

  int32_t choice() const { return seniority.choice; }
  // Prompt and committed tokens.
  int32_t known_tokens() const { return prompt_tokens + static_cast<int32_t>(generated.size()); }
  // The known tokens [begin, end).
  inline void CopyTokens(int32_t begin, int32_t end, std::vector<int32_t>& out) const;
};

struct LiveRequest {
  Request request;
  FairShare::User* user = nullptr;
  std::vector<Sequence> choices;     // never resized: sequences are pointed to
  int32_t unfinished = 0;            // choices not ended
  bool started = false;              // a choice has been in a batch
  int32_t cached_prompt_tokens = 0;  // found by the choice that was first in a batch
  absl::Time arrived;
  absl::Duration queued;  // from then until a choice was first in a batch
};

void Sequence::CopyTokens(int32_t begin, int32_t end, std::vector<int32_t>& out) const {
  const std::vector<int32_t>& prompt = request->request.prompt;
  const int32_t length = prompt_tokens;
  out.clear();
  if (begin < length) {
    out.insert(out.end(), prompt.begin() + begin, prompt.begin() + std::min(end, length));
  }
  if (end > length) {
    out.insert(out.end(), generated.begin() + std::max(begin - length, 0),
               generated.begin() + (end - length));
  }
}

}  // namespace shoal
