// SPDX-License-Identifier: Apache-2.0
#include "coordinator/link/worker_link.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/link/translate.h"
#include "coordinator/link/worker_session_internal.h"
#include "engine/base/endpoint.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

constexpr int kProtocolVersion = 1;
// How far a worker's last epoch may be ahead of ours: an earlier coordinator, whose it was, has had
// fewer. One that is made up moves our own by so much when its worker joins an epoch; that can be done
// 2^30 times.
constexpr int64_t kLargestLead = int64_t{1} << 32;

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  if (!in || !(text << in.rdbuf())) {
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  }
  return text.str();
}

absl::StatusOr<std::shared_ptr<grpc::ServerCredentials>> Credentials(const LinkTls& tls) {
  if (!tls.enabled()) return grpc::InsecureServerCredentials();
  grpc::SslServerCredentialsOptions options(
      GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  SHOAL_ASSIGN_OR_RETURN(options.pem_root_certs, ReadFile(tls.ca));
  grpc::SslServerCredentialsOptions::PemKeyCertPair pair;
  SHOAL_ASSIGN_OR_RETURN(pair.private_key, ReadFile(tls.key));
  SHOAL_ASSIGN_OR_RETURN(pair.cert_chain, ReadFile(tls.certificate));
  options.pem_key_cert_pairs.push_back(std::move(pair));
  return grpc::SslServerCredentials(options);
}

// Why gRPC could not listen, which it does not say itself: tries the same and asks errno.
absl::Status WhyNotListening(const std::string& host, const std::string& port) {
  const std::string where = absl::StrCat("cannot listen on ", host, ":", port);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found); error != 0) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", gai_strerror(error)));
  }
  const int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const int failed = fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 ? errno : 0;
  if (fd >= 0) close(fd);
  freeaddrinfo(found);
  if (failed == EADDRINUSE)
    return absl::AlreadyExistsError(absl::StrCat(where, ": the port is in use"));
  if (failed != 0)
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", std::strerror(failed)));
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": gRPC refuses the address or the certificates"));
}

absl::Status Differs(absl::string_view what, absl::string_view wanted, absl::string_view found) {
  if (wanted == found) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("worker refused: ", what, ": the cluster has '",
                                                    wanted, "', the worker '", found, "'"));
}

// Fingerprints are of config.json and of the weights; says which of them is another.
absl::Status CheckModel(const std::string& wanted, const std::string& found) {
  const std::pair<std::string, std::string> ours = absl::StrSplit(wanted, absl::MaxSplits('-', 1));
  const std::pair<std::string, std::string> theirs = absl::StrSplit(found, absl::MaxSplits('-', 1));
  SHOAL_RETURN_IF_ERROR(Differs("fingerprint of config.json", ours.first, theirs.first));
  return Differs("fingerprint of the weights", ours.second, theirs.second);
}

}  // namespace

class WorkerLink::Server final : public proto::Cluster::CallbackService,
                                 public WorkerSession::Owner {
 public:
  Server(WorkerLinkOptions options, Post post)
      : options_(std::move(options)), post_(std::move(post)) {}

  absl::Status Listen();
  std::string address() const { return address_; }

  grpc::ServerBidiReactor<proto::WorkerMessage, proto::CoordinatorMessage>* Join(
      grpc::CallbackServerContext* context) override;

  absl::Status OnMessage(WorkerSession& session, const proto::WorkerMessage& message) override;
  void OnEnd(WorkerSession& session, const absl::Status& why) override;
  void OnDelete(WorkerSession& session) override;

  void Send(WorkerId worker, const std::shared_ptr<const proto::CoordinatorMessage>& message);
  void Assign(const AssignRank& command);
  void Load(const LoadExperts& command);
  void Evict(WorkerId worker, const absl::Status& why);
  void CloseSilent(absl::Time now);
  void Shutdown(const std::string& reason, absl::Time deadline);

 private:
  // Where the members of an epoch listen: the same for all of them.
  struct Roll {
    std::shared_ptr<const UnitMembers> members;
    std::vector<std::string> endpoints;  // by rank; empty: absent
    std::vector<int> host_of_rank;       // -1: absent
  };
  // Null if one of them is gone.
  std::shared_ptr<const Roll> CallRoll(const std::shared_ptr<const UnitMembers>& members)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  absl::Status OnHello(WorkerSession& session, const proto::Hello& hello);
  absl::Status CheckIdentity(const proto::Hello& hello) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Whether peers can reach it by its endpoint.
  absl::Status CheckReach(const proto::Hello& hello) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const WorkerLinkOptions options_;
  const Post post_;
  std::string address_;
  std::unique_ptr<grpc::Server> grpc_;

  absl::Mutex mutex_;
  SteadyCondVar fewer_sessions_;
  std::set<WorkerSession*> sessions_ ABSL_GUARDED_BY(mutex_);
  std::map<WorkerId, WorkerSession*> joined_ ABSL_GUARDED_BY(mutex_);
  WorkerId next_worker_ ABSL_GUARDED_BY(mutex_) = WorkerId(1);
  // What the workers agree on where the options leave it open. Fixed once a rank was assigned: who
  // takes a dead worker's place must compute what it would have computed.
  Epoch epoch_ ABSL_GUARDED_BY(mutex_);  // of the last assignment; 0: there was none
  std::string numerics_ ABSL_GUARDED_BY(mutex_);
  std::string transport_ ABSL_GUARDED_BY(mutex_);
  std::string cluster_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const Roll> roll_ ABSL_GUARDED_BY(mutex_);  // of the last assignment
};

