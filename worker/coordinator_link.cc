// SPDX-License-Identifier: Apache-2.0
#include "worker/coordinator_link.h"

#include <pthread.h>

#include <cerrno>
#include <cstring>
#include <deque>
#include <fstream>
#include <sstream>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"
#include "grpcpp/grpcpp.h"
#include "proto/cluster.grpc.pb.h"
#include "proto/cluster.pb.h"

namespace shoal {
namespace {

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (!in || !(text << in.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  }
  return text.str();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> Credentials(const TlsFiles& tls) {
  if (!tls.enabled()) return grpc::InsecureChannelCredentials();
  grpc::SslCredentialsOptions options;
  SHOAL_ASSIGN_OR_RETURN(options.pem_root_certs, ReadFile(tls.ca));
  SHOAL_ASSIGN_OR_RETURN(options.pem_private_key, ReadFile(tls.key));
  SHOAL_ASSIGN_OR_RETURN(options.pem_cert_chain, ReadFile(tls.certificate));
  return grpc::SslCredentials(options);
}

// What gRPC says of a handshake that failed, with what it means for whoever started this worker.
std::string ExplainFailure(const std::string& message, bool tls) {
  const auto says = [&](absl::string_view part) { return absl::StrContains(message, part); };
  absl::string_view hint;
  if (says("wrong version number")) {
    hint = " (it speaks no TLS: it has no --cluster-cert, this worker has one)";
  } else if (says("certificate verify failed")) {
    hint = " (its certificate is not signed by --cluster-ca, or is for another host)";
  } else if (says("failed to connect") && says("Socket closed")) {
    // It hung up in the middle of the handshake, and TLS does not say why.
    hint = tls ? " (does its --cluster-ca sign this worker's certificate?)"
               : " (does it want TLS? this worker has no --cluster-cert)";
  }
  return absl::StrCat(message, hint);
}

class Stream final
    : public grpc::ClientBidiReactor<proto::WorkerMessage, proto::CoordinatorMessage> {
 public:
  explicit Stream(CoordinatorLinkOptions options) : options_(std::move(options)) {}

  absl::Status Open(const proto::Hello& hello);
  void Stop();

  absl::StatusOr<std::unique_ptr<proto::CoordinatorMessage>> Receive(absl::Time deadline);
  void Wake();
  std::unique_ptr<proto::WorkerMessage> NewStepDone();
  void Send(std::unique_ptr<proto::WorkerMessage> message);
  void Finish(absl::Time deadline);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  void Beat();
  // Starts the next write, or the end of writing, if none is in flight. Under the lock: the hold
  // that keeps gRPC from finishing the stream is dropped under it too, so nothing is ever started
  // on a finished stream.
  void StartNextWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool ReadingMayGoOn() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return received_.size() < options_.max_queued_messages;
  }

  const CoordinatorLinkOptions options_;
  std::unique_ptr<proto::Cluster::Stub> stub_;
  grpc::ClientContext context_;
  std::unique_ptr<proto::CoordinatorMessage> incoming_;  // owned by the read in flight

  absl::Mutex mutex_;
  SteadyCondVar arrived_;  // what Receive waits for
  SteadyCondVar ending_;   // finishing_, broken_, done_
  std::deque<std::unique_ptr<proto::CoordinatorMessage>> received_ ABSL_GUARDED_BY(mutex_);
  std::deque<std::unique_ptr<proto::WorkerMessage>> outbound_
      ABSL_GUARDED_BY(mutex_);  // front: perhaps in flight
  std::vector<std::unique_ptr<proto::WorkerMessage>> free_ ABSL_GUARDED_BY(mutex_);
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool reading_paused_ ABSL_GUARDED_BY(mutex_) = false;
  bool wake_ ABSL_GUARDED_BY(mutex_) = false;
  bool finishing_ ABSL_GUARDED_BY(mutex_) = false;    // nothing more is queued
  bool writes_done_ ABSL_GUARDED_BY(mutex_) = false;  // and gRPC was told so
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;  // reading failed: the hold is gone, start nothing
  bool done_ ABSL_GUARDED_BY(mutex_) = false;    // gRPC is done with this object
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // with done_
  std::thread heartbeat_;
};

absl::Status Stream::Open(const proto::Hello& hello) {
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<grpc::ChannelCredentials> credentials,
                         Credentials(options_.tls));
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
  arguments.SetMaxSendMessageSize(static_cast<int>(options_.max_message_bytes));
  // Our caller backs off; gRPC shall dial at once, and give up on a silent host in seconds.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  stub_ = proto::Cluster::NewStub(
      grpc::CreateCustomChannel(options_.coordinator, credentials, arguments));
  stub_->async()->Join(&context_, this);
  AddHold();
  incoming_ = std::make_unique<proto::CoordinatorMessage>();
  StartRead(incoming_.get());
  auto first = std::make_unique<proto::WorkerMessage>();
  *first->mutable_hello() = hello;
  Send(std::move(first));
  StartCall();
  heartbeat_ = std::thread([this] { Beat(); });
  return absl::OkStatus();
}

void Stream::Stop() {
  if (stub_ == nullptr) return;
  context_.TryCancel();
  {
    absl::MutexLock lock(&mutex_);
    if (reading_paused_) {  // no read is in flight that could notice
      reading_paused_ = false;
      incoming_ = std::make_unique<proto::CoordinatorMessage>();
      StartRead(incoming_.get());
    }
    mutex_.Await(absl::Condition(&done_));
  }
  if (heartbeat_.joinable()) heartbeat_.join();
}

