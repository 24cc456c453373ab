// SPDX-License-Identifier: Apache-2.0
// Shows that the API as a whole answers as OpenAI's does: the real server over real sockets, the
// real tokenizer, and a cluster that recites. Streams and whole answers, cancellation, refusals,
// failures half way, keys, draining.
#include "coordinator/api/api_server.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/api_fake_cluster.h"
#include "tests/unit/api_test_client.h"
#include "tests/unit/api_test_model.h"

namespace shoal {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::EndsWith;
using testing::FakeCluster;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using testing::TestClient;
using testing::TinyOptions;
using testing::TinyTokenizer;

constexpr char kSpeech[] = "To be, or not to be: that is the question. Grüße, 世界 🎉!";

// The speech; choice i begins with token i so that choices differ.
std::vector<int32_t> Recite(const Request&, int choice) {
  std::vector<int32_t> tokens = TinyTokenizer().Encode(kSpeech, Tokenizer::Matching::kAddedTokens);
  if (choice > 0) tokens.insert(tokens.begin(), 20 + choice);
  return tokens;
}

bool WaitFor(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (!condition() && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(2));
  return condition();
}

struct Answer {
  std::string header;
  std::string body;
  json value() const { return json::parse(body, nullptr, /*allow_exceptions=*/false); }
};

class ApiServerTest : public ::testing::Test {
 protected:
  void Start(ApiOptions options = TinyOptions(), FakeCluster::Script script = Recite) {
    cluster_ = std::make_unique<FakeCluster>(std::move(script));
    auto server = ApiServer::Create(std::move(options), TinyTokenizer(), *cluster_);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    cluster_->Start(*server_);
  }
  void TearDown() override {
    if (cluster_ != nullptr) cluster_->Stop();
  }

  static std::string Message(const std::string& method, const std::string& path,
                             const std::string& body, const std::string& headers = "") {
    return absl::StrCat(method, " ", path, " HTTP/1.1\r\nHost: a\r\n", headers,
                        "Content-Length: ", body.size(), "\r\n\r\n", body);
  }
  Answer Ask(const std::string& method, const std::string& path, const std::string& body = "",
             const std::string& headers = "") {
    TestClient client(server_->address());
    client.Send(Message(method, path, body, headers));
    Answer answer;
    answer.header = client.ReadAnswer(&answer.body);
    return answer;
  }
  Answer Complete(const std::string& fields) {
    return Ask("POST", "/v1/completions", absl::StrCat("{\"prompt\": \"To\"", fields, "}"));
  }
  Answer Chat(const std::string& fields) {
    return Ask("POST", "/v1/chat/completions",
               absl::StrCat(R"({"messages": [{"role": "user", "content": "Hi"}])", fields, "}"));
  }
  // The events' data of a streamed answer.
  std::vector<std::string> Stream(const std::string& path, const std::string& body) {
    TestClient client(server_->address());
    client.Send(Message("POST", path, body));
    EXPECT_THAT(client.ReadUntil("\r\n\r\n"),
                AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("text/event-stream")));
    std::string text;
    while (true) {  // chunks: size, data
      const std::string size = client.ReadUntil("\r\n");
      const size_t bytes = std::strtoul(size.c_str(), nullptr, 16);
      if (bytes == 0) break;
      std::string chunk;
      while (chunk.size() < bytes + 2) {
        const std::string more = client.ReadUntil("\n");
        if (more.empty()) break;
        chunk += more;
      }
      text += chunk.substr(0, bytes);
    }
    std::vector<std::string> events = absl::StrSplit(text, "\n\n");
    EXPECT_EQ(events.back(), "");
    events.pop_back();
    for (std::string& event : events) {
      EXPECT_THAT(event, StartsWith("data: "));
      event = event.substr(6);
    }
    return events;
  }