absl::Status WorkerLink::Server::Listen() {
  const size_t colon = options_.listen.rfind(':');
  if (colon == std::string::npos || colon == 0 || colon + 1 == options_.listen.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", options_.listen, "' is no address: want HOST:PORT"));
  }
  const std::string host = options_.listen.substr(0, colon);
  SHOAL_ASSIGN_OR_RETURN(std::shared_ptr<grpc::ServerCredentials> credentials,
                         Credentials(options_.tls));
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort(options_.listen, credentials, &port);
  builder.RegisterService(this);
  builder.SetMaxReceiveMessageSize(static_cast<int>(options_.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(options_.max_message_bytes));
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT,
                             0);  // a second coordinator must notice the first
  // Pings find a host that vanished without a word; any rate the workers like is fine.
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PING_STRIKES, 0);
  grpc_ = builder.BuildAndStart();
  if (grpc_ == nullptr || port == 0) {
    std::string bare = host;  // without the brackets of [::1]
    if (bare.size() > 2 && bare.front() == '[') bare = bare.substr(1, bare.size() - 2);
    return WhyNotListening(bare, options_.listen.substr(colon + 1));
  }
  address_ = absl::StrCat(host, ":", port);
  return absl::OkStatus();
}

grpc::ServerBidiReactor<proto::WorkerMessage, proto::CoordinatorMessage>* WorkerLink::Server::Join(
    grpc::CallbackServerContext* context) {
  auto* session = new WorkerSession(*this, *context, options_.max_outbound_messages, SteadyNow());
  bool full = false;
  {
    absl::MutexLock lock(&mutex_);
    full = sessions_.size() >= options_.max_workers;
    sessions_.insert(session);
  }
  if (full) {
    session->Close(absl::ResourceExhaustedError(
        absl::StrCat(options_.max_workers, " workers are connected already")));
  } else {
    session->BeginReading();
  }
  return session;
}

absl::Status WorkerLink::Server::CheckIdentity(const proto::Hello& hello) {
  const UnitIdentity& wanted = options_.identity;
  if (joined_.empty() && epoch_ == Epoch(0)) {
    numerics_ = wanted.numerics.empty() ? hello.numerics() : wanted.numerics;
    transport_ = wanted.transport.empty() ? hello.transport() : wanted.transport;
    cluster_ = wanted.cluster.empty() ? hello.cluster() : wanted.cluster;
  }
  SHOAL_RETURN_IF_ERROR(Differs("protocol version", absl::StrCat(kProtocolVersion),
                                absl::StrCat(hello.protocol_version())));
  SHOAL_RETURN_IF_ERROR(Differs("build", wanted.build, hello.build()));
  SHOAL_RETURN_IF_ERROR(CheckModel(wanted.model, hello.model()));
  SHOAL_RETURN_IF_ERROR(Differs("numerics", numerics_, hello.numerics()));
  SHOAL_RETURN_IF_ERROR(Differs("transport", transport_, hello.transport()));
  SHOAL_RETURN_IF_ERROR(Differs("cluster-name", cluster_, hello.cluster()));
  SHOAL_RETURN_IF_ERROR(Differs("block-tokens", absl::StrCat(wanted.block_tokens),
                                absl::StrCat(hello.block_tokens())));
  SHOAL_RETURN_IF_ERROR(Differs("max-batch-rows", absl::StrCat(wanted.max_batch_rows),
                                absl::StrCat(hello.max_batch_rows())));
  SHOAL_RETURN_IF_ERROR(
      Differs("max-running", absl::StrCat(wanted.max_running), absl::StrCat(hello.max_running())));
  SHOAL_RETURN_IF_ERROR(CheckReach(hello));
  if (hello.cache_blocks() < 1) {
    return absl::FailedPreconditionError(absl::StrCat(
        "worker refused: it has ", hello.cache_blocks(), " cache blocks, want at least 1"));
  }
  // Not for good: the worker begins anew, and brings none along then.
  if (hello.last_epoch() < 0 || hello.last_epoch() - epoch_.value() > kLargestLead) {
    return absl::OutOfRangeError(absl::StrCat("worker refused: its last epoch is ",
                                                   hello.last_epoch(), ", the cluster's is ",
                                                   epoch_.value()));
  }
  return absl::OkStatus();
}

