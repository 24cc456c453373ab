// SPDX-License-Identifier: Apache-2.0
// One client's request on its way: handed to the core as one Request per prompt, its emissions
// gathered into an answer or sent on as they come, cancelled when the client goes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/api/choice_stream.h"
#include "coordinator/api/cluster_port.h"
#include "coordinator/api/http_server.h"
#include "coordinator/api/metrics.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/api/openai_response.h"
#include "engine/base/steady_clock.h"

namespace shoal {

class RequestStream;

// Which stream an emission belongs to. Thread-safe.
class RequestTable {
 public:
  struct Entry {
    std::shared_ptr<RequestStream> stream;
    int prompt = 0;  // index among the stream's prompts
  };
  // Gives the stream's prompt an id that no other request has had; none when closed.
  std::optional<RequestId> Add(std::shared_ptr<RequestStream> stream, int prompt);
  std::optional<Entry> Find(RequestId id) const;
  void Remove(RequestId id);
  void Clear();

  // Nothing is added any more.
  void Close();
  bool closed() const;
  // Blocks until no prompt is left. False at `deadline`.
  bool WaitEmpty(absl::Time deadline) const;
  // The streams that still have prompts here.
  std::vector<std::shared_ptr<RequestStream>> Streams() const;

 private:
  mutable absl::Mutex mutex_;
  mutable SteadyCondVar fewer_;  // entries
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  RequestId last_ ABSL_GUARDED_BY(mutex_){0};
  absl::flat_hash_map<RequestId, Entry> entries_ ABSL_GUARDED_BY(mutex_);
};

// What a stream works with; outlives it.
struct RequestServices {
  const ApiModel& model;
  ClusterPort& cluster;
  ApiMetrics& metrics;
  RequestTable& table;
};

// Lives on its exchange's strand, except Deliver.
class RequestStream : public std::enable_shared_from_this<RequestStream> {
 public:
  // `id` names the answer ("cmpl-..."), `request_id` is its x-request-id, `endpoint` its path.
  RequestStream(const RequestServices& services, ApiRequest request,
                std::shared_ptr<HttpExchange> exchange, std::string id, std::string request_id,
                std::string endpoint);

  // Posts the prompts to the core; answers at once if it takes no more.
  void Start();

  // What the core says about a prompt, and when. Any thread; only enqueues.
  void Deliver(int prompt, Emit emit, absl::Time at);
  void Deliver(int prompt, Reject reject);
  // Ends it with this error, for a reason of the server's. Any thread; only enqueues.
  void Interrupt(absl::Status why);

 private:
  struct Prompt {
    RequestId id;
    bool running = false;  // the core may still emit for it
    int unfinished = 0;    // choices
    bool begun = false;    // its first emission has come
    int64_t cached_tokens = 0;
    std::vector<TokenLogprobs> logprobs;  // echo: of tokens 1..
  };
  struct Choice {
    Choice(const Tokenizer& tokenizer, const ApiRequest& request) : stream(tokenizer, request) {}
    ChoiceStream stream;
    bool opened = false;   // echo and role are out
    ChoiceDelta gathered;  // not streamed: the answer so far
    FinishReason finish = FinishReason::kNone;
    absl::Time last_tokens;
  };

  void OnEmit(int prompt, const Emit& emit, absl::Time at);
  void OnReject(int prompt, const Reject& reject);
  void Observe(Prompt& prompt, Choice& choice, const Emit& emit, absl::Time at);
  void Open(int prompt, int choice);
  void Give(int choice, ChoiceDelta delta);
  // May end the stream: the client does not keep up.
  void Send(absl::string_view event);
  void StopRunning(Prompt& prompt);
  void CancelAll();
  // A lost cancellation would keep blocks busy, so a full queue is asked again.
  void PostCancel(RequestCancelled cancel, int attempts_left);
  void Complete();
  void Fail(const absl::Status& status, absl::Duration retry_after);
  void OnLost(HttpLoss why);
  // `finish` counts for the metrics; `why` is for the log, empty when all is well.
  void End(int status, absl::string_view finish, absl::string_view why);
  int ChoiceIndex(int prompt, int choice) const { return prompt * request_.n + choice; }
  Usage CountUsage() const;

  const RequestServices services_;
  const ApiRequest request_;
  const std::shared_ptr<HttpExchange> exchange_;
  const std::string request_id_;
  const std::string endpoint_;
  ResponseHead head_;
  const absl::Time arrival_;

  std::vector<Prompt> prompts_;
  std::vector<Choice> choices_;  // prompt by prompt
  bool streaming_ = false;       // the head of a streamed answer is out
  bool ended_ = false;           // answered, failed or abandoned
  std::optional<absl::Time> first_token_;
  absl::Time last_token_;
  absl::Duration queued_;
};

}  // namespace shoal
