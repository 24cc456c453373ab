// SPDX-License-Identifier: Apache-2.0
// The coordinator's end of the workers' streams: a gRPC server that turns messages into the core's
// events and the core's commands into messages. It decides one thing alone: whether a worker is of
// the same build, model and numerics, and can be reached by its peers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/core/events.h"

namespace shoal {

// PEM files of a mutually authenticated link; all empty: plain text.
struct LinkTls {
  std::string certificate;
  std::string key;
  std::string ca;  // a worker must present a certificate signed by it
  bool enabled() const { return !certificate.empty(); }
};

// What a worker must equal to join. `numerics`, `transport` and `cluster` may be empty: then the
// first worker sets them for as long as any worker is connected.
struct UnitIdentity {
  std::string build;
  std::string model;  // fingerprint: "CONFIG-WEIGHTS"
  std::string numerics;
  std::string transport;
  std::string cluster;  // its name
  int block_tokens = 0;
  int max_batch_rows = 0;
  int max_running = 0;
};

// A connected worker, for logs and supervisors.
struct WorkerIdentity {
  WorkerId worker;
  std::string host;
  int64_t pid = 0;
  // A secret of the worker and the process that started it; empty: none did. Hosts and pids are
  // only what a worker says, and those of two containers may be equal.
  std::string supervised_as;
};

struct WorkerLinkOptions {
  std::string listen = "127.0.0.1:0";  // HOST:PORT
  LinkTls tls;
  UnitIdentity identity;
  int workers = 0;      // ranks of the unit: more workers are told that they stand by; 0: unknown
  int token_limit = 0;  // of the tokenizer: ids from here on are never to be sampled; 0: none
  size_t max_message_bytes = size_t{64} << 20;
  size_t max_workers = 4096;            // connections; more are refused
  size_t max_outbound_messages = 1024;  // per worker; a worker that does not read them is lost
  absl::Duration hello_timeout = absl::Seconds(10);
  // Observers, called from gRPC's threads; must only enqueue. May be null.
  std::function<void(const WorkerIdentity&, int64_t done_bytes, int64_t total_bytes)> on_progress;
  // A worker was refused, or said goodbye with an error.
  std::function<void(const WorkerIdentity&, const absl::Status&)> on_failure;
  // A worker cannot connect to its peers.
  std::function<void(const WorkerIdentity&, const absl::Status&)> on_connect_failed;
  // A worker said hello and was accepted; also one that comes back.
  std::function<void(const WorkerIdentity&)> on_joined;
  // The core evicted a worker: it may hang, and its supervisor may want to end it.
  std::function<void(const WorkerIdentity&, const absl::Status&)> on_evicted;
};

class WorkerLink {
 public:
  // Takes an event for the core from any thread; must only enqueue. False: refused, the queue is
  // full.
  using Post = std::function<bool(Event)>;

  // Errors: InvalidArgument for an unusable address; AlreadyExists when the port is in use;
  // NotFound for TLS files.
  static absl::StatusOr<std::unique_ptr<WorkerLink>> Start(WorkerLinkOptions options, Post post);
  ~WorkerLink();  // Shutdown("", now)
  WorkerLink(const WorkerLink&) = delete;
  WorkerLink& operator=(const WorkerLink&) = delete;

  std::string address() const;  // HOST:PORT, the port resolved

  // The core's commands. Never block; a worker that is gone meanwhile is no error (its WorkerLost
  // is on its way). An assignment is not sent when one of its members is gone: the core will raise
  // the epoch again.
  void Execute(const AssignRank& command);
  void Execute(const LoadExperts& command);
  void Execute(const SendPlan& command);
  void Execute(const EvictWorker& command);
  // Time passes: closes connections that never said hello.
  void Tick(absl::Time now);

  // Tells every worker to leave and closes all streams, at `deadline` by force. Blocks; not from
  // the core's thread.
  void Shutdown(const std::string& reason, absl::Time deadline);

 private:
  class Server;
  explicit WorkerLink(std::unique_ptr<Server> server);

  std::unique_ptr<Server> server_;
};

}  // namespace shoal
