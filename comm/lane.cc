// SPDX-License-Identifier: Apache-2.0
#include "comm/lane.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <limits>

#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

constexpr size_t kControlBytes = 4096;  // so that slots begin on a page
static_assert(sizeof(LaneControl) <= kControlBytes);
constexpr size_t kLargestMessage = std::numeric_limits<size_t>::max() / 64;

size_t SlotStride(size_t max_message_bytes) {
  return (kMessageHeaderBytes + max_message_bytes + 4095) / 4096 * 4096;
}

int Index(ExchangePhase phase) { return static_cast<int>(phase); }

// Both ends step alike: the count goes to zero before the epoch that it belongs to is shown. The
// far end reads the epoch first, so under an epoch it agrees with it can see only that epoch's
// counts.
void Install(LaneControl::End& end, Epoch epoch) {
  for (auto& count : end.count) count.store(0, std::memory_order_relaxed);
  end.epoch.store(epoch.value(), std::memory_order_release);
}

}  // namespace

int64_t SteadyNanos() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

Lane::Lane(std::shared_ptr<std::byte> memory, size_t max_message_bytes)
    : memory_(std::move(memory)),
      max_message_bytes_(max_message_bytes),
      slot_stride_(SlotStride(max_message_bytes)) {}

absl::StatusOr<size_t> Lane::Bytes(size_t max_message_bytes) {
  if (max_message_bytes > kLargestMessage) {
    return absl::InvalidArgumentError(
        absl::StrCat("messages of ", max_message_bytes, " bytes do not fit in memory"));
  }
  return kControlBytes + kPhases * kLaneSlots * SlotStride(max_message_bytes);
}

absl::StatusOr<Lane> Lane::Allocate(size_t max_message_bytes) {
  SHOAL_ASSIGN_OR_RETURN(const size_t bytes, Bytes(max_message_bytes));
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a lane of ", bytes, " bytes cannot be mapped: ", std::strerror(errno)));
  }
  madvise(memory, bytes, MADV_HUGEPAGE);  // a hint: large messages then fault in 2 MB at a time
  const auto unmap = [bytes](std::byte* mapped) { munmap(mapped, bytes); };
  return Lane(std::shared_ptr<std::byte>(static_cast<std::byte*>(memory), unmap),
              max_message_bytes);
}

absl::Span<std::byte> Lane::Slot(ExchangePhase phase, uint64_t count) const {
  const size_t index = Index(phase) * kLaneSlots + count % kLaneSlots;
  return {memory_.get() + kControlBytes + index * slot_stride_,
          kMessageHeaderBytes + max_message_bytes_};
}

void LaneWriter::InstallEpoch(Epoch epoch) {
  epoch_ = epoch;
  published_ = {};
  lengths_ = {};
  Install(lane_.control().writer, epoch);
  lane_.control().arrival.Ring();
}

void LaneWriter::Close() {
  lane_.control().writer.closed.store(1, std::memory_order_release);
  lane_.control().arrival.Ring();
}

uint64_t LaneWriter::Released(ExchangePhase phase) const {
  return lane_.control().reader.count[Index(phase)].load(std::memory_order_acquire);
}

bool LaneWriter::CanWrite(ExchangePhase phase) const {
  // A reader that lies about its count can only spoil its own messages: the slots are its own
  // memory.
  return reader_epoch() == epoch_ && !reader_closed() &&
         published_[Index(phase)] - Released(phase) < kLaneSlots;
}

absl::Span<std::byte> LaneWriter::Rows(ExchangePhase phase) const {
  return lane_.Slot(phase, published_[Index(phase)]).subspan(kMessageHeaderBytes);
}

void LaneWriter::Publish(const MessageHeader& header) {
  const ExchangePhase phase = header.tag.phase;
  uint64_t& published = published_[Index(phase)];
  SHOAL_DCHECK(header.length <= lane_.max_message_bytes());
  WriteMessageHeader(header, lane_.Slot(phase, published));
  lengths_[Index(phase)][published % kLaneSlots] = header.length;
  lane_.control().writer.published_ns[Index(phase)][published % kLaneSlots].store(
      SteadyNanos(), std::memory_order_relaxed);
  ++published;
  lane_.control().writer.count[Index(phase)].store(published, std::memory_order_release);
  lane_.control().arrival.Ring();
}

size_t LaneWriter::outstanding_bytes(ExchangePhase phase) const {
  const uint64_t published = published_[Index(phase)];
  const uint64_t released = reader_epoch() == epoch_ ? Released(phase) : 0;
  size_t bytes = 0;
  for (uint64_t back = 1; back <= kLaneSlots && back <= published && published - back >= released;
       ++back) {
    bytes += lengths_[Index(phase)][(published - back) % kLaneSlots];
  }
  return bytes;
}

void LaneReader::InstallEpoch(Epoch epoch) {
  epoch_ = epoch;
  Install(lane_.control().reader, epoch);
  lane_.control().release.Ring();
}

void LaneReader::Close() {
  lane_.control().reader.closed.store(1, std::memory_order_release);
  lane_.control().release.Ring();
}

bool LaneReader::Has(ExchangePhase phase, uint64_t count) const {
  return writer_epoch() == epoch_ &&
         lane_.control().writer.count[Index(phase)].load(std::memory_order_acquire) > count;
}

absl::StatusOr<absl::Span<const std::byte>> LaneReader::Read(uint64_t count, RankId source,
                                                             const ExchangeTag& want) const {
  const uint64_t first =
      lane_.control().writer.first_slot[Index(want.phase)].load(std::memory_order_relaxed);
  const absl::Span<const std::byte> slot = lane_.Slot(want.phase, first + count);
  SHOAL_ASSIGN_OR_RETURN(const MessageHeader header,
                         ParseMessageHeader(slot, lane_.max_message_bytes()));
  SHOAL_RETURN_IF_ERROR(CheckMessage(header, source, want));
  return slot.subspan(kMessageHeaderBytes, header.length);
}

int64_t LaneReader::PublishedNanos(ExchangePhase phase, uint64_t count) const {
  const LaneControl::End& writer = lane_.control().writer;
  const uint64_t first = writer.first_slot[Index(phase)].load(std::memory_order_relaxed);
  return writer.published_ns[Index(phase)][(first + count) % kLaneSlots].load(
      std::memory_order_relaxed);
}

void LaneReader::Release(ExchangePhase phase, uint64_t count) {
  lane_.control().reader.count[Index(phase)].store(count, std::memory_order_release);
  lane_.control().release.Ring();
}

}  // namespace shoal