absl::Status WorkerLink::Server::CheckReach(const proto::Hello& hello) {
  if (hello.endpoint().empty()) {
    return absl::FailedPreconditionError("worker refused: it has no endpoint for its peers");
  }
  if (absl::Status status = CheckEndpoint(hello.transport(), hello.endpoint()); !status.ok()) {
    return absl::FailedPreconditionError(absl::StrCat("worker refused: ", status.message()));
  }
  if (hello.transport() != "shm") return absl::OkStatus();
  SHOAL_ASSIGN_OR_RETURN(const ShmAddress here, ParseShmEndpoint(hello.endpoint()));
  for (const auto& [worker, other] : joined_) {
    if (hello.boot_nonce() != 0 && other->boot_nonce == hello.boot_nonce()) continue;  // itself
    SHOAL_ASSIGN_OR_RETURN(const ShmAddress there, ParseShmEndpoint(other->endpoint));
    if (there.host == here.host) return absl::OkStatus();  // and so are all others
    return absl::FailedPreconditionError(
        absl::StrCat("worker refused: transport shm joins workers of one host: the others are on ",
                     other->identity->host, " (", there.host, "), this one is on ", hello.host(),
                     " (", here.host, "); use transport grpc"));
  }
  return absl::OkStatus();
}

absl::Status WorkerLink::Server::OnHello(WorkerSession& session, const proto::Hello& hello) {
  WorkerIdentity identity;
  identity.host = hello.host();
  identity.pid = hello.pid();
  identity.supervised_as = hello.supervised_as();
  WorkerSession* previous = nullptr;
  WorkerId previous_worker;
  int connected = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (session.identity.has_value()) return absl::InvalidArgumentError("a second hello");
    if (absl::Status status = CheckIdentity(hello); !status.ok()) {
      if (options_.on_failure) options_.on_failure(identity, status);
      return status;
    }
    for (const auto& [worker, other] : joined_) {
      if (hello.boot_nonce() != 0 && other->boot_nonce == hello.boot_nonce()) {
        previous = other;
        previous_worker = worker;
      }
    }
    if (previous != nullptr) {
      // It dials anew before its old connection was seen to break.
      joined_.erase(previous_worker);
      previous->Close(absl::UnavailableError("the worker dialled anew"));
    }
    identity.worker = next_worker_;
    next_worker_ = next_worker_.Next();
    session.identity = identity;
    session.endpoint = hello.endpoint();
    session.boot_nonce = hello.boot_nonce();
    joined_[identity.worker] = &session;
    connected = static_cast<int>(joined_.size());
  }
  if (previous != nullptr) post_(WorkerLost{previous_worker, "the worker dialled anew"});
  WorkerJoined joined;
  joined.worker = identity.worker;
  joined.host = identity.host;
  joined.pid = identity.pid;
  joined.cache_blocks = hello.cache_blocks();
  joined.last_epoch = Epoch(hello.last_epoch());
  if (hello.has_wanted_rank()) joined.wanted_rank = RankId(hello.wanted_rank());
  joined.rank_fixed = hello.rank_fixed();
  joined.boot_nonce = hello.boot_nonce();
  if (options_.on_joined) options_.on_joined(identity);
  if (!post_(std::move(joined)))
    return absl::ResourceExhaustedError("the coordinator's event queue is full");
  if (options_.workers > 0 && connected > options_.workers) {
    auto message = std::make_shared<proto::CoordinatorMessage>();
    message->mutable_standby()->set_workers(options_.workers);
    message->mutable_standby()->set_connected(connected);
    session.Send(std::move(message));
  }
  return absl::OkStatus();
}

