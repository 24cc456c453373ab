// SPDX-License-Identifier: Apache-2.0
// The engine's port to its peers: one all-to-all of byte messages, used twice per MoE layer
// (dispatch, combine).
//
// The engine declares it and decides what the bytes mean (parallel/expert_messages.h); comm
// implements it over shared memory, gRPC, MPI, NCCL or HCCL; `LocalExchange` is a world of one.
// An error that is about peers names them also for programs (blamed_peers.h).
// Every rank that is present in the epoch enters every exchange of a step in the same order, with
// zero-row messages when it has nothing to say.
//
// Ranks may be absent in an epoch: dead, or not back yet. The world keeps its size and its numbers;
// nothing goes to an absent rank and nothing comes from it, and a wait does not wait for it. It is
// the caller who sees to it that no row needs one: a placement of the epoch names present holders
// only.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"

namespace shoal {

enum class ExchangePhase : uint8_t { kDispatch = 0, kCombine = 1 };

absl::string_view ExchangePhaseName(ExchangePhase phase);  // "dispatch", "combine"

// Names one exchange. Travels with every message; a message of another epoch is never delivered.
struct ExchangeTag {
  Epoch epoch;
  StepId step;
  int32_t layer = 0;
  ExchangePhase phase = ExchangePhase::kDispatch;

  bool operator==(const ExchangeTag&) const = default;
  std::string ToString() const;  // "epoch 3 step 118 layer 5 dispatch"
};

// One rank's end. Thread-compatible: one thread calls Post/Wait; Cancel may come from any thread.
//
// Order of calls per exchange: fill SendBuffer(phase, p) for every peer p, Post, (compute), Wait,
// read the received spans, Release. Buffers are owned by the exchange, sized at construction, never
// allocated on this path; sent and received ones start at 64-byte aligned addresses.
class Exchange {
 public:
  virtual ~Exchange() = default;

  virtual RankId rank() const = 0;
  virtual int world_size() const = 0;
  // Largest message, in bytes, that may go to one peer in one phase. The same on all ranks.
  virtual size_t max_message_bytes() const = 0;
  // Whether `peer` takes part in the present epoch. Changes with the epoch only; this rank itself
  // always does.
  virtual bool Present(RankId) const { return true; }

  // Where to write the message for `peer` (possibly the receiver's memory itself: write once, in
  // order, do not read back). Includes peer == rank(): the loopback message. Valid until Post. May
  // wait for the peer to have released the buffer's previous use; a wait that passes `deadline`
  // returns an empty span and Post reports the error. The span for an absent peer is empty too, and
  // that is no error.
  virtual absl::Span<std::byte> SendBuffer(const ExchangeTag& tag, RankId peer,
                                           absl::Time deadline) = 0;

  // Sends bytes[p] bytes of SendBuffer(tag, p) to every present rank p (size world_size(); zero is
  // a message too; the entries of absent ranks are ignored). Never blocks on a peer. Errors:
  // Unavailable naming a peer that is known to be gone; Aborted for an old epoch.
  virtual absl::Status Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) = 0;

  // Waits until the message `tag` of every present rank has arrived; received[p] then views it
  // (valid until Release; empty for an absent rank).
  // Errors: DeadlineExceeded "epoch 3 step 118 layer 5 dispatch: rank 2 waits for ranks 1, 3 (bytes
  // outstanding ...)", Unavailable when a peer is gone, Aborted when cancelled or when the epoch
  // has passed.
  virtual absl::Status Wait(const ExchangeTag& tag, absl::Time deadline,
                            absl::Span<absl::Span<const std::byte>> received) = 0;
  // By rank: how long the last Wait lasted until that rank's message was there. Zero for what had
  // come before it began and for absent ranks; all of its time for what was missing when it failed.
  // Empty where nobody measures.
  virtual absl::Span<const absl::Duration> Waited() const { return {}; }

  // Gives the received buffers of `tag` back to their senders.
  virtual void Release(const ExchangeTag& tag) = 0;

  // Forgets everything in flight and starts a new epoch; older messages that still arrive are
  // dropped. Not concurrently with Post/Wait.
  virtual absl::Status InstallEpoch(Epoch epoch) = 0;
  // Makes a Wait or SendBuffer in progress, and every later one until InstallEpoch, return Aborted.
  // Any thread.
  virtual void Cancel() = 0;
};

}  // namespace shoal
