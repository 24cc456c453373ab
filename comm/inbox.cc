// SPDX-License-Identifier: Apache-2.0
#include "comm/inbox.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "comm/exchange_errors.h"
#include "comm/wait_loop.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/parallel/blamed_peers.h"

namespace shoal {

Inbox::Inbox(RankId rank, int world, const PeerBoard& board, Carrier& carrier)
    : rank_(rank),
      spin_turns_(SpinTurns(world)),
      board_(board),
      carrier_(carrier),
      readers_(world),
      present_(world),
      waited_(world) {}

void Inbox::InstallEpoch(Epoch epoch, const std::vector<bool>& present) {
  epoch_ = epoch;
  present_ = present;
  phases_ = {};
  for (LaneReader& reader : readers_) {
    if (reader) reader.InstallEpoch(epoch);
  }
}

template <typename Visit>
void Inbox::ForEachPresent(Visit visit) const {
  for (size_t rank = 0; rank < readers_.size(); ++rank) {
    if (present_[rank]) visit(rank, readers_[rank]);
  }
}

// Whether some message of this exchange will never come: its sender has left, or has gone on to a
// later epoch.
bool Inbox::Hopeless(const ExchangeTag& tag, uint64_t count) const {
  bool hopeless = false;
  ForEachPresent([&](size_t, const LaneReader& reader) {
    const bool ended = reader.writer_closed() || reader.writer_epoch() > tag.epoch;
    // In this order: what was published before the end counts.
    hopeless = hopeless || (ended && !reader.Has(tag.phase, count));
  });
  return hopeless;
}

absl::Status Inbox::Wait(const ExchangeTag& tag, absl::Time deadline,
                         absl::Span<absl::Span<const std::byte>> received,
                         absl::FunctionRef<size_t(RankId)> outstanding) {
  SHOAL_CHECK(received.size() == readers_.size());
  std::fill(waited_.begin(), waited_.end(), absl::ZeroDuration());
  if (tag.epoch != epoch_) return EpochError(tag, rank_, epoch_, "it");
  if (board_.cancelled()) return InExchange(tag, rank_, board_.status());
  const int64_t begin_ns = SteadyNanos();
  const uint64_t count = phases_[static_cast<int>(tag.phase)].waited;
  absl::Status status = Collect(tag, deadline, received, outstanding);
  NoteWaits(tag.phase, count, begin_ns);
  return status;
}

absl::Status Inbox::Collect(const ExchangeTag& tag, absl::Time deadline,
                            absl::Span<absl::Span<const std::byte>> received,
                            absl::FunctionRef<size_t(RankId)> outstanding) {
  Phase& phase = phases_[static_cast<int>(tag.phase)];
  const uint64_t count = phase.waited;
  SHOAL_CHECK(count - phase.released < kLaneSlots);  // the caller forgot a Release
  const int world = static_cast<int>(readers_.size());
  // First the rank after us: it posts to us last (see Post), so when its message is here the others
  // most likely are, and we slept once.
  for (int i = 1; i <= world; ++i) {
    const int peer = (rank_.value() + i) % world;
    received[peer] = {};
    if (!present_[peer]) continue;
    const LaneReader& reader = readers_[peer];
    const WaitEnd end = WaitUntil(
        carrier_, reader.bell(), spin_turns_, deadline, board_,
        [&] { return reader.Has(tag.phase, count); }, [&] { return Hopeless(tag, count); });
    if (end != WaitEnd::kReady) SHOAL_RETURN_IF_ERROR(WhyMissing(tag, count, outstanding));
    absl::StatusOr<absl::Span<const std::byte>> message = reader.Read(count, RankId(peer), tag);
    if (!message.ok()) return BadMessage(tag, rank_, RankId(peer), message.status());
    received[peer] = *message;
  }
  phase.held[count % kLaneSlots] = {.tag = tag};
  ++phase.waited;
  return absl::OkStatus();
}

// The writers say when they published; a wrong clock can only move a time within this wait.
void Inbox::NoteWaits(ExchangePhase phase, uint64_t count, int64_t begin_ns) {
  const int64_t whole_ns = SteadyNanos() - begin_ns;
  ForEachPresent([&](size_t rank, const LaneReader& reader) {
    const int64_t waited_ns =
        reader.Has(phase, count)
            ? std::clamp<int64_t>(reader.PublishedNanos(phase, count) - begin_ns, 0, whole_ns)
            : whole_ns;
    waited_[rank] = absl::Nanoseconds(waited_ns);
  });
}

// Why the messages of `tag` are not all here, the most telling reason first; OK when they all came
// just now.
absl::Status Inbox::WhyMissing(const ExchangeTag& tag, uint64_t count,
                               absl::FunctionRef<size_t(RankId)> outstanding) const {
  MissingPeers missing;
  absl::Status ended;
  ForEachPresent([&](size_t peer, const LaneReader& reader) {
    const bool closed = reader.writer_closed();
    const Epoch epoch = reader.writer_epoch();
    if (reader.Has(tag.phase, count)) return;
    const RankId id(static_cast<int32_t>(peer));
    missing.push_back({id, outstanding(id)});
    if (epoch > tag.epoch) {
      ended.Update(EpochError(tag, rank_, epoch, absl::StrCat("rank ", peer)));
    } else if (closed) {
      ended.Update(GoneError(tag, rank_, id, "has left"));
    }
  });
  if (missing.empty()) return absl::OkStatus();
  if (const absl::Status status = board_.status(); !status.ok()) {
    return WaitEnded(InExchange(tag, rank_, status), missing);
  }
  // Who is late sees others leave, one of them first: that one is no more to blame than the others.
  if (!ended.ok()) return WaitEnded(BlamePeers(ended, {}), missing);
  return TimeoutError(tag, rank_, missing);
}

void Inbox::Release(const ExchangeTag& tag) {
  if (tag.epoch != epoch_) return;
  Phase& phase = phases_[static_cast<int>(tag.phase)];
  for (uint64_t count = phase.released; count < phase.waited; ++count) {
    Held& held = phase.held[count % kLaneSlots];
    if (held.tag == tag) held.released = true;
  }
  const uint64_t before = phase.released;
  while (phase.released < phase.waited && phase.held[phase.released % kLaneSlots].released)
    ++phase.released;
  if (phase.released == before) return;
  for (size_t rank = 0; rank < readers_.size(); ++rank) {
    if (present_[rank]) readers_[rank].Release(tag.phase, phase.released);
  }
}

void Inbox::Wake() {
  for (const LaneReader& reader : readers_) {
    if (reader) reader.bell().Ring();
  }
}

void Inbox::Close(RankId peer) {
  if (LaneReader& reader = readers_[peer.value()]; reader) reader.Close();
}

}  // namespace shoal