  std::unique_ptr<FakeCluster> cluster_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(ApiServerTest, CompletesText) {
  Start();
  const Answer answer = Complete(R"(, "max_tokens": 200)");
  EXPECT_THAT(answer.header, AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("application/json"),
                                   HasSubstr("x-request-id: req_")));
  const json value = answer.value();
  EXPECT_THAT(value["id"].get<std::string>(), StartsWith("cmpl-"));
  EXPECT_EQ(value["object"], "text_completion");
  EXPECT_EQ(value["model"], "shoal-tiny");
  ASSERT_EQ(value["choices"].size(), 1u);
  EXPECT_EQ(value["choices"][0]["text"], kSpeech);
  EXPECT_EQ(value["choices"][0]["index"], 0);
  EXPECT_EQ(value["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(value["choices"][0]["logprobs"].is_null());
  const size_t prompt = cluster_->requests()[0].prompt.size();
  EXPECT_EQ(value["usage"]["prompt_tokens"], prompt);
  EXPECT_EQ(value["usage"]["completion_tokens"], Recite({}, 0).size());
  EXPECT_EQ(value["usage"]["total_tokens"], prompt + Recite({}, 0).size());
  EXPECT_EQ(value["usage"]["prompt_tokens_details"]["cached_tokens"], prompt - 1);
  EXPECT_EQ(Complete(R"(, "max_tokens": 3)").value()["choices"][0]["finish_reason"], "length");
  EXPECT_EQ(Complete(R"(, "max_tokens": 0)").value()["choices"][0]["text"], "");
}

TEST_F(ApiServerTest, CompletesChat) {
  Start();
  const json value = Chat(R"(, "n": 2)").value();
  EXPECT_THAT(value["id"].get<std::string>(), StartsWith("chatcmpl-"));
  EXPECT_EQ(value["object"], "chat.completion");
  ASSERT_EQ(value["choices"].size(), 2u);
  EXPECT_EQ(value["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(value["choices"][0]["message"]["content"], kSpeech);
  EXPECT_NE(value["choices"][1]["message"]["content"], kSpeech);
  EXPECT_EQ(value["choices"][1]["index"], 1);
  EXPECT_EQ(value["choices"][1]["finish_reason"], "stop");
  EXPECT_FALSE(value["choices"][0]["message"].contains("reasoning_content"));
}

TEST_F(ApiServerTest, StreamsWhatItWouldAnswer) {
  Start();
  const std::vector<std::string> events =
      Stream("/v1/completions",
             R"({"prompt": ["a", "b"], "n": 2, "max_tokens": 200, "stream": true, "logprobs": 1,
          "stream_options": {"include_usage": true}})");
  ASSERT_GT(events.size(), 10u);
  EXPECT_EQ(events.back(), "[DONE]");
  std::vector<std::string> texts(4);
  std::vector<std::string> finish(4);
  std::vector<size_t> tokens(4);
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const json event = json::parse(events[i]);
    EXPECT_TRUE(event["usage"].is_null());
    const json& choice = event["choices"][0];
    const size_t index = choice["index"];
    EXPECT_EQ(finish[index], "") << "a choice goes on after its end";
    texts[index] += choice["text"].get<std::string>();
    if (!choice["logprobs"].is_null()) tokens[index] += choice["logprobs"]["tokens"].size();
    if (!choice["finish_reason"].is_null()) finish[index] = choice["finish_reason"];
  }
  EXPECT_EQ(texts[0], kSpeech);
  EXPECT_EQ(texts[2], kSpeech);
  EXPECT_EQ(texts[1], texts[3]);
  EXPECT_EQ(finish, std::vector<std::string>(4, "stop"));
  EXPECT_EQ(tokens[0], Recite({}, 0).size());
  const json last = json::parse(events[events.size() - 2]);
  EXPECT_EQ(last["choices"].size(), 0u);
  EXPECT_EQ(last["usage"]["completion_tokens"], 2 * (Recite({}, 0).size() + Recite({}, 1).size()));
}

TEST_F(ApiServerTest, StreamsChat) {
  Start();
  const std::vector<std::string> events =
      Stream("/v1/chat/completions",
             R"({"messages": [{"role": "user", "content": "Hi"}], "stream": true})");
  const json first = json::parse(events[0]);
  EXPECT_EQ(first["object"], "chat.completion.chunk");
  EXPECT_EQ(first["choices"][0]["delta"]["role"], "assistant");
  EXPECT_FALSE(first.contains("usage"));
  std::string text;
  for (size_t i = 0; i + 1 < events.size(); ++i) {
    text += json::parse(events[i])["choices"][0]["delta"].value("content", "");
  }
  EXPECT_EQ(text, kSpeech);
  const json last = json::parse(events[events.size() - 2]);
  EXPECT_EQ(last["choices"][0]["delta"], json::object());
  EXPECT_EQ(last["choices"][0]["finish_reason"], "stop");
}

TEST_F(ApiServerTest, SplitsReasoning) {
  ApiOptions options = TinyOptions();
  options.chat_format = ChatFormat::kR1;
  Start(options, [](const Request&, int) {
    return TinyTokenizer().Encode("Hm.</think>Aye.", Tokenizer::Matching::kAddedTokens);
  });
  const json message = Chat("").value()["choices"][0]["message"];
  EXPECT_EQ(message["reasoning_content"], "Hm.");
  EXPECT_EQ(message["content"], "Aye.");
  std::string reasoning;
  std::string content;
  for (const std::string& event :
       Stream("/v1/chat/completions",
              R"({"messages": [{"role": "user", "content": "Hi"}], "stream": true})")) {
    if (event == "[DONE]") break;
    const json delta = json::parse(event)["choices"][0]["delta"];
    reasoning += delta.value("reasoning_content", "");
    content += delta.value("content", "");
  }
  EXPECT_EQ(reasoning, "Hm.");
  EXPECT_EQ(content, "Aye.");
}

TEST_F(ApiServerTest, StopStringsEndTheChoiceInTheCoreToo) {
  {
    Start();
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->token_interval = absl::Milliseconds(5);
  }
  const json value = Complete(R"(, "max_tokens": 200, "stop": [" that", "zzz"])").value();
  EXPECT_EQ(value["choices"][0]["text"], "To be, or not to be:");
  EXPECT_EQ(value["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(WaitFor([&] { return cluster_->running() == 0; }));
}

TEST_F(ApiServerTest, GivesLogprobs) {
  Start();
  json value = Complete(R"(, "max_tokens": 5, "logprobs": 2, "echo": true)").value();
  const json legacy = value["choices"][0]["logprobs"];
  const size_t prompt = cluster_->requests()[0].prompt.size();
  EXPECT_EQ(legacy["tokens"].size(), prompt + 5);
  EXPECT_TRUE(legacy["token_logprobs"][0].is_null());
  EXPECT_FLOAT_EQ(legacy["token_logprobs"][1].get<float>(), -0.5f);
  EXPECT_FLOAT_EQ(legacy["token_logprobs"][prompt].get<float>(), -1.0f);
  EXPECT_EQ(legacy["top_logprobs"][prompt].size(), 3u);  // two, and the chosen one
  EXPECT_EQ(legacy["text_offset"][prompt], 2);
  EXPECT_THAT(value["choices"][0]["text"].get<std::string>(), StartsWith("ToTo be"));

  value = Chat(R"(, "max_tokens": 60, "logprobs": true, "top_logprobs": 1)").value();
  const json content = value["choices"][0]["logprobs"]["content"];
  EXPECT_EQ(content.size(), Recite({}, 0).size());
  std::string bytes;
  for (const json& token : content) {
    EXPECT_EQ(token["top_logprobs"].size(), 1u);
    for (const json& byte : token["bytes"]) bytes += static_cast<char>(byte.get<int>());
  }
  EXPECT_EQ(bytes, kSpeech);
}

TEST_F(ApiServerTest, CancelsWhenTheClientGoes) {
  Start(TinyOptions(), [](const Request& request, int) {
    return std::vector<int32_t>(static_cast<size_t>(request.max_tokens), 300);
  });
  {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->token_interval = absl::Milliseconds(5);
  }
  for (const bool stream : {false, true}) {
    TestClient client(server_->address());
    client.Send(Message("POST", "/v1/completions",
                        absl::StrCat(R"({"prompt": ["a", "b"], "n": 2, "max_tokens": 2000)",
                                     stream ? R"(, "stream": true})" : "}")));
    ASSERT_TRUE(WaitFor([&] { return cluster_->running() == 4; }));
    if (stream) client.ReadUntil("data: ");
    client.Close();
    EXPECT_TRUE(WaitFor([&] { return cluster_->running() == 0; }));
  }
  // A cancellation that finds the queue full is not lost.
  TestClient client(server_->address());
  client.Send(Message("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 2000})"));
  ASSERT_TRUE(WaitFor([&] { return cluster_->running() == 1; }));
  auto fill = [&](bool full) {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->full = full;
  };
  fill(true);
  client.Close();
  absl::SleepFor(absl::Milliseconds(500));
  EXPECT_EQ(cluster_->running(), 1);
  fill(false);
  EXPECT_TRUE(WaitFor([&] { return cluster_->running() == 0; }));
}

TEST_F(ApiServerTest, RefusesWhenFull) {
  Start();
  auto set = [&](bool full, size_t max_running, bool formed) {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->full = full;
    cluster_->max_running = max_running;
    cluster_->formed = cluster_->serving = formed;
  };
  set(true, 1000, true);
  EXPECT_THAT(Complete("").header, AllOf(StartsWith("HTTP/1.1 429"), HasSubstr("Retry-After: 1")));
  set(false, 0, true);
  Answer answer = Complete("");
  EXPECT_THAT(answer.header, AllOf(StartsWith("HTTP/1.1 429"), HasSubstr("Retry-After: 3")));
  EXPECT_EQ(answer.value()["error"]["type"], "rate_limit_error");
  EXPECT_THAT(Complete(R"(, "stream": true)").header, StartsWith("HTTP/1.1 429"));
  set(false, 1000, false);
  EXPECT_THAT(Complete("").header, AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Retry-After")));
  EXPECT_THAT(Ask("GET", "/ready").header, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Ask("GET", "/health").header, StartsWith("HTTP/1.1 200"));
  set(false, 1000, true);
  EXPECT_THAT(Ask("GET", "/ready").header, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Complete("").header, StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(cluster_->running(), 0);
}

TEST_F(ApiServerTest, TakesRequestsWhileTheClusterIsPaused) {
  Start();
  {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->serving = false;
    cluster_->paused = "layer 1 expert 2: no holder is left of ranks 3";
  }
  // Whoever can choose goes elsewhere; whoever asks all the same waits and is served.
  const Answer ready = Ask("GET", "/ready");
  EXPECT_THAT(ready.header, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(ready.body, HasSubstr("no holder is left of ranks 3"));
  EXPECT_THAT(Complete("").header, StartsWith("HTTP/1.1 200"));
  {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->paused.clear();  // connecting takes long
  }
  EXPECT_THAT(Ask("GET", "/ready").header, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(Complete("").header, StartsWith("HTTP/1.1 200"));
}

TEST_F(ApiServerTest, ReportsFailuresHalfWay) {
  Start();
  {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->fail_after_tokens = absl::UnavailableError("worker 2 is gone");
  }
  const Answer answer = Complete("");
  EXPECT_THAT(answer.header, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(answer.body, HasSubstr("worker 2 is gone"));
  const std::vector<std::string> events =
      Stream("/v1/completions", R"({"prompt": ["a", "b"], "stream": true})");
  ASSERT_GE(events.size(), 2u);
  EXPECT_THAT(events[events.size() - 2], HasSubstr("worker 2 is gone"));
  EXPECT_EQ(json::parse(events[events.size() - 2])["error"]["type"], "server_error");
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_TRUE(WaitFor([&] { return cluster_->running() == 0; }));
}

TEST_F(ApiServerTest, PassesOnWhatTheCoreNeeds) {
  Start();
  Complete(R"(, "n": 2, "seed": 5, "user": "kate", "priority": 4, "max_tokens": 3)");
  Complete("");
  Complete("");
  const std::vector<Request> requests = cluster_->requests();
  EXPECT_EQ(requests[0].n, 2);
  EXPECT_EQ(requests[0].sampling.seed, 5u);
  EXPECT_EQ(requests[0].user, "kate");
  EXPECT_EQ(requests[0].priority, 4);
  EXPECT_EQ(requests[0].max_tokens, 3);
  EXPECT_NE(requests[0].deadline, absl::InfiniteFuture());
  EXPECT_NE(requests[1].sampling.seed, requests[2].sampling.seed);  // none given: a new one each
  EXPECT_NE(requests[1].id, requests[2].id);
}

TEST_F(ApiServerTest, ServesTheOtherPaths) {
  Start();
  EXPECT_EQ(Ask("GET", "/v1/models").value()["data"][0]["id"], "shoal-tiny");
  EXPECT_EQ(Ask("GET", "/v1/models/shoal-tiny").value()["object"], "model");
  EXPECT_EQ(Ask("GET", "/v1/models/shoal%2Dtiny").value()["object"], "model");
  EXPECT_THAT(Ask("GET", "/v1/models/%2").header, StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("GET", "/v1/models/%zz%").header, StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("GET", "/v1/models/other").header, StartsWith("HTTP/1.1 404"));
  EXPECT_EQ(Ask("GET", "/version?x=y").value()["version"], "1.2.3");
  EXPECT_EQ(Ask("GET", "/cluster/expert_load").value(),
            json({{"load", {json::array(), {7, 0, 12}}}}));
  const json cluster = Ask("GET", "/cluster").value();
  EXPECT_EQ(cluster["epoch"], 3);
  EXPECT_EQ(cluster["holders"], json({{"least", 2}, {"most", 4}, {"least_hosts", 1}}));
  const json worker = {
      {"rank", 0},          {"pid", 4711},      {"host", "localhost"}, {"state", "serving"},
      {"experts", 80},      {"blocks_used", 0}, {"blocks_total", 100}, {"running_sequences", 0},
      {"tokens_per_s", 0.0},
      {"death",
       {{"sequences", 0},
        {"tokens", 0},
        {"experts_left_with_one", 0},
        {"experts_lost", 0},
        {"pauses", false}}}};
  EXPECT_EQ(cluster["workers"], json::array({worker}));
  EXPECT_THAT(Ask("GET", "/nothing").header, StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(Ask("GET", "/v1/completions").header,
              AllOf(StartsWith("HTTP/1.1 405"), HasSubstr("Allow: POST")));
  EXPECT_THAT(Ask("DELETE", "/v1/models").header, StartsWith("HTTP/1.1 405"));
  const Answer tokens = Ask("POST", "/tokenize", R"({"prompt": "To be"})");
  EXPECT_EQ(tokens.value()["count"], tokens.value()["tokens"].size());
  EXPECT_EQ(Ask("POST", "/detokenize", json({{"tokens", tokens.value()["tokens"]}}).dump())
                .value()["prompt"],
            "To be");
  EXPECT_THAT(Ask("GET", "/version", "", "x-request-id: mine\r\n").header,
              HasSubstr("x-request-id: mine\r\n"));
}

TEST_F(ApiServerTest, CountsForPrometheus) {
  Start();
  Complete(R"(, "max_tokens": 4)");
  Complete(R"(, "temperature": 9)");
  const Answer answer = Ask("GET", "/metrics");
  EXPECT_THAT(answer.header, HasSubstr("text/plain; version=0.0.4"));
  for (const char* line :
       {"shoal_http_requests_total{path=\"/v1/completions\",status=\"200\"} 1",
        "shoal_http_requests_total{path=\"/v1/completions\",status=\"400\"} 1",
        "shoal_requests_finished_total{model_name=\"shoal-tiny\",finished_reason=\"length\"} 1",
        "shoal_serving{model_name=\"shoal-tiny\"} 1",
        "shoal_worker_blocks_total{model_name=\"shoal-tiny\",rank=\"0\"} 100",
        "vllm:num_requests_running{model_name=\"shoal-tiny\"} 0",
        "vllm:num_requests_waiting{",
        "vllm:kv_cache_usage_perc{",
        "vllm:prefix_cache_queries{",
        "vllm:prefix_cache_hits{",
        "vllm:prompt_tokens_total{",
        "vllm:generation_tokens_total{",
        "vllm:time_to_first_token_seconds_count{model_name=\"shoal-tiny\"} 1",
        "vllm:inter_token_latency_seconds_count{model_name=\"shoal-tiny\"} 3",
        "vllm:e2e_request_latency_seconds_count{",
        "vllm:request_queue_time_seconds_sum{",
        "vllm:kv_block_lifetime_seconds_bucket{model_name=\"shoal-tiny\",le=\"0.02\"} 1",
        "vllm:kv_block_lifetime_seconds_bucket{model_name=\"shoal-tiny\",le=\"+Inf\"} 2",
        "vllm:kv_block_lifetime_seconds_count{model_name=\"shoal-tiny\"} 2",
        "vllm:kv_block_lifetime_seconds_sum{model_name=\"shoal-tiny\"} 3600.015",
        "vllm:request_prefill_time_seconds_bucket{",
        "vllm:request_decode_time_seconds_count{"}) {
    EXPECT_TRUE(absl::StrContains(answer.body, absl::StrCat("\n", line))) << line;
  }
}

TEST_F(ApiServerTest, AsksForKeys) {
  std::string file = ::testing::TempDir() + "/api_keys_XXXXXX";
  const int fd = mkstemp(file.data());
  ASSERT_GE(fd, 0);
  close(fd);
  std::ofstream(file) << "# keys\n\nsecret-one\n secret-two \r\n";
  ApiOptions options = TinyOptions();
  options.api_keys_file = file;
  Start(options);
  for (const char* header :
       {"", "Authorization: Bearer wrong\r\n", "Authorization: Bearer\r\n",
        "Authorization: secret-one\r\n", "Authorization: Basic secret-one\r\n",
        "Authorization: Bearer # keys\r\n", "Authorization: Bearer secret-one secret-two\r\n"}) {
    const Answer answer = Ask("GET", "/v1/models", "", header);
    EXPECT_THAT(answer.header, StartsWith("HTTP/1.1 401")) << header;
    EXPECT_EQ(answer.value()["error"]["code"], "invalid_api_key");
    EXPECT_THAT(Ask("GET", "/cluster", "", header).header, StartsWith("HTTP/1.1 401"));
  }
  for (const char* header :
       {"Authorization: Bearer secret-one\r\n", "authorization: bearer secret-two\r\n"}) {
    EXPECT_THAT(Ask("GET", "/v1/models", "", header).header, StartsWith("HTTP/1.1 200")) << header;
  }
  EXPECT_THAT(Ask("GET", "/health").header, StartsWith("HTTP/1.1 200"));
  EXPECT_THAT(Ask("GET", "/ready").header, StartsWith("HTTP/1.1 200"));
  unlink(file.c_str());
}

TEST_F(ApiServerTest, DrainsAndThenCuts) {
  Start(TinyOptions(), [](const Request& request, int) {
    return std::vector<int32_t>(static_cast<size_t>(request.max_tokens), 300);
  });
  {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->token_interval = absl::Milliseconds(2);
  }
  TestClient brief(server_->address());
  brief.Send(Message("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 100})"));
  TestClient endless(server_->address());
  endless.Send(Message("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 2040})"));
  TestClient stream(server_->address());
  stream.Send(
      Message("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 2040, "stream": true})"));
  ASSERT_TRUE(WaitFor([&] { return cluster_->running() == 3; }));
  std::thread stopper([&] { server_->Stop(absl::Now() + absl::Milliseconds(1500)); });
  // Everybody can see it: new connections are served, only new completions are refused.
  EXPECT_TRUE(WaitFor([&] { return Ask("GET", "/health").value()["status"] == "draining"; }));
  const Answer ready = Ask("GET", "/ready");
  EXPECT_THAT(ready.header, AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Retry-After: ")));
  EXPECT_EQ(ready.value()["error"]["code"], "draining");
  EXPECT_THAT(Ask("GET", "/metrics").header, StartsWith("HTTP/1.1 200"));
  const Answer refused = Complete("");
  EXPECT_THAT(refused.header, AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("Retry-After: ")));
  EXPECT_EQ(refused.value()["error"]["type"], "server_error");

  std::string body;
  EXPECT_THAT(brief.ReadAnswer(&body), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(json::parse(body)["usage"]["completion_tokens"], 100);
  EXPECT_THAT(endless.ReadAll(), AllOf(StartsWith("HTTP/1.1 503"), HasSubstr("time to drain")));
  EXPECT_TRUE(endless.closed());
  EXPECT_THAT(stream.ReadAll(), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("data: {\"error\":"),
                                      HasSubstr("time to drain"), EndsWith("0\r\n\r\n")));
  EXPECT_TRUE(stream.closed());
  endless.Close();
  stream.Close();
  stopper.join();
  EXPECT_TRUE(WaitFor([&] { return cluster_->running() == 0; }));  // cancelled
}

TEST_F(ApiServerTest, DrainingEndsWithTheLastRequest) {
  Start();
  {
    absl::MutexLock lock(&cluster_->mutex_);
    cluster_->token_interval = absl::Milliseconds(10);
  }
  TestClient idle(server_->address());
  TestClient client(server_->address());
  client.Send(Message("POST", "/v1/completions", R"({"prompt": "a", "max_tokens": 20})"));
  ASSERT_TRUE(WaitFor([&] { return cluster_->running() == 1; }));
  const absl::Time begin = absl::Now();
  std::thread stopper([&] { server_->Stop(absl::Now() + absl::Seconds(60)); });
  EXPECT_THAT(client.ReadAll(), StartsWith("HTTP/1.1 200"));
  client.Close();
  stopper.join();
  EXPECT_LT(absl::Now() - begin, absl::Seconds(20));
  EXPECT_FALSE(TestClient(server_->address()).Send("GET"));  // nobody listens any more
}

TEST_F(ApiServerTest, TellsASlowReaderWhyItsStreamEnds) {
  ApiOptions options = TinyOptions();
  options.limits.max_write_buffer_bytes = 64 << 10;
  Start(std::move(options), [](const Request& request, int) {
    return std::vector<int32_t>(static_cast<size_t>(request.max_tokens), 300);
  });
  TestClient client(server_->address(), 4096);
  client.Send(Message("POST", "/v1/completions",
                      R"({"prompt": "a", "max_tokens": 2000, "n": 32, "logprobs": 20,
                          "stream": true, "stream_options": {"include_usage": true}})"));
  ASSERT_TRUE(WaitFor([&] { return cluster_->running() == 32; }));
  ASSERT_TRUE(WaitFor([&] { return cluster_->running() == 0; }));
  const std::string answer = client.ReadAll();
  EXPECT_TRUE(client.closed());
  EXPECT_THAT(answer.substr(answer.rfind("data: ")),
              AllOf(StartsWith("data: {\"error\":"), HasSubstr("slow_client")));
  EXPECT_TRUE(absl::StrContains(Ask("GET", "/metrics").body, "status=\"408\"} 1"));
}

TEST_F(ApiServerTest, ServesManyAtOnce) {
  Start();
  const json alone = Complete(R"(, "max_tokens": 200)").value();
  std::vector<std::thread> threads;
  std::atomic<int> good{0};
  for (int i = 0; i < 64; ++i) {
    threads.emplace_back([&] {
      if (Complete(R"(, "max_tokens": 200)").value()["choices"] == alone["choices"]) ++good;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(good.load(), 64);
}

TEST(ApiServer, RefusesBadOptions) {
  FakeCluster cluster(Recite);
  auto code = [&](const ApiOptions& options) {
    return ApiServer::Create(options, TinyTokenizer(), cluster).status().code();
  };
  ApiOptions options = TinyOptions();
  options.listen = "0.0.0.0:0";
  EXPECT_EQ(code(options), absl::StatusCode::kFailedPrecondition);
  options.insecure = true;
  EXPECT_EQ(code(options), absl::StatusCode::kOk);
  options = TinyOptions();
  options.api_keys_file = "/nonexistent";
  EXPECT_EQ(code(options), absl::StatusCode::kNotFound);
  options.api_keys_file = "/dev/null";
  EXPECT_EQ(code(options), absl::StatusCode::kInvalidArgument);
  options = TinyOptions();
  options.served_model_name = "";
  EXPECT_EQ(code(options), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
