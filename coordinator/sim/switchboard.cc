// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sim/switchboard.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/link/translate.h"
#include "coordinator/sim/process.h"
#include "engine/base/status_macros.h"
#include "proto/cluster.pb.h"

namespace shoal::sim {
namespace {

constexpr int kCoordinatorHost = -1;

}  // namespace

struct Switchboard::Stream {
  Process* process = nullptr;
  Epoch assigned_before;  // the latest that the process had been told of when it dialled
  int host = 0;
  absl::Time up_last = absl::InfinitePast();  // arrival of the latest message
  absl::Time down_last = absl::InfinitePast();

  // The worker's end.
  CoordinatorLinkOptions options;
  std::deque<std::shared_ptr<proto::CoordinatorMessage>> received;
  bool woken = false;
  bool given_up = false;           // the link object is gone
  bool finishing = false;          // nothing more is sent
  std::optional<absl::Status> end;  // as the worker sees it

  // The coordinator's end.
  std::optional<WorkerId> worker;
  std::string endpoint;
  uint64_t boot_nonce = 0;
  int64_t load_serial = 0;
  std::shared_ptr<const ExpertPlacement> told_placement;
  std::shared_ptr<proto::CoordinatorMessage> last_plan;
  bool closed = false;
  bool lost_up = false;  // what is under way to the coordinator does not arrive
};

class Switchboard::Link final : public CoordinatorLink {
 public:
  Link(Switchboard& board, std::shared_ptr<Stream> stream)
      : board_(board), stream_(std::move(stream)) {}
  ~Link() override {
    Stream& stream = *stream_;
    stream.given_up = true;
    stream.options.on_interrupt = nullptr;
    if (stream.closed || stream.process->dead()) return;
    board_.timeline_.At(std::max(stream.up_last, board_.timeline_.now() + board_.DelayUp(stream)),
                        [&board = board_, stream = stream_] {
                          board.OnEnd(stream, "connection closed");
                        });
  }

  absl::StatusOr<std::unique_ptr<proto::CoordinatorMessage>> Receive(absl::Time deadline) override {
    Stream& stream = *stream_;
    stream.process->WaitUntil(
        [&] { return stream.woken || !stream.received.empty() || stream.end.has_value(); },
        deadline);
    if (stream.process->dead()) return absl::UnavailableError("killed");
    if (std::exchange(stream.woken, false)) return nullptr;
    if (!stream.received.empty()) {
      auto message = std::make_unique<proto::CoordinatorMessage>(std::move(*stream.received.front()));
      stream.received.pop_front();
      return message;
    }
    if (stream.end.has_value()) return *stream.end;
    return nullptr;
  }
  void Wake() override {
    stream_->woken = true;
    stream_->process->Wake();
  }
  std::unique_ptr<proto::WorkerMessage> NewStepDone() override {
    auto message = std::make_unique<proto::WorkerMessage>();
    message->mutable_step_done();
    return message;
  }
  void Send(std::unique_ptr<proto::WorkerMessage> message) override {
    if (stream_->finishing) return;
    board_.SendUp(stream_, std::move(message));
  }
  void Finish(absl::Time deadline) override {
    stream_->finishing = true;
    stream_->process->WaitUntil([&] { return stream_->end.has_value(); }, deadline);
  }

