// SPDX-License-Identifier: Apache-2.0
// A lane carries messages from one rank to one other: two slots for each phase, in a block of
// memory that exactly one writer and one reader share, be they threads or processes. The writer
// fills a slot in place (the one copy) and publishes it; the reader views it in place and releases
// it. Counters and doorbells only: no lock, no allocation.
//
// Epochs fence both ends. Each end states its epoch; the writer writes only while both agree, and
// the reader looks only at what was published while both agreed. So a writer that is behind cannot
// disturb a reader that has moved on, and one that is ahead waits; counters start again from zero
// at each epoch. A writer that was replaced is left with memory nobody reads any more, because its
// successor gets a new lane.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "comm/doorbell.h"
#include "comm/message_header.h"
#include "comm/outlet.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

inline constexpr int kPhases = 2;
inline constexpr int kLaneSlots = 2;  // per phase: one being read, one being filled

// CLOCK_MONOTONIC: one clock for all processes of a host.
int64_t SteadyNanos();

// The control block at the start of a lane. Each end writes its own cache lines only.
struct LaneControl {
  struct alignas(64) End {
    std::atomic<int64_t> epoch{0};
    // Of this epoch, by phase. Writer: published; reader: released.
    std::array<std::atomic<uint64_t>, kPhases> count{};
    // Writer: which slot message 0 of this epoch lies in. 0 but where receives were posted ahead.
    std::array<std::atomic<uint64_t>, kPhases> first_slot{};
    // Writer: SteadyNanos() when the message in each slot was published. Comparable with the
    // reader's clock: whatever the transport, the writing end of a lane lives on the reader's host.
    std::array<std::array<std::atomic<int64_t>, kLaneSlots>, kPhases> published_ns{};
    std::atomic<uint32_t> closed{0};  // 1: has left in good order
  };
  End writer;
  End reader;
  alignas(64) Doorbell arrival;  // rung by the writer
  alignas(64) Doorbell release;  // rung by the reader
};

// A view of a lane's memory and a share in its ownership (two ranks of one process own a lane
// jointly, and two mappings of one segment do the same across processes: hence shared_ptr).
class Lane {
 public:
  Lane() = default;
  // `memory` has at least LaneBytes(max_message_bytes) bytes, is 64-byte aligned, and was zero when
  // it was made.
  Lane(std::shared_ptr<std::byte> memory, size_t max_message_bytes);

  // A lane in fresh private memory of this process, zero and not yet touched. Errors:
  // ResourceExhausted.
  static absl::StatusOr<Lane> Allocate(size_t max_message_bytes);
  // Errors: InvalidArgument when a lane of such messages would not fit the address space.
  static absl::StatusOr<size_t> Bytes(size_t max_message_bytes);

  explicit operator bool() const { return memory_ != nullptr; }
  LaneControl& control() const { return *reinterpret_cast<LaneControl*>(memory_.get()); }
  // kMessageHeaderBytes of header followed by max_message_bytes of rows.
  absl::Span<std::byte> Slot(ExchangePhase phase, uint64_t count) const;
  size_t max_message_bytes() const { return max_message_bytes_; }
  const std::shared_ptr<std::byte>& memory() const { return memory_; }

 private:
  std::shared_ptr<std::byte> memory_;
  size_t max_message_bytes_ = 0;
  size_t slot_stride_ = 0;
};

// The sending end.
class LaneWriter final : public Outlet {
 public:
  explicit LaneWriter(Lane lane) : lane_(std::move(lane)) {}

  void InstallEpoch(Epoch epoch) override;
  void Close() override;
  bool CanWrite(ExchangePhase phase) const override;
  absl::Span<std::byte> Rows(ExchangePhase phase) const override;
  void Publish(const MessageHeader& header) override;
  Epoch reader_epoch() const override {
    return Epoch(lane_.control().reader.epoch.load(std::memory_order_acquire));
  }
  bool reader_closed() const override {
    return lane_.control().reader.closed.load(std::memory_order_acquire) != 0;
  }
  // Published and not released.
  size_t outstanding_bytes(ExchangePhase phase) const override;
  Doorbell& bell() const override { return lane_.control().release; }

  Epoch epoch() const { return epoch_; }

 private:
  uint64_t Released(ExchangePhase phase) const;

  Lane lane_;
  Epoch epoch_;
  std::array<uint64_t, kPhases> published_{};
  std::array<std::array<size_t, kLaneSlots>, kPhases> lengths_{};
};

// The receiving end. One thread at a time.
class LaneReader {
 public:
  LaneReader() = default;
  explicit LaneReader(Lane lane) : lane_(std::move(lane)) {}

  explicit operator bool() const { return static_cast<bool>(lane_); }
  void InstallEpoch(Epoch epoch);
  void Close();

  // Whether message number `count` of `phase` in this epoch has arrived.
  bool Has(ExchangePhase phase, uint64_t count) const;
  // That message: its rows, with the header parsed and checked. Only when Has. Errors: those of
  // ParseMessageHeader and CheckMessage. The peer is not trusted: the header is read once, out of
  // shared memory.
  absl::StatusOr<absl::Span<const std::byte>> Read(uint64_t count, RankId source,
                                                   const ExchangeTag& want) const;
  // SteadyNanos() when message number `count` was published, as its writer says: not to be trusted.
  // Only when Has.
  int64_t PublishedNanos(ExchangePhase phase, uint64_t count) const;
  // Gives back every slot of `phase` below message number `count`.
  void Release(ExchangePhase phase, uint64_t count);

  Epoch writer_epoch() const {
    return Epoch(lane_.control().writer.epoch.load(std::memory_order_acquire));
  }
  bool writer_closed() const {
    return lane_.control().writer.closed.load(std::memory_order_acquire) != 0;
  }
  Doorbell& bell() const { return lane_.control().arrival; }

 private:
  Lane lane_;
  Epoch epoch_;
};

}  // namespace shoal
