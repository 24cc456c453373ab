// SPDX-License-Identifier: Apache-2.0
// Which path does what; the work is in the files it names.
#include "coordinator/api/api_server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "absl/random/random.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "coordinator/api/api_error.h"
#include "coordinator/api/api_keys.h"
#include "coordinator/api/cluster_json.h"
#include "coordinator/api/http_server.h"
#include "coordinator/api/metrics.h"
#include "coordinator/api/openai_request.h"
#include "coordinator/api/request_media.h"
#include "coordinator/api/request_stream.h"
#include "coordinator/api/tokenize.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

namespace shoal {
namespace {

using Json = nlohmann::ordered_json;

constexpr absl::Duration kNotReadyRetryAfter = absl::Seconds(2);
constexpr absl::Duration kLastWords = absl::Seconds(1);  // for errors to reach clients at the end

// 128 random bits.
std::string UniqueName(absl::string_view prefix) {
  thread_local absl::BitGen random;
  return absl::StrFormat("%s%016x%016x", prefix, absl::Uniform<uint64_t>(random),
                         absl::Uniform<uint64_t>(random));
}

// The client's own x-request-id if it is fit to be repeated.
std::string RequestName(const HttpRequest& request) {
  const absl::string_view given = request.Header("x-request-id");
  const bool fit =
      !given.empty() && given.size() <= 128 &&
      std::all_of(given.begin(), given.end(), [](char c) { return c > ' ' && c < 127; });
  return fit ? std::string(given) : UniqueName("req_");
}

// "a%2Fb" -> "a/b". What is no escape stays as it is.
std::string PercentDecoded(absl::string_view text) {
  std::string decoded;
  for (size_t i = 0; i < text.size(); ++i) {
    int byte = 0;
    if (text[i] == '%' && i + 2 < text.size() && absl::ascii_isxdigit(text[i + 1]) &&
        absl::SimpleHexAtoi(text.substr(i + 1, 2), &byte)) {
      decoded += static_cast<char>(byte);
      i += 2;
    } else {
      decoded += text[i];
    }
  }
  return decoded;
}

HttpResponse JsonResponse(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

HttpResponse JsonOrError(absl::StatusOr<std::string> body) {
  return body.ok() ? JsonResponse(*std::move(body)) : ErrorResponse(body.status());
}

}  // namespace

class ApiServer::State : public HttpHandler {
 public:
  State(ApiOptions options, const Tokenizer& tokenizer, ClusterPort& cluster, ApiKeys keys,
        std::unique_ptr<HttpServer> http)
      : options_(std::move(options)),
        model_(options_, tokenizer),
        cluster_(cluster),
        keys_(std::move(keys)),
        metrics_(options_.served_model_name),
        started_(absl::Now()),
        http_(std::move(http)) {
    http_->Start(*this);
  }

  ~State() override {
    Stop(SteadyNow());
    table_.Clear();  // its streams hold exchanges of http_
  }

  void Stop(absl::Time deadline) {
    table_.Close();
    if (!table_.WaitEmpty(deadline)) {
      for (const auto& stream : table_.Streams()) {
        stream->Interrupt(WithErrorCode(
            absl::UnavailableError("the server is shutting down, and this request was not done "
                                   "when its time to drain was over"),
            "draining"));
      }
    }
    http_->Stop(std::max(deadline, SteadyNow() + kLastWords));
  }

  std::string address() const { return http_->address(); }
  const RequestTable& table() const { return table_; }

  void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    const std::string name = RequestName(request);
    const auto [endpoint, response] = Route(request, name, exchange);
    if (!response) return;  // a stream answers
    metrics_.HttpAnswered(endpoint, response->status);
    if (response->status >= 400) {
      // A probe asks every second until it likes the answer.
      const auto level = endpoint == "/ready" ? spdlog::level::debug : spdlog::level::info;
      spdlog::log(level, "{} {} {}: {}", std::string(endpoint), name, response->status,
                  response->body);
    }
    HttpResponse answer = *response;
    answer.headers.emplace_back("x-request-id", name);
    exchange->Respond(std::move(answer));
  }

  HttpResponse ProtocolError(int status, absl::string_view message) override {
    metrics_.HttpAnswered("other", status);
    HttpResponse response = ErrorResponse(status < 500 ? absl::InvalidArgumentError(message)
                                                       : absl::InternalError(message));
    response.status = status;
    return response;
  }

 private:
  using Answer = std::pair<absl::string_view, std::optional<HttpResponse>>;  // path, what to say