void Stream::Beat() {
  pthread_setname_np(pthread_self(), "heartbeat");
  const auto over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return broken_ || done_ || finishing_;
  };
  absl::MutexLock lock(&mutex_);
  while (!ending_.WaitUntil(mutex_, SteadyNow() + options_.heartbeat_period, over)) {
    if (outbound_.size() > 1) continue;  // something else is about to say that we live
    auto beat = std::make_unique<proto::WorkerMessage>();
    beat->mutable_heartbeat();
    outbound_.push_back(std::move(beat));
    StartNextWrite();
  }
}

void Stream::StartNextWrite() {
  if (writing_ || broken_) return;
  if (!outbound_.empty()) {
    writing_ = true;
    StartWrite(outbound_.front().get());
  } else if (finishing_ && !writes_done_) {
    writes_done_ = true;
    StartWritesDone();
  }
}

void Stream::OnWriteDone(bool ok) {
  absl::MutexLock lock(&mutex_);
  writing_ = false;
  if (outbound_.front()->has_step_done() && free_.size() < 4)
    free_.push_back(std::move(outbound_.front()));
  outbound_.pop_front();
  if (!ok) outbound_.clear();  // the stream is broken: the read fails too and reports it
  StartNextWrite();
}

void Stream::OnReadDone(bool ok) {
  // Before the message can be seen: the work that is interrupted is the one before it, never the
  // one it brings.
  if (options_.on_interrupt && (!ok || incoming_->has_assign_rank() || incoming_->has_shutdown())) {
    std::optional<Epoch> assigned;
    if (ok && incoming_->has_assign_rank()) assigned = Epoch(incoming_->assign_rank().epoch());
    options_.on_interrupt(assigned);
  }
  absl::MutexLock lock(&mutex_);
  if (!ok) {
    broken_ = true;
    ending_.NotifyAll();
    RemoveHold();
    return;
  }
  received_.push_back(std::move(incoming_));
  reading_paused_ = !ReadingMayGoOn();
  if (!reading_paused_) {
    incoming_ = std::make_unique<proto::CoordinatorMessage>();
    StartRead(incoming_.get());
  }
  arrived_.NotifyAll();
}

void Stream::OnDone(const grpc::Status& status) {
  absl::MutexLock lock(&mutex_);
  status_ = status.ok() ? absl::UnavailableError("the coordinator closed the stream")
                        : absl::Status(static_cast<absl::StatusCode>(status.error_code()),
                                       ExplainFailure(status.error_message(),
                                                      options_.tls.enabled()));
  done_ = true;
  arrived_.NotifyAll();
  ending_.NotifyAll();
}

absl::StatusOr<std::unique_ptr<proto::CoordinatorMessage>> Stream::Receive(
    absl::Time deadline) {
  const auto ready = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return !received_.empty() || wake_ || done_;
  };
  absl::MutexLock lock(&mutex_);
  arrived_.WaitUntil(mutex_, deadline, ready);
  if (wake_) {
    wake_ = false;
    return nullptr;
  }
  if (received_.empty()) {
    if (done_) return status_;
    return nullptr;
  }
  std::unique_ptr<proto::CoordinatorMessage> message = std::move(received_.front());
  received_.pop_front();
  if (reading_paused_ && !broken_ && ReadingMayGoOn()) {
    reading_paused_ = false;
    incoming_ = std::make_unique<proto::CoordinatorMessage>();
    StartRead(incoming_.get());
  }
  return message;
}

void Stream::Wake() {
  absl::MutexLock lock(&mutex_);
  wake_ = true;
  arrived_.NotifyAll();
}

std::unique_ptr<proto::WorkerMessage> Stream::NewStepDone() {
  std::unique_ptr<proto::WorkerMessage> message;
  {
    absl::MutexLock lock(&mutex_);
    if (!free_.empty()) {
      message = std::move(free_.back());
      free_.pop_back();
    }
  }
  if (message == nullptr) message = std::make_unique<proto::WorkerMessage>();
  message->mutable_step_done()
      ->Clear();  // not the message: that would free what is to be used again
  return message;
}

void Stream::Send(std::unique_ptr<proto::WorkerMessage> message) {
  absl::MutexLock lock(&mutex_);
  if (broken_ || finishing_) return;
  outbound_.push_back(std::move(message));
  StartNextWrite();
}

void Stream::Finish(absl::Time deadline) {
  absl::MutexLock lock(&mutex_);
  finishing_ = true;
  ending_.NotifyAll();
  StartNextWrite();
  ending_.WaitUntil(mutex_, deadline,
                    [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return done_; });
}

// Ends the stream and waits for gRPC, which is quick: it is cancelled.
class GrpcCoordinatorLink final : public CoordinatorLink {
 public:
  explicit GrpcCoordinatorLink(std::unique_ptr<Stream> stream) : stream_(std::move(stream)) {}
  ~GrpcCoordinatorLink() override { stream_->Stop(); }

  absl::StatusOr<std::unique_ptr<proto::CoordinatorMessage>> Receive(absl::Time deadline) override {
    return stream_->Receive(deadline);
  }
  void Wake() override { stream_->Wake(); }
  std::unique_ptr<proto::WorkerMessage> NewStepDone() override { return stream_->NewStepDone(); }
  void Send(std::unique_ptr<proto::WorkerMessage> message) override {
    stream_->Send(std::move(message));
  }
  void Finish(absl::Time deadline) override { stream_->Finish(deadline); }

 private:
  std::unique_ptr<Stream> stream_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CoordinatorLink>> CoordinatorLink::Dial(
    CoordinatorLinkOptions options, const proto::Hello& hello) {
  auto stream = std::make_unique<Stream>(std::move(options));
  SHOAL_RETURN_IF_ERROR(stream->Open(hello));
  return std::make_unique<GrpcCoordinatorLink>(std::move(stream));
}

}  // namespace shoal