absl::Status WorkerLink::Server::OnMessage(WorkerSession& session,
                                           const proto::WorkerMessage& message) {
  if (message.has_hello()) return OnHello(session, message.hello());
  WorkerIdentity identity;
  int64_t load_serial = 0;
  {
    absl::MutexLock lock(&mutex_);
    if (!session.identity.has_value())
      return absl::InvalidArgumentError("the first message is no hello");
    identity = *session.identity;
    load_serial = session.load_serial;
  }
  switch (message.body_case()) {
    case proto::WorkerMessage::kHeartbeat:
      post_(Heartbeat{identity.worker});  // if refused, the next one comes soon
      return absl::OkStatus();
    case proto::WorkerMessage::kExpertTokens:
      post_(
          FromProto(message.expert_tokens(), identity.worker));  // if refused, some are not counted
      return absl::OkStatus();
    case proto::WorkerMessage::kStepDone: {
      SHOAL_ASSIGN_OR_RETURN(StepDone done, FromProto(message.step_done(), identity.worker));
      if (!post_(std::move(done)))
        return absl::ResourceExhaustedError("the coordinator's event queue is full");
      return absl::OkStatus();
    }
    case proto::WorkerMessage::kReady:
      if (!post_(WorkerReady{identity.worker, Epoch(message.ready().epoch())})) {
        return absl::ResourceExhaustedError("the coordinator's event queue is full");
      }
      return absl::OkStatus();
    case proto::WorkerMessage::kConnectFailed: {
      ConnectFailed failed = FromProto(message.connect_failed(), identity.worker);
      if (options_.on_connect_failed) options_.on_connect_failed(identity, failed.why);
      if (!post_(std::move(failed))) {
        return absl::ResourceExhaustedError("the coordinator's event queue is full");
      }
      return absl::OkStatus();
    }
    case proto::WorkerMessage::kLoaded:
      // What an older LoadExperts named is loaded: of no interest any more.
      if (message.loaded().serial() != load_serial) return absl::OkStatus();
      if (!post_(WorkerLoaded{identity.worker})) {
        return absl::ResourceExhaustedError("the coordinator's event queue is full");
      }
      return absl::OkStatus();
    case proto::WorkerMessage::kLoadProgress:
      if (options_.on_progress) {
        options_.on_progress(identity, message.load_progress().done_bytes(),
                             message.load_progress().total_bytes());
      }
      return absl::OkStatus();
    case proto::WorkerMessage::kGoodbye: {
      const absl::Status why = FromProto(message.goodbye().status());
      if (!why.ok() && options_.on_failure) options_.on_failure(identity, why);
      return why.ok() ? absl::UnavailableError("the worker left") : why;
    }
    default:
      return absl::InvalidArgumentError("an unknown message");
  }
}

void WorkerLink::Server::OnEnd(WorkerSession& session, const absl::Status& why) {
  std::optional<WorkerId> lost;
  {
    absl::MutexLock lock(&mutex_);
    if (session.identity.has_value() && joined_.erase(session.identity->worker) > 0)
      lost = session.identity->worker;
  }
  if (lost.has_value()) post_(WorkerLost{*lost, std::string(why.message())});
}

void WorkerLink::Server::OnDelete(WorkerSession& session) {
  OnEnd(session, absl::UnavailableError("connection closed"));  // if nobody noticed before
  absl::MutexLock lock(&mutex_);
  sessions_.erase(&session);
  fewer_sessions_.NotifyAll();
}

void WorkerLink::Server::Send(WorkerId worker,
                              const std::shared_ptr<const proto::CoordinatorMessage>& message) {
  bool stuck = false;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = joined_.find(worker);
    if (found == joined_.end() || found->second->Send(message)) return;
    stuck = true;
  }
  if (stuck) {
    Evict(worker, absl::ResourceExhaustedError("the worker does not read what it is sent"));
    post_(WorkerLost{worker, "it does not read what it is sent"});
  }
}

std::shared_ptr<const WorkerLink::Server::Roll> WorkerLink::Server::CallRoll(
    const std::shared_ptr<const UnitMembers>& members) {
  if (roll_ != nullptr && roll_->members == members) return roll_;
  auto roll = std::make_shared<Roll>();
  roll->members = members;
  std::map<std::string, int> hosts;  // numbered as they appear
  for (const std::optional<WorkerId>& member : *members) {
    std::string& endpoint = roll->endpoints.emplace_back();
    int& host = roll->host_of_rank.emplace_back(-1);
    if (!member.has_value()) continue;
    const auto found = joined_.find(*member);
    if (found == joined_.end()) return nullptr;
    endpoint = found->second->endpoint;
    const std::string& name = found->second->identity->host;
    host = hosts.try_emplace(name, static_cast<int>(hosts.size())).first->second;
  }
  roll_ = std::move(roll);
  return roll_;
}