  Answer Route(const HttpRequest& request, const std::string& name,
               const std::shared_ptr<HttpExchange>& exchange) {
    const absl::string_view path = request.path;
    // Probes ask without a key.
    if (path == "/health") return Get(request, "/health", [this] { return Health(); });
    if (path == "/ready") return Get(request, "/ready", [this] { return Ready(); });
    if (!keys_.Allow(request.Header("authorization"))) {
      return {"other", ErrorResponse(WithErrorCode(
                           absl::UnauthenticatedError("missing or wrong API key; send it as "
                                                      "\"Authorization: Bearer KEY\""),
                           "invalid_api_key"))};
    }
    if (path == "/v1/models") return Get(request, "/v1/models", [this] { return Models(); });
    if (absl::StartsWith(path, "/v1/models/")) {
      return Get(request, "/v1/models", [&] { return Model(PercentDecoded(path.substr(11))); });
    }
    if (path == "/version") return Get(request, "/version", [this] { return Version(); });
    if (path == "/cluster") {
      return Get(request, "/cluster",
                 [this] { return JsonResponse(ClusterJson(cluster_.Snapshot())); });
    }
    if (path == "/cluster/expert_load") {
      return Get(request, "/cluster/expert_load",
                 [this] { return JsonResponse(ExpertLoadJson(cluster_.Snapshot())); });
    }
    if (path == "/metrics") return Get(request, "/metrics", [this] { return Metrics(); });
    if (path == "/tokenize") {
      return Post(request, "/tokenize",
                  [&] { return JsonOrError(Tokenize(request.body, model_)); });
    }
    if (path == "/detokenize") {
      return Post(request, "/detokenize",
                  [&] { return JsonOrError(Detokenize(request.body, model_)); });
    }
    if (path == "/v1/completions") {
      return Post(request, "/v1/completions", [&] {
        return Generate(ParseCompletionRequest(request.body, model_), "cmpl-", "/v1/completions",
                        name, exchange);
      });
    }
    if (path == "/v1/chat/completions") {
      return Post(request, "/v1/chat/completions", [&] {
        return Generate(ParseChatRequest(request.body, model_), "chatcmpl-", "/v1/chat/completions",
                        name, exchange);
      });
    }
    return {
        "other",
        ErrorResponse(absl::NotFoundError(absl::StrCat(
            "no such path: ", path.substr(0, 100),
            "; this server has /v1/models, /v1/completions, /v1/chat/completions, "
            "/tokenize, /detokenize, /health, /ready, /version, /cluster, /cluster/expert_load, "
            "/metrics")))};
  }

  template <typename Handler>
  static Answer Get(const HttpRequest& request, absl::string_view path, Handler handler) {
    if (request.method == "GET" || request.method == "HEAD") return {path, handler()};
    return {path, WrongMethod(request, path, "GET")};
  }
  template <typename Handler>
  static Answer Post(const HttpRequest& request, absl::string_view path, Handler handler) {
    if (request.method == "POST") {
      if (auto refused = RefusedMedia(request)) return {path, std::move(refused)};
      return {path, handler()};
    }
    return {path, WrongMethod(request, path, "POST")};
  }
  static HttpResponse WrongMethod(const HttpRequest& request, absl::string_view path,
                                  const std::string& allowed) {
    HttpResponse response = ErrorResponse(absl::InvalidArgumentError(absl::StrCat(
        path, " takes ", allowed, ", found ", absl::string_view(request.method).substr(0, 20))));
    response.status = 405;
    response.headers.emplace_back("Allow", allowed);
    return response;
  }

  // Why no new request can be taken now; OK if one can. Once the cluster has served, they wait.
  absl::Status CanTake(const ClusterSnapshot& cluster) const {
    if (table_.closed()) return DrainingError();
    if (!cluster.formed) {
      return absl::UnavailableError("the cluster is not ready: workers are missing or loading");
    }
    return absl::OkStatus();
  }

  // The process is alive and should not be killed, whether it takes requests or not.
  HttpResponse Health() {
    return JsonResponse(table_.closed() ? R"({"status":"draining"})" : R"({"status":"ok"})");
  }

  HttpResponse Ready() {
    const ClusterSnapshot cluster = cluster_.Snapshot();
    absl::Status status = CanTake(cluster);
    if (status.ok() && !cluster.serving) {
      status = absl::UnavailableError(
          absl::StrCat("requests wait for a worker that is loading: ", cluster.paused));
    }
    if (!status.ok()) return ErrorResponse(status, kNotReadyRetryAfter);
    return JsonResponse(R"({"status":"ready"})");
  }

  Json ModelObject() const {
    Json model;
    model["id"] = options_.served_model_name;
    model["object"] = "model";
    model["created"] = absl::ToUnixSeconds(started_);
    model["owned_by"] = "shoal";
    model["max_model_len"] = model_.max_context;
    return model;
  }

