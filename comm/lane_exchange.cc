// SPDX-License-Identifier: Apache-2.0
#include "comm/lane_exchange.h"

#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "comm/exchange_errors.h"
#include "comm/wait_loop.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"

namespace shoal {

LaneExchange::LaneExchange(RankId rank, int world, size_t max_message_bytes, Carrier& carrier)
    : rank_(rank),
      max_message_bytes_(max_message_bytes),
      spin_turns_(SpinTurns(world)),
      carrier_(carrier),
      board_(world),
      inbox_(rank, world, board_, carrier),
      outlets_(world),
      present_(world, true) {
  for (Sending& sending : sending_) sending.reserved.resize(world);
}

absl::StatusOr<std::unique_ptr<LaneExchange>> LaneExchange::Make(RankId rank, int world,
                                                                 size_t max_message_bytes,
                                                                 Carrier& carrier) {
  auto exchange = absl::WrapUnique(new LaneExchange(rank, world, max_message_bytes, carrier));
  SHOAL_ASSIGN_OR_RETURN(Lane own, Lane::Allocate(max_message_bytes));
  exchange->inbox_.SetLane(rank, own);
  exchange->outlets_[rank.value()] = std::make_unique<LaneWriter>(std::move(own));
  return exchange;
}

LaneExchange::~LaneExchange() { Close(); }

void LaneExchange::Close() {
  for (int peer = 0; peer < world_size(); ++peer) {
    if (peer == rank_.value()) continue;
    inbox_.Close(RankId(peer));
    if (outlets_[peer] != nullptr) outlets_[peer]->Close();
  }
}

absl::Status LaneExchange::Relink(Epoch epoch, std::vector<Lane> in,
                                  std::vector<std::unique_ptr<Outlet>> out) {
  SHOAL_RETURN_IF_ERROR(CheckEpoch(epoch));
  Close();
  {
    absl::MutexLock lock(&wake_mutex_);
    for (int peer = 0; peer < world_size(); ++peer) {
      if (peer == rank_.value()) continue;
      present_[peer] = out[peer] != nullptr;
      inbox_.SetLane(RankId(peer), std::move(in[peer]));
      outlets_[peer].swap(out[peer]);  // the old ones end with `out`, outside the lock
      board_.Revive(RankId(peer));
    }
  }
  return InstallEpoch(epoch);
}

absl::Status LaneExchange::Enter(Epoch epoch, const std::vector<bool>& present) {
  SHOAL_RETURN_IF_ERROR(CheckEpoch(epoch));
  {
    absl::MutexLock lock(&wake_mutex_);
    present_ = present;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (!present_[peer]) board_.Revive(RankId(peer));
    }
  }
  return InstallEpoch(epoch);
}

void LaneExchange::LinkLost(RankId peer, const absl::Status& why) {
  absl::MutexLock lock(&wake_mutex_);
  if (!present_[peer.value()]) return;
  if (!inbox_.WriterClosed(peer)) board_.Fail(peer, why);
  WakeAll();
}

void LaneExchange::Cancel() {
  absl::MutexLock lock(&wake_mutex_);
  board_.Cancel();
  WakeAll();
}

void LaneExchange::WakeAll() {
  inbox_.Wake();
  for (const std::unique_ptr<Outlet>& outlet : outlets_) {
    if (outlet != nullptr) outlet->bell().Ring();
  }
}

absl::Status LaneExchange::InstallEpoch(Epoch epoch) {
  SHOAL_RETURN_IF_ERROR(CheckEpoch(epoch));
  epoch_ = epoch;
  used_ = false;
  for (Sending& sending : sending_) {
    sending.reserved.assign(sending.reserved.size(), false);
    sending.error = absl::OkStatus();
  }
  for (const std::unique_ptr<Outlet>& outlet : outlets_) {
    if (outlet != nullptr) outlet->InstallEpoch(epoch);
  }
  inbox_.InstallEpoch(epoch, present_);
  carrier_.RoomMade();
  board_.ClearCancel();
  return absl::OkStatus();
}