void WorkerLink::Server::Assign(const AssignRank& command) {
  bool placement_is_known = false;
  std::shared_ptr<const Roll> roll;
  {
    absl::MutexLock lock(&mutex_);
    const auto worker = joined_.find(command.worker);
    if (worker == joined_.end()) return;
    roll = CallRoll(command.members);
    if (roll == nullptr) return;
    epoch_ = command.epoch;
    placement_is_known =
        std::exchange(worker->second->told_placement, command.placement) == command.placement;
  }
  auto message = std::make_shared<proto::CoordinatorMessage>();
  ToProto(command, roll->endpoints, placement_is_known, *message->mutable_assign_rank());
  message->mutable_assign_rank()->set_token_limit(options_.token_limit);
  message->mutable_assign_rank()->mutable_host_of_rank()->Add(roll->host_of_rank.begin(),
                                                              roll->host_of_rank.end());
  Send(command.worker, message);
}

void WorkerLink::Server::Load(const LoadExperts& command) {
  int64_t serial = 0;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = joined_.find(command.worker);
    if (found == joined_.end()) return;
    serial = ++found->second->load_serial;
    found->second->told_placement = command.placement;
  }
  auto message = std::make_shared<proto::CoordinatorMessage>();
  ToProto(command, serial, *message->mutable_load_experts());
  Send(command.worker, message);
}

void WorkerLink::Server::Evict(WorkerId worker, const absl::Status& why) {
  WorkerIdentity identity;
  {
    absl::MutexLock lock(&mutex_);
    const auto found = joined_.find(worker);
    if (found == joined_.end()) return;
    WorkerSession* session = found->second;
    joined_.erase(found);
    identity = *session->identity;
    session->Close(why.ok() ? absl::UnavailableError("evicted") : why);
  }
  if (options_.on_evicted) options_.on_evicted(identity, why);
}

void WorkerLink::Server::CloseSilent(absl::Time now) {
  absl::MutexLock lock(&mutex_);
  for (WorkerSession* session : sessions_) {
    if (!session->identity.has_value() && now - session->opened_at() > options_.hello_timeout) {
      session->Close(absl::DeadlineExceededError("no hello arrived in time"));
    }
  }
}

void WorkerLink::Server::Shutdown(const std::string& reason, absl::Time deadline) {
  if (grpc_ == nullptr) return;
  auto message = std::make_shared<proto::CoordinatorMessage>();
  message->mutable_shutdown()->set_reason(reason);
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [worker, session] : joined_) session->Send(message);
    const auto none_left = [this]()
                               ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return sessions_.empty(); };
    fewer_sessions_.WaitUntil(mutex_, deadline, none_left);
  }
  grpc_->Shutdown(std::chrono::system_clock::now());  // cancels what is left and waits for it
  grpc_->Wait();
  grpc_ = nullptr;
}

absl::StatusOr<std::unique_ptr<WorkerLink>> WorkerLink::Start(WorkerLinkOptions options,
                                                              Post post) {
  auto server = std::make_unique<Server>(std::move(options), std::move(post));
  SHOAL_RETURN_IF_ERROR(server->Listen());
  return std::unique_ptr<WorkerLink>(new WorkerLink(std::move(server)));
}

WorkerLink::WorkerLink(std::unique_ptr<Server> server) : server_(std::move(server)) {}
WorkerLink::~WorkerLink() { Shutdown("", SteadyNow()); }

std::string WorkerLink::address() const { return server_->address(); }

void WorkerLink::Execute(const AssignRank& command) { server_->Assign(command); }

void WorkerLink::Execute(const LoadExperts& command) { server_->Load(command); }

void WorkerLink::Execute(const SendPlan& command) {
  auto message = std::make_shared<proto::CoordinatorMessage>();
  ToProto(command.plan, *message->mutable_step_plan());
  server_->Send(command.worker, message);
}

void WorkerLink::Execute(const EvictWorker& command) {
  server_->Evict(command.worker, command.why);
}

void WorkerLink::Tick(absl::Time now) { server_->CloseSilent(now); }

void WorkerLink::Shutdown(const std::string& reason, absl::Time deadline) {
  server_->Shutdown(reason, deadline);
}

}  // namespace shoal