  HttpResponse Models() const {
    Json list;
    list["object"] = "list";
    list["data"] = Json::array({ModelObject()});
    return JsonResponse(list.dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  HttpResponse Model(absl::string_view name) const {
    if (name != options_.served_model_name) {
      return ErrorResponse(
          WithErrorCode(absl::NotFoundError(absl::StrCat("the model `", name.substr(0, 100),
                                                         "` does not exist; this server has `",
                                                         options_.served_model_name, "`")),
                        "model_not_found"));
    }
    return JsonResponse(ModelObject().dump(-1, ' ', false, Json::error_handler_t::replace));
  }

  HttpResponse Version() const {
    Json json;
    json["version"] = options_.version;
    return JsonResponse(json.dump());
  }

  HttpResponse Metrics() {
    HttpResponse response;
    response.content_type = "text/plain; version=0.0.4; charset=utf-8";
    response.body = metrics_.Render(cluster_.Snapshot(), http_->connections());
    return response;
  }

  // Nothing to say when a stream was started: it answers.
  std::optional<HttpResponse> Generate(absl::StatusOr<ApiRequest> request, absl::string_view prefix,
                                       const std::string& endpoint, const std::string& name,
                                       const std::shared_ptr<HttpExchange>& exchange) {
    if (!request.ok()) return ErrorResponse(request.status());
    if (const absl::Status status = CanTake(cluster_.Snapshot()); !status.ok()) {
      return ErrorResponse(status, kNotReadyRetryAfter);
    }
    const RequestServices services{model_, cluster_, metrics_, table_};
    std::make_shared<RequestStream>(services, *std::move(request), exchange, UniqueName(prefix),
                                    name, endpoint)
        ->Start();
    return std::nullopt;
  }

  const ApiOptions options_;
  const ApiModel model_;
  ClusterPort& cluster_;
  const ApiKeys keys_;
  ApiMetrics metrics_;
  RequestTable table_;
  const absl::Time started_;
  const std::unique_ptr<HttpServer> http_;  // last: its threads use all of the above
};

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Create(ApiOptions options,
                                                             const Tokenizer& tokenizer,
                                                             ClusterPort& cluster) {
  if (options.served_model_name.empty()) {
    return absl::InvalidArgumentError("served model name: want a name, found none");
  }
  if (options.model.vocab_size <= 0 || options.model.max_position_embeddings <= 0) {
    return absl::InvalidArgumentError("model config: vocab_size and max_position_embeddings unset");
  }
  ApiKeys keys;
  if (!options.api_keys_file.empty()) {
    SHOAL_ASSIGN_OR_RETURN(keys, ApiKeys::Load(options.api_keys_file));
  }
  HttpServerOptions http;
  http.listen = options.listen;
  http.tls_certificate_file = options.tls_certificate_file;
  http.tls_key_file = options.tls_key_file;
  http.loopback_only =
      !options.insecure && (options.tls_certificate_file.empty() || options.api_keys_file.empty());
  http.io_threads = options.io_threads;
  http.max_header_bytes = options.limits.max_header_bytes;
  http.max_body_bytes = options.limits.max_body_bytes;
  http.max_connections = options.limits.max_connections;
  http.max_write_buffer_bytes = options.limits.max_write_buffer_bytes;
  http.header_timeout = options.limits.header_timeout;
  http.body_timeout = options.limits.body_timeout;
  http.idle_timeout = options.limits.idle_timeout;
  http.write_timeout = options.limits.write_timeout;
  SHOAL_ASSIGN_OR_RETURN(std::unique_ptr<HttpServer> server, HttpServer::Create(std::move(http)));
  return std::unique_ptr<ApiServer>(new ApiServer(std::make_unique<State>(
      std::move(options), tokenizer, cluster, std::move(keys), std::move(server))));
}

ApiServer::ApiServer(std::unique_ptr<State> state) : state_(std::move(state)) {}
ApiServer::~ApiServer() = default;

std::string ApiServer::address() const { return state_->address(); }
void ApiServer::Stop(absl::Time deadline) { state_->Stop(deadline); }

void ApiServer::OnEmit(Emit emit) {
  if (auto entry = state_->table().Find(emit.request)) {
    entry->stream->Deliver(entry->prompt, std::move(emit), SteadyNow());
  }
}

void ApiServer::OnReject(Reject reject) {
  if (auto entry = state_->table().Find(reject.request)) {
    entry->stream->Deliver(entry->prompt, std::move(reject));
  }
}

}  // namespace shoal
