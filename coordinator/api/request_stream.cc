// SPDX-License-Identifier: Apache-2.0
// See request_stream.h.
#include "coordinator/api/request_stream.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <random>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/sse.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

constexpr absl::Duration kCancelRetry = absl::Milliseconds(20);
constexpr int kCancelAttempts = 1500;  // half a minute; by then the coordinator is gone
constexpr absl::Duration kBusyRetryAfter = absl::Seconds(1);
constexpr int kTooSlow = 408;  // logged and counted for a client that does not read

uint64_t RandomSeed() {
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

std::optional<RequestId> RequestTable::Add(std::shared_ptr<RequestStream> stream, int prompt) {
  absl::MutexLock lock(&mutex_);
  if (closed_) return std::nullopt;
  last_ = last_.Next();
  entries_[last_] = {std::move(stream), prompt};
  return last_;
}

std::optional<RequestTable::Entry> RequestTable::Find(RequestId id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return std::nullopt;
  return found->second;
}

void RequestTable::Remove(RequestId id) {
  Entry entry;  // the stream may end with this entry, and not under the lock
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(id);
  if (found == entries_.end()) return;
  entry = std::move(found->second);
  entries_.erase(found);
  fewer_.NotifyAll();
}

void RequestTable::Clear() {
  absl::flat_hash_map<RequestId, Entry> entries;
  absl::MutexLock lock(&mutex_);
  entries.swap(entries_);
  fewer_.NotifyAll();
}

void RequestTable::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

bool RequestTable::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

bool RequestTable::WaitEmpty(absl::Time deadline) const {
  const auto empty = [this]() ABSL_SHARED_LOCKS_REQUIRED(mutex_) { return entries_.empty(); };
  absl::MutexLock lock(&mutex_);
  return fewer_.WaitUntil(mutex_, deadline, empty);
}

std::vector<std::shared_ptr<RequestStream>> RequestTable::Streams() const {
  absl::flat_hash_set<std::shared_ptr<RequestStream>> streams;
  absl::MutexLock lock(&mutex_);
  for (const auto& [id, entry] : entries_) streams.insert(entry.stream);
  return {streams.begin(), streams.end()};
}

RequestStream::RequestStream(const RequestServices& services, ApiRequest request,
                             std::shared_ptr<HttpExchange> exchange, std::string id,
                             std::string request_id, std::string endpoint)
    : services_(services),
      request_(std::move(request)),
      exchange_(std::move(exchange)),
      request_id_(std::move(request_id)),
      endpoint_(std::move(endpoint)),
      arrival_(SteadyNow()),
      last_token_(arrival_) {
  head_.chat = request_.chat;
  head_.id = std::move(id);
  head_.created = absl::ToUnixSeconds(absl::Now());
  head_.model = services_.model.options.served_model_name;
  head_.logprobs = request_.sampling.top_logprobs >= 0;
  head_.usage = request_.include_usage;
  prompts_.resize(request_.prompts.size());
  choices_.reserve(prompts_.size() * static_cast<size_t>(request_.n));
  for (size_t i = 0; i < prompts_.size() * static_cast<size_t>(request_.n); ++i) {
    choices_.emplace_back(services_.model.tokenizer, request_);
  }
}

void RequestStream::Start() {
  exchange_->OnClosed([self = shared_from_this()](HttpLoss why) { self->OnLost(why); });
  for (size_t i = 0; i < prompts_.size(); ++i) {
    Prompt& prompt = prompts_[i];
    const std::optional<RequestId> id =
        services_.table.Add(shared_from_this(), static_cast<int>(i));
    if (!id) return Fail(DrainingError(), kBusyRetryAfter);
    prompt.id = *id;
    prompt.running = true;
    prompt.unfinished = request_.n;
    Request request;
    request.id = prompt.id;
    request.prompt = request_.prompts[i].ids;
    request.max_tokens = request_.prompts[i].max_tokens;
    request.n = request_.n;
    request.sampling = request_.sampling;
    if (!request_.has_seed) request.sampling.seed = RandomSeed();
    request.priority = request_.priority;
    request.user = request_.user;
    request.deadline = arrival_ + services_.model.options.limits.request_timeout;
    if (!services_.cluster.Post(RequestArrived{std::move(request)})) {
      StopRunning(prompt);
      return Fail(absl::ResourceExhaustedError("too many requests are queued; try again later"),
                  kBusyRetryAfter);
    }
  }
}

void RequestStream::Deliver(int prompt, Emit emit, absl::Time at) {
  exchange_->Post([self = shared_from_this(), prompt, emit = std::move(emit), at] {
    self->OnEmit(prompt, emit, at);
  });
}

void RequestStream::Deliver(int prompt, Reject reject) {
  exchange_->Post([self = shared_from_this(), prompt, reject = std::move(reject)] {
    self->OnReject(prompt, reject);
  });
}

void RequestStream::Interrupt(absl::Status why) {
  exchange_->Post([self = shared_from_this(), why = std::move(why)] {
    if (!self->ended_) self->Fail(why, kBusyRetryAfter);
  });
}

void RequestStream::OnLost(HttpLoss why) {
  if (ended_) return;
  CancelAll();
  switch (why) {
    case HttpLoss::kClientGone:
      return End(499, "cancelled", "the client closed its connection");
    case HttpLoss::kSlowClient:
      return End(kTooSlow, "error", "the client took no byte of its answer for too long");
    case HttpLoss::kStopped:
      return End(503, "error", "the server stopped");
    case HttpLoss::kFailed:
      return End(500, "error", "the answer could not be made");
  }
}

void RequestStream::OnReject(int prompt, const Reject& reject) {
  if (ended_) return;
  StopRunning(prompts_[static_cast<size_t>(prompt)]);
  Fail(reject.why, reject.retry_after);
}

void RequestStream::OnEmit(int prompt_index, const Emit& emit, absl::Time at) {
  if (ended_) return;
  Prompt& prompt = prompts_[static_cast<size_t>(prompt_index)];
  if (emit.choice < 0 || emit.choice >= request_.n) return;
  const int index = ChoiceIndex(prompt_index, emit.choice);
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (choice.stream.finished()) return;  // ended by a stop string; the core was still on its way
  Observe(prompt, choice, emit, at);
  if (emit.finish == FinishReason::kError) return Fail(emit.error, absl::ZeroDuration());
  if (emit.finish == FinishReason::kCancelled) {
    return Fail(absl::UnavailableError("the server ended this request: it is shutting down"),
                kBusyRetryAfter);
  }

  Open(prompt_index, emit.choice);
  if (ended_) return;
  ChoiceDelta delta = choice.stream.Push(emit.tokens, emit.logprobs, emit.finish);
  const bool finished = choice.stream.finished();
  choice.finish = delta.finish;
  Give(index, std::move(delta));
  if (ended_ || !finished) return;
  if (emit.finish == FinishReason::kNone) {
    PostCancel({prompt.id, emit.choice}, kCancelAttempts);  // a stop string; the core goes on
  }
  if (--prompt.unfinished == 0) StopRunning(prompt);
  if (std::none_of(prompts_.begin(), prompts_.end(), [](const Prompt& p) { return p.running; })) {
    Complete();
  }
}

void RequestStream::Observe(Prompt& prompt, Choice& choice, const Emit& emit, absl::Time at) {
  if (!prompt.begun) {
    prompt.begun = true;
    prompt.cached_tokens = emit.cached_prompt_tokens;
    if (!first_token_) queued_ = emit.queued;
  }
  if (!emit.prompt_logprobs.empty()) prompt.logprobs = emit.prompt_logprobs;
  const int64_t tokens = static_cast<int64_t>(emit.tokens.size());
  if (tokens == 0) return;
  if (!first_token_) {
    first_token_ = at;
    services_.metrics.FirstToken(at - arrival_, queued_);
  }
  if (choice.stream.completion_tokens() > 0) {
    services_.metrics.MoreTokens(at - choice.last_tokens, tokens);
  }
  choice.last_tokens = at;
  last_token_ = at;
}

// Before the first tokens of a choice: the stream's head, the role, the echo.
void RequestStream::Open(int prompt, int choice_of_prompt) {
  const int index = ChoiceIndex(prompt, choice_of_prompt);
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (choice.opened) return;
  choice.opened = true;
  if (request_.stream && !streaming_) {
    streaming_ = true;
    HttpResponse head;
    head.content_type = std::string(kSseContentType);
    head.headers = {{"x-request-id", request_id_}, {"Cache-Control", "no-cache"}};
    exchange_->StartStream(std::move(head));
  }
  if (request_.stream && request_.chat) Send(SseEvent(RoleChunkJson(head_, index)));
  if (request_.echo) {
    Give(index, choice.stream.Echo(request_.prompts[static_cast<size_t>(prompt)],
                                   prompts_[static_cast<size_t>(prompt)].logprobs));
  }
}

void RequestStream::Give(int index, ChoiceDelta delta) {
  if (!request_.stream) {
    choices_[static_cast<size_t>(index)].gathered.Append(std::move(delta));
    return;
  }
  const FinishReason finish = delta.finish;
  const Tokenizer& tokenizer = services_.model.tokenizer;
  // A chat's last chunk is empty but for its finish reason: some clients stop reading at that.
  if (request_.chat && !delta.empty()) {
    delta.finish = FinishReason::kNone;
    Send(SseEvent(ChunkJson(head_, tokenizer, index, delta)));
    delta = ChoiceDelta();
    delta.finish = finish;
  }
  if (!delta.empty() || finish != FinishReason::kNone) {
    Send(SseEvent(ChunkJson(head_, tokenizer, index, delta)));
  }
}

void RequestStream::Send(absl::string_view event) {
  if (ended_ || exchange_->Write(event)) return;
  CancelAll();
  const absl::Status why = WithErrorCode(
      absl::InvalidArgumentError(absl::StrCat("the stream was ended: more than ",
                                              services_.model.options.limits.max_write_buffer_bytes,
                                              " bytes of it waited to be read")),
      "slow_client");
  exchange_->Cut(SseEvent(ErrorJson(why)));
  End(kTooSlow, "error", why.message());
}

void RequestStream::StopRunning(Prompt& prompt) {
  prompt.running = false;
  services_.table.Remove(prompt.id);
}

void RequestStream::CancelAll() {
  for (Prompt& prompt : prompts_) {
    if (!prompt.running) continue;
    StopRunning(prompt);
    PostCancel({prompt.id, std::nullopt}, kCancelAttempts);
  }
}

void RequestStream::PostCancel(RequestCancelled cancel, int attempts_left) {
  if (services_.cluster.Post(cancel) || attempts_left == 0) return;
  exchange_->PostAfter(kCancelRetry, [self = shared_from_this(), cancel, attempts_left] {
    self->PostCancel(cancel, attempts_left - 1);
  });
}

Usage RequestStream::CountUsage() const {
  Usage usage;
  for (size_t i = 0; i < prompts_.size(); ++i) {
    usage.prompt_tokens += static_cast<int64_t>(request_.prompts[i].ids.size());
    usage.cached_tokens += prompts_[i].cached_tokens;
  }
  for (const Choice& choice : choices_)
    usage.completion_tokens += choice.stream.completion_tokens();
  return usage;
}

// What is answered at once is counted before: who has the answer finds it in the metrics.
void RequestStream::Complete() {
  const bool any_length = std::any_of(choices_.begin(), choices_.end(), [](const Choice& choice) {
    return choice.finish == FinishReason::kLength;
  });
  const char* const finish = any_length ? "length" : "stop";
  if (request_.stream) {
    if (head_.usage) Send(SseEvent(UsageChunkJson(head_, CountUsage())));
    Send(kSseDone);
    if (ended_) return;
    exchange_->Finish();
    return End(200, finish, "");
  }
  std::vector<ChoiceDelta> choices;
  for (Choice& choice : choices_) choices.push_back(std::move(choice.gathered));
  HttpResponse response;
  response.headers = {{"x-request-id", request_id_}};
  response.body = ResponseJson(head_, services_.model.tokenizer, choices, CountUsage());
  End(200, finish, "");
  exchange_->Respond(std::move(response));
}

void RequestStream::Fail(const absl::Status& status, absl::Duration retry_after) {
  CancelAll();
  if (streaming_) {
    const std::string last = absl::StrCat(SseEvent(ErrorJson(status)), kSseDone);
    if (exchange_->Write(last)) {
      exchange_->Finish();
    } else {
      exchange_->Cut(last);
    }
    return End(HttpStatusOf(status), "error", status.message());
  }
  HttpResponse response = ErrorResponse(status, retry_after);
  response.headers.emplace_back("x-request-id", request_id_);
  End(HttpStatusOf(status), "error", status.message());
  exchange_->Respond(std::move(response));
}

void RequestStream::End(int status, absl::string_view finish, absl::string_view why) {
  ended_ = true;
  const absl::Time now = SteadyNow();
  const Usage usage = CountUsage();
  services_.metrics.HttpAnswered(endpoint_, status);
  services_.metrics.RequestFinished(
      finish, now - arrival_, first_token_ ? last_token_ - *first_token_ : absl::ZeroDuration());
  spdlog::info(
      "{} {} {} {}: {} prompt tokens ({} cached), {} generated, queued {:.3f} s, first token "
      "{:.3f} s, total {:.3f} s{}",
      endpoint_, request_id_, status, std::string(finish), usage.prompt_tokens, usage.cached_tokens,
      usage.completion_tokens, absl::ToDoubleSeconds(queued_),
      first_token_ ? absl::ToDoubleSeconds(*first_token_ - arrival_) : 0.0,
      absl::ToDoubleSeconds(now - arrival_), why.empty() ? "" : absl::StrCat(": ", why));
}

}  // namespace shoal
