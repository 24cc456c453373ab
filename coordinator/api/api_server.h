// SPDX-License-Identifier: Apache-2.0
// The HTTP face of the coordinator: OpenAI's completions and chat completions beside tokenising,
// health, cluster state and metrics. It turns JSON into Requests for the core and the core's
// emissions into JSON or server-sent events.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "coordinator/api/api_options.h"
#include "coordinator/api/cluster_port.h"
#include "engine/text/tokenizer.h"

namespace shoal {

class ApiServer : public EmissionSink {
 public:
  // Binds, listens and starts answering (503 until the cluster serves). `tokenizer` and `cluster`
  // outlive the server. The cluster must pass its Emit and Reject commands to the server for as
  // long as the server lives.
  //
  // Errors: InvalidArgument for an unusable option, naming it; FailedPrecondition for an insecure
  // listener; NotFound or InvalidArgument for certificate or key files; AlreadyExists when the port
  // is in use.
  static absl::StatusOr<std::unique_ptr<ApiServer>> Create(ApiOptions options,
                                                           const Tokenizer& tokenizer,
                                                           ClusterPort& cluster);
  ~ApiServer() override;  // Stop(now)
  ApiServer(const ApiServer&) = delete;
  ApiServer& operator=(const ApiServer&) = delete;

  // "http://127.0.0.1:43215" or "https://...": the bound address, its port resolved.
  std::string address() const;

  // Drains: refuses new completions (503) at once, answers everything else as ever (so that probes
  // and operators see it), and lets running requests finish until `deadline`. Those that did not
  // end with an error; then the listener and every connection are closed. Blocks; any thread but
  // the core's; a second call returns when the first is done.
  void Stop(absl::Time deadline);

  // EmissionSink, called from the core's thread: only enqueue.
  void OnEmit(Emit emit) override;
  void OnReject(Reject reject) override;

 private:
  class State;
  explicit ApiServer(std::unique_ptr<State> state);

  std::unique_ptr<State> state_;
};

}  // namespace shoal