// Waits until the next slot to `peer` is free and takes it for this phase's Post.
absl::Status LaneExchange::Reserve(const ExchangeTag& tag, RankId peer, absl::Time deadline) {
  if (tag.epoch != epoch_) return EpochError(tag, rank_, epoch_, "it");
  if (board_.cancelled()) return InExchange(tag, rank_, board_.status());
  const Outlet& outlet = *outlets_[peer.value()];
  const WaitEnd end = WaitUntil(
      carrier_, outlet.bell(), spin_turns_, deadline, board_,
      [&] { return outlet.CanWrite(tag.phase); },
      [&] { return outlet.reader_closed() || outlet.reader_epoch() > tag.epoch; });
  if (end != WaitEnd::kReady) {
    const MissingPeer missing{peer, outlet.outstanding_bytes(tag.phase)};
    if (const absl::Status status = board_.status(); !status.ok()) {
      return WaitEnded(InExchange(tag, rank_, status), {missing});
    }
    if (outlet.reader_epoch() > tag.epoch) {
      return EpochError(tag, rank_, outlet.reader_epoch(), absl::StrCat("rank ", peer.value()));
    }
    if (outlet.reader_closed()) return GoneError(tag, rank_, peer, "has left");
    return BackPressureError(tag, rank_, missing);
  }
  sending_[static_cast<int>(tag.phase)].reserved[peer.value()] = true;
  used_ = true;
  return absl::OkStatus();
}

absl::Span<std::byte> LaneExchange::SendBuffer(const ExchangeTag& tag, RankId peer,
                                               absl::Time deadline) {
  if (!present_[peer.value()]) return {};
  Sending& sending = sending_[static_cast<int>(tag.phase)];
  if (!sending.reserved[peer.value()] || tag.epoch != epoch_) {
    if (absl::Status status = Reserve(tag, peer, deadline); !status.ok()) {
      sending.error = std::move(status);
      return {};
    }
  }
  return outlets_[peer.value()]->Rows(tag.phase);
}

absl::Status LaneExchange::Post(const ExchangeTag& tag, absl::Span<const size_t> bytes) {
  SHOAL_CHECK(bytes.size() == outlets_.size());
  if (tag.epoch != epoch_) return EpochError(tag, rank_, epoch_, "it");
  if (board_.stopped()) return InExchange(tag, rank_, board_.status());
  const int world = world_size();
  Sending& sending = sending_[static_cast<int>(tag.phase)];
  for (int peer = 0; peer < world; ++peer) {
    if (!present_[peer]) continue;
    SHOAL_CHECK(bytes[peer] <= max_message_bytes_);
    if (sending.reserved[peer]) continue;
    if (!sending.error.ok()) return std::exchange(sending.error, absl::OkStatus());
    SHOAL_RETURN_IF_ERROR(Reserve(tag, RankId(peer), absl::InfinitePast()));
  }
  for (int i = 1; i <= world; ++i) {
    const int peer = (rank_.value() + i) % world;
    if (!present_[peer]) continue;
    outlets_[peer]->Publish({.tag = tag, .source = rank_, .length = bytes[peer]});
    sending.reserved[peer] = false;
  }
  sending.error = absl::OkStatus();
  return absl::OkStatus();
}

// Once Wait has returned nobody may call us for long, so nothing may be left that only our calls
// move on.
absl::Status LaneExchange::AwaitSent(const ExchangeTag& tag, absl::Time deadline) {
  for (int to = 0; to < world_size(); ++to) {
    if (!present_[to]) continue;
    const Outlet& outlet = *outlets_[to];
    const WaitEnd end = WaitUntil(
        carrier_, outlet.bell(), 0, deadline, board_, [&] { return outlet.Sent(tag.phase); },
        [] { return false; });
    if (end == WaitEnd::kReady) continue;
    if (absl::Status status = board_.status(); !status.ok()) return InExchange(tag, rank_, status);
    MissingPeers missing;
    for (int peer = 0; peer < world_size(); ++peer) {
      if (!present_[peer] || outlets_[peer]->Sent(tag.phase)) continue;
      missing.push_back({RankId(peer), outlets_[peer]->outstanding_bytes(tag.phase)});
    }
    if (!missing.empty()) return TimeoutError(tag, rank_, missing);
  }
  return absl::OkStatus();
}

absl::Status LaneExchange::Wait(const ExchangeTag& tag, absl::Time deadline,
                                absl::Span<absl::Span<const std::byte>> received) {
  used_ = used_ || tag.epoch == epoch_;
  SHOAL_RETURN_IF_ERROR(AwaitSent(tag, deadline));
  return inbox_.Wait(tag, deadline, received, [&](RankId peer) {
    return outlets_[peer.value()]->outstanding_bytes(tag.phase);
  });
}

void LaneExchange::Release(const ExchangeTag& tag) {
  inbox_.Release(tag);
  carrier_.RoomMade();
}

}  // namespace shoal
