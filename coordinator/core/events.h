// SPDX-License-Identifier: Apache-2.0
// Everything the core can be told and everything it can ask for. Plain values: the core's whole language, written to
// transcripts and (later) to the journal as they are.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/core/request.h"
#include "engine/base/ids.h"
#include "engine/config/expert_placement.h"
#include "engine/config/sampling_params.h"

namespace shoal {

// A worker process as the link knows it: one connection. A restarted worker is another one.
using WorkerId = StrongId<struct WorkerTag, int64_t>;

// --- What a rank must do in one step ----------------------------------------------------------------------------------

// A sequence that enters a rank's batch with this plan: everything the worker must know of it. After a preemption or a
// replay `tokens` holds prompt and committed tokens; `prompt_tokens` tells them apart (penalties, min_tokens). The id
// names one stay in a batch: a sequence that comes back has another one. Ids grow.
struct NewSequence {
  SequenceId id;
  std::vector<int32_t> tokens;
  int32_t prompt_tokens = 0;
  SamplingParams sampling;
};

// Rows of one sequence in this step: tokens [start, start + count). A decode row (count 1 at the end of what is known)
// feeds the token sampled for this sequence in the step before, which only the worker knows yet. The first work of a
// sequence may start behind rows that the prefix cache has; its `new_blocks` begin with the blocks that hold them.
struct SequenceWork {
  SequenceId id;
  int32_t start = 0;
  int32_t count = 0;
  bool sample = false;                  // the last row's logits give the next token
  bool prompt_logprobs = false;         // the rows' logits also give the log-probabilities of the prompt tokens that
                                        // follow them: [start + 1, min(start + count, prompt_tokens - 1)], inclusive
  std::vector<BlockId> new_blocks;      // appended to the sequence's block table before the step
};

// A sequence that outlived the epoch before in the rank's worker. The worker keeps its state and goes
// on from what committed steps made of it: its tokens are cut to the first `tokens` (prompt and
// committed ones; with them penalties and all else that depends on what was sampled), its cached rows
// to the first `rows`, its block table to the blocks that hold those, ceil(rows / block_tokens), and it
// is not in the decode set. All of this the worker has: a sequence is named only if the step that
// brought it is committed, and rows and tokens are those of committed steps. What interrupted steps
// sampled or appended beyond is forgotten. Work for it in this or a later plan starts at `rows` and
// brings the next blocks.
struct Rewind {
  SequenceId id;
  int32_t tokens = 0;
  int32_t rows = 0;
};

// The plan of one step for one rank: a delta. The decode set is the sequences that go on by one row each; the worker
// keeps it from step to step, and `work`, `stop_decode` and `forget` change it. A sequence whose work has
// sample = true joins the decode set from the next step on by itself, so steady decode sends an empty plan. Work for a
// sequence of the decode set stands for its decode row of this step. To be applied in this order: rewind, forget,
// stop_decode, new_sequences, work: a block may go from a forgotten sequence to another one in the same plan.
// The first plan after an AssignRank names in `rewind` all sequences that live on in this worker; every other one is
// forgotten before anything else of the plan is applied, also when `rewind` is empty. Later plans have none.
// Rows of all sequences are at most CoreConfig::max_batch_rows, rows whose logits are wanted at most
// CoreConfig::max_running_sequences.
struct RankPlan {
  std::vector<Rewind> rewind;                 // ascending id
  std::vector<NewSequence> new_sequences;
  std::vector<SequenceWork> work;             // prefill chunks, and decode rows that need new blocks
  std::vector<SequenceId> stop_decode;        // leave the decode set, keep the state
  std::vector<SequenceId> forget;             // leave the batch for good
};

struct StepPlan {
  Epoch epoch;
  StepId step;
  absl::Duration timeout;  // of the whole step on the worker
  RankPlan plan;
};

// One sampled token. A StepDone has one for every row that samples, best by ascending sequence.
struct SampledToken {
  SequenceId sequence;
  int32_t position = 0;  // of this token in the sequence: prompt tokens + tokens generated before it
  int32_t token = 0;
  std::optional<TokenLogprobs> logprobs;
};
// Log-probabilities of prompt tokens [position, position + logprobs.size()); the first token of a prompt has none. A
// StepDone has one for every work that asked, with all of its tokens.
struct PromptLogprobs {
  SequenceId sequence;
  int32_t position = 0;
  std::vector<TokenLogprobs> logprobs;
};
// A sequence that cannot go on while all others can: its logits are no numbers. What the step reports of it besides is
// meaningless.
struct SequenceFailure {
  SequenceId sequence;
  std::string why;
};

// --- Events -----------------------------------------------------------------------------------------------------------

struct RequestArrived {
  Request request;
};
// The client went away, or the API found a stop string (kStop): the choice (or all of them) ends now. Answered by a last
// Emit with kCancelled for each choice that had not ended.
struct RequestCancelled {
  RequestId id;
  std::optional<int32_t> choice;
};
// A worker dialled in and said what it is. The link has already refused other builds, models and numerics.
struct WorkerJoined {
  WorkerId worker;
  std::string host;
  int64_t pid = 0;
  int64_t cache_blocks = 0;
  // A returning worker hopes for the rank whose experts it still has; it gets another one, or waits as
  // a standby, if that one is taken.
  std::optional<RankId> wanted_rank;
  bool rank_fixed = false;      // by the transport (MPI): this rank or none. Taken: evicted
  Epoch last_epoch = Epoch(0);  // the latest it took part in, under whichever coordinator; the next one announced is later
  uint64_t boot_nonce = 0;      // of its process and no other, whoever comes from the same host with the same pid; 0: unknown
};
// It has loaded its experts and connected its exchange, with all members, for the epoch it was assigned. Other epochs
// than the present one are ignored.
struct WorkerReady {
  WorkerId worker;
  Epoch epoch;
};
// Instead of WorkerReady: it could not connect to these ranks. None: the fault is its own. Ignored like WorkerReady.
struct ConnectFailed {
  WorkerId worker;
  Epoch epoch;
  absl::Status why;
  std::vector<RankId> unreached;
};
// Connection closed, heartbeats missed, or the worker said it cannot go on.
struct WorkerLost {
  WorkerId worker;
  std::string why;
};
// The answer to LoadExperts: it holds the experts named there, and can enter the unit with the next epoch. Ignored from
// a worker that was not asked, and the second time.
struct WorkerLoaded {
  WorkerId worker;
};
struct StepDone {
  WorkerId worker;
  Epoch epoch;
  StepId step;
  absl::Status status;  // not OK: nothing was committed, and the epoch ends. DeadlineExceeded, Unavailable, Aborted
                        // and Cancelled speak of peers; after any other code the worker itself is evicted.
                        // Reports of an epoch that is over count as a sign of life and nothing else
  // The peers that a failure is about, as they were sent. None: about itself, or nobody.
  std::vector<RankId> blamed;
  std::vector<SampledToken> tokens;
  std::vector<PromptLogprobs> prompt_logprobs;
  std::vector<SequenceFailure> failures;
  absl::Duration busy;         // computing
  absl::Duration waiting;      // in exchanges
  // By source rank: how long this rank waited for it in this step, over all layers, in dispatches and in combines.
  // Empty, or one of each per rank of the world (zero for itself and for absent ranks); anything else is ignored.
  std::vector<absl::Duration> waiting_dispatch;
  std::vector<absl::Duration> waiting_combine;
};
// How many rows a worker has routed to each expert since it last said so: by layer as CoreConfig::n_routed_experts. Of
// another shape, or from a worker that has not joined, ignored.
struct ExpertTokens {
  WorkerId worker;
  std::vector<std::vector<int64_t>> layers;
};
struct Heartbeat {
  WorkerId worker;
};
// Time has passed: deadlines, heartbeats. A worker is lost when it is found silent for the heartbeat timeout at two Ticks
// in a row, so that a coordinator that stood still does not blame its workers. Best every 50 ms or so.
struct Tick {};
struct DrainStarted {};  // SIGTERM: finish what runs, refuse what comes

using Event = std::variant<RequestArrived, RequestCancelled, WorkerJoined, WorkerLoaded, WorkerReady, ConnectFailed, WorkerLost,
                           StepDone, ExpertTokens, Heartbeat, Tick, DrainStarted>;

// --- Commands ---------------------------------------------------------------------------------------------------------

// By rank; none: nobody holds the rank in this epoch.
using UnitMembers = std::vector<std::optional<WorkerId>>;

// A new epoch, and the worker is a member of it: connect to the other members, answer WorkerReady. Plans of older epochs
// are void, also those not begun; a step in progress is abandoned. Sequences stay until the epoch's first plan tells
// which of them live on (RankPlan::rewind); cache blocks keep their contents. A worker keeps its rank for life.
// The first epoch of all has every rank, and its members load the experts that `placement` gives them before they
// answer. Later ones have only members that hold their experts already: what a rank holds never changes, absent ranks
// are only missing from `placement`, so that nothing goes to them.
struct AssignRank {
  WorkerId worker;
  Epoch epoch;
  RankId rank;
  std::shared_ptr<const ExpertPlacement> placement;   // the full one; this epoch's lacks the absent ranks. Shared: immutable
  std::shared_ptr<const UnitMembers> members;         // one for all members of the epoch. Immutable
};
// Take this rank, and load in the background what the full `placement` gives it; the unit serves without it meanwhile.
// Answered by WorkerLoaded, at once if it has them already (same rank, same placement). The worker is in no epoch: it
// connects to nobody until an AssignRank follows.
struct LoadExperts {
  WorkerId worker;
  RankId rank;
  std::shared_ptr<const ExpertPlacement> placement;
};
struct SendPlan {
  WorkerId worker;
  StepPlan plan;
};
// Close the connection; the worker may dial in anew.
struct EvictWorker {
  WorkerId worker;
  absl::Status why;
};
// Tokens of one choice, in order, never repeated, never skipped. With `finish` != kNone it is the last for the choice.
// An end token (SamplingParams::end_token_ids) gives kStop and is not among the tokens, nor its logprobs.
struct Emit {
  RequestId request;
  int32_t choice = 0;
  int32_t first_index = 0;  // index of tokens[0] among the choice's generated tokens
  std::vector<int32_t> tokens;
  std::vector<TokenLogprobs> logprobs;         // empty or one per token
  std::vector<TokenLogprobs> prompt_logprobs;  // with the first emission, if asked for: for prompt tokens 1..
  int32_t cached_prompt_tokens = 0;            // with the first emission; the same for all choices
  FinishReason finish = FinishReason::kNone;
  absl::Status error;                          // with kError
  absl::Duration queued = absl::ZeroDuration();  // with the first emission: from arrival to the first planned chunk
};
// The request never ran: ResourceExhausted (queue full; 429), Unavailable (503), InvalidArgument (400),
// DeadlineExceeded (504). Nothing else is said of it.
struct Reject {
  RequestId request;
  absl::Status why;
  absl::Duration retry_after = absl::ZeroDuration();
};
struct Drained {};  // after DrainStarted, once: nothing waits or runs any more

using Command = std::variant<AssignRank, LoadExperts, SendPlan, EvictWorker, Emit, Reject, Drained>;

}  // namespace shoal
