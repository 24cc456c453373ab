// SPDX-License-Identifier: Apache-2.0
// The sending end towards one peer, as LaneExchange uses it: two slots a phase to fill in place. A
// LaneWriter hands a filled slot to the peer by shared memory, a RowSender by a gRPC stream.
#pragma once

#include <cstddef>

#include "absl/types/span.h"
#include "comm/doorbell.h"
#include "comm/message_header.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

// One thread at a time, but for bell().
class Outlet {
 public:
  virtual ~Outlet() = default;

  // What was sent before belongs to another epoch: nothing of it needs to arrive any more.
  virtual void InstallEpoch(Epoch epoch) = 0;
  // Tells the peer that this end leaves in good order. Nothing is sent after it.
  virtual void Close() = 0;

  // Whether the next slot of `phase` may be filled now.
  virtual bool CanWrite(ExchangePhase phase) const = 0;
  // The rows of the next slot, 64-byte aligned. Only while CanWrite.
  virtual absl::Span<std::byte> Rows(ExchangePhase phase) const = 0;
  // Puts `header` before the rows and sends the slot. Only while CanWrite. Never blocks.
  virtual void Publish(const MessageHeader& header) = 0;

  // Whether all that was published in `phase` will arrive without another call of ours.
  virtual bool Sent(ExchangePhase) const { return true; }

  // What is known of the receiver: its epoch, and whether it has left.
  virtual Epoch reader_epoch() const = 0;
  virtual bool reader_closed() const = 0;
  // Bytes sent in `phase` that are not known to be taken.
  virtual size_t outstanding_bytes(ExchangePhase phase) const = 0;
  // Rung when any of the answers above may have changed.
  virtual Doorbell& bell() const = 0;
};

}  // namespace shoal