 private:
  Switchboard& board_;
  const std::shared_ptr<Stream> stream_;
};

Switchboard::Switchboard(uint64_t seed, Timeline& timeline, Network& network,
                         std::function<void(Event)> post)
    : random_(seed, 3), timeline_(timeline), network_(network), post_(std::move(post)) {}
Switchboard::~Switchboard() = default;

Epoch Switchboard::AssignedBefore(WorkerId worker) const {
  const auto found = joined_.find(worker);
  return found == joined_.end() ? Epoch() : found->second->assigned_before;
}

Process* Switchboard::Find(WorkerId worker) const {
  const auto found = joined_.find(worker);
  return found == joined_.end() ? nullptr : found->second->process;
}

absl::Duration Switchboard::DelayUp(const Stream& stream) {
  return network_.Delay(stream.host, kCoordinatorHost);
}
absl::Duration Switchboard::DelayDown(const Stream& stream) {
  return network_.Delay(kCoordinatorHost, stream.host);
}

absl::StatusOr<std::unique_ptr<CoordinatorLink>> Switchboard::Dial(Process& process,
                                                                   CoordinatorLinkOptions options,
                                                                   const proto::Hello& hello) {
  std::erase_if(streams_, [](const auto& stream) { return stream->closed && stream->given_up; });
  auto stream = std::make_shared<Stream>();
  stream->process = &process;
  stream->assigned_before = process.assigned();
  stream->host = process.options().host;
  stream->options = std::move(options);
  streams_.push_back(stream);
  auto first = std::make_unique<proto::WorkerMessage>();
  *first->mutable_hello() = hello;
  SendUp(stream, std::move(first));
  Beat(stream);
  return std::make_unique<Link>(*this, stream);
}

void Switchboard::Beat(const std::shared_ptr<Stream>& stream) {
  timeline_.After(stream->options.heartbeat_period, [this, stream] {
    if (stream->given_up || stream->finishing || stream->end.has_value() ||
        stream->process->dead()) {
      return;
    }
    if (!stream->process->paused()) {
      auto beat = std::make_unique<proto::WorkerMessage>();
      beat->mutable_heartbeat();
      SendUp(stream, std::move(beat));
    }
    Beat(stream);
  });
}

// --- Up ---

void Switchboard::SendUp(const std::shared_ptr<Stream>& stream,
                         std::unique_ptr<proto::WorkerMessage> message) {
  if (stream->end.has_value() || stream->process->dead()) return;
  stream->up_last = std::max(stream->up_last, timeline_.now() + DelayUp(*stream));
  timeline_.At(stream->up_last,
               [this, stream, message = std::shared_ptr<proto::WorkerMessage>(std::move(message))] {
                 if (stream->closed || stream->lost_up) return;
                 const absl::Status status = OnMessage(stream, *message);
                 if (status.ok()) return;
                 OnEnd(stream, std::string(status.message()));
                 EndAtWorker(stream, status);
               });
}

absl::Status Switchboard::OnMessage(const std::shared_ptr<Stream>& stream,
                                    const proto::WorkerMessage& message) {
  if (message.has_hello()) {
    OnHello(stream, message.hello());
    return absl::OkStatus();
  }
  const WorkerId worker = *stream->worker;
  switch (message.body_case()) {
    case proto::WorkerMessage::kHeartbeat:
      post_(Heartbeat{worker});
      return absl::OkStatus();
    case proto::WorkerMessage::kExpertTokens:
      post_(FromProto(message.expert_tokens(), worker));
      return absl::OkStatus();
    case proto::WorkerMessage::kStepDone: {
      SHOAL_ASSIGN_OR_RETURN(StepDone done, FromProto(message.step_done(), worker));
      post_(std::move(done));
      return absl::OkStatus();
    }
    case proto::WorkerMessage::kReady:
      post_(WorkerReady{worker, Epoch(message.ready().epoch())});
      return absl::OkStatus();
    case proto::WorkerMessage::kConnectFailed:
      post_(FromProto(message.connect_failed(), worker));
      return absl::OkStatus();
    case proto::WorkerMessage::kLoaded:
      if (message.loaded().serial() == stream->load_serial) post_(WorkerLoaded{worker});
      return absl::OkStatus();
    case proto::WorkerMessage::kGoodbye: {
      const absl::Status why = FromProto(message.goodbye().status());
      return why.ok() ? absl::UnavailableError("the worker left") : why;
    }
    default:
      return absl::OkStatus();
  }
}

void Switchboard::OnHello(const std::shared_ptr<Stream>& stream, const proto::Hello& hello) {
  for (const auto& [worker, other] : joined_) {
    if (other->boot_nonce != hello.boot_nonce()) continue;
    const std::shared_ptr<Stream> previous = other;
    OnEnd(previous, "the worker dialled anew");
    EndAtWorker(previous, absl::UnavailableError("the worker dialled anew"));
    break;
  }
  stream->worker = next_worker_;
  stream->endpoint = hello.endpoint();
  stream->boot_nonce = hello.boot_nonce();
  next_worker_ = next_worker_.Next();
  joined_[*stream->worker] = stream;
  WorkerJoined joined;
  joined.worker = *stream->worker;
  joined.host = hello.host();
  joined.pid = stream->process->options().number;
  joined.cache_blocks = hello.cache_blocks();
  joined.last_epoch =
      std::max(Epoch(hello.last_epoch()), stream->process->options().last_epoch);
  if (hello.has_wanted_rank()) joined.wanted_rank = RankId(hello.wanted_rank());
  joined.rank_fixed = hello.rank_fixed();
  joined.boot_nonce = hello.boot_nonce();
  post_(std::move(joined));
}

void Switchboard::OnEnd(const std::shared_ptr<Stream>& stream, const std::string& why) {
  if (stream->closed) return;
  stream->closed = true;
  if (!stream->worker.has_value()) return;
  joined_.erase(*stream->worker);
  post_(WorkerLost{*stream->worker, why});
}

// --- Down ---

void Switchboard::SendDown(WorkerId worker,
                           std::shared_ptr<proto::CoordinatorMessage> message) {
  const auto found = joined_.find(worker);
  if (found == joined_.end()) return;
  const std::shared_ptr<Stream> stream = found->second;
  stream->down_last = std::max(stream->down_last, timeline_.now() + DelayDown(*stream));
  timeline_.At(stream->down_last, [stream, message = std::move(message)] {
    if (stream->given_up || stream->end.has_value()) return;
    stream->process->Deliver([stream, message] {
      if (stream->given_up || stream->end.has_value()) return;
      // Before the message can be seen, as from gRPC's thread.
      if (message->has_assign_rank() && stream->options.on_interrupt) {
        stream->options.on_interrupt(Epoch(message->assign_rank().epoch()));
      }
      if (message->has_assign_rank()) {
        stream->process->NoteAssigned(Epoch(message->assign_rank().epoch()));
      }
      stream->received.push_back(message);
      stream->process->Wake();
    });
  });
}

void Switchboard::Execute(const AssignRank& command) {
  std::vector<std::string> endpoints(command.members->size());
  std::vector<int> host_of_rank(command.members->size(), -1);
  const auto worker = joined_.find(command.worker);
  if (worker == joined_.end()) return;
  for (size_t rank = 0; rank < endpoints.size(); ++rank) {
    if (!(*command.members)[rank].has_value()) continue;
    const auto found = joined_.find(*(*command.members)[rank]);
    if (found == joined_.end()) return;
    endpoints[rank] = found->second->endpoint;
    host_of_rank[rank] = found->second->host;
  }
  auto message = std::make_shared<proto::CoordinatorMessage>();
  std::shared_ptr<const ExpertPlacement>& told = worker->second->told_placement;
  ToProto(command, endpoints, /*placement_is_known=*/told == command.placement,
          *message->mutable_assign_rank());
  told = command.placement;
  message->mutable_assign_rank()->mutable_host_of_rank()->Add(host_of_rank.begin(),
                                                              host_of_rank.end());
  SendDown(command.worker, std::move(message));
  if (worker->second->last_plan == nullptr || !random_.Chance(10)) return;
  // A plan of the epoch that is over is heard once more, in the new one.
  timeline_.After(random_.Between(absl::ZeroDuration(), absl::Milliseconds(5)),
                  [this, id = command.worker, plan = worker->second->last_plan] {
                    SendDown(id, std::make_shared<proto::CoordinatorMessage>(*plan));
                  });
}

void Switchboard::Execute(const LoadExperts& command) {
  const auto found = joined_.find(command.worker);
  if (found == joined_.end()) return;
  auto message = std::make_shared<proto::CoordinatorMessage>();
  ToProto(command, ++found->second->load_serial, *message->mutable_load_experts());
  found->second->told_placement = command.placement;
  SendDown(command.worker, std::move(message));
}

void Switchboard::Execute(const SendPlan& command) {
  auto message = std::make_shared<proto::CoordinatorMessage>();
  ToProto(command.plan, *message->mutable_step_plan());
  const auto found = joined_.find(command.worker);
  if (found != joined_.end() && random_.Chance(20)) {
    found->second->last_plan = std::make_shared<proto::CoordinatorMessage>(*message);
  }
  SendDown(command.worker, std::move(message));
}

void Switchboard::Execute(const EvictWorker& command) {
  const auto found = joined_.find(command.worker);
  if (found == joined_.end()) return;
  const std::shared_ptr<Stream> stream = found->second;
  joined_.erase(found);
  Close(stream, command.why.ok() ? absl::UnavailableError("evicted") : command.why);
}

void Switchboard::Close(const std::shared_ptr<Stream>& stream, const absl::Status& status) {
  stream->closed = true;
  EndAtWorker(stream, status);
}

void Switchboard::EndAtWorker(const std::shared_ptr<Stream>& stream, const absl::Status& status) {
  stream->down_last = std::max(stream->down_last, timeline_.now() + DelayDown(*stream));
  timeline_.At(stream->down_last, [stream, status] {
    if (stream->given_up || stream->end.has_value()) return;
    stream->process->Deliver([stream, status] {
      if (stream->given_up || stream->end.has_value()) return;
      if (stream->options.on_interrupt) stream->options.on_interrupt(std::nullopt);
      stream->end = status;
      stream->process->Wake();
    });
  });
}

// --- Faults ---

void Switchboard::Break(const std::shared_ptr<Stream>& stream, bool flushes) {
  if (stream->closed) return;
  stream->lost_up = !flushes;
  absl::Time noticed = timeline_.now() + DelayUp(*stream);
  if (flushes) noticed = std::max(noticed, stream->up_last);
  timeline_.At(noticed, [this, stream] { OnEnd(stream, "connection closed"); });
}

void Switchboard::Died(const Process& process) {
  for (const std::shared_ptr<Stream>& stream : streams_) {
    if (stream->process != &process) continue;
    const uint64_t how = random_.Below(10);
    if (how < 2) {
      stream->lost_up = true;  // its host is gone: only silence tells
    } else {
      Break(stream, how < 6);
    }
  }
}

void Switchboard::Cut(const Process& process) {
  for (const std::shared_ptr<Stream>& stream : streams_) {
    if (stream->process != &process || stream->given_up) continue;
    if (random_.Chance(30)) {
      stream->lost_up = true;  // it is told by silence, or when the worker dials anew
    } else {
      Break(stream, random_.Chance(50));
    }
    EndAtWorker(stream, absl::UnavailableError("connection reset"));
  }
}

void Switchboard::CoordinatorDied() {
  joined_.clear();
  for (const std::shared_ptr<Stream>& stream : streams_) {
    if (!stream->closed) Close(stream, absl::UnavailableError("connection reset"));
  }
}

}  // namespace shoal::sim
