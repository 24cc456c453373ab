// SPDX-License-Identifier: Apache-2.0
// Shows that the HTTP face keeps its promises to clients good and bad: a real server with a toy
// handler, driven over real sockets with well-formed, pipelined, truncated, malformed, oversized
// and stalled input.
#include <atomic>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "coordinator/api/http_server.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/api_test_client.h"

namespace shoal {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;
using testing::TestClient;

// GET /echo and POST /echo answer method, path and body; /stream sends pieces; /flood streams
// without end; /hold keeps the exchange; /throw throws.
class ToyHandler : public HttpHandler {
 public:
  void OnRequest(HttpRequest request, std::shared_ptr<HttpExchange> exchange) override {
    requests.fetch_add(1);
    if (request.path == "/stream") {
      HttpResponse head;
      head.content_type = "text/event-stream";
      exchange->StartStream(head);
      EXPECT_TRUE(exchange->Write("one"));
      exchange->PostAfter(absl::Milliseconds(5), [exchange] {
        EXPECT_TRUE(exchange->Write("2"));
        exchange->PostAfter(absl::Milliseconds(5), [exchange] {
          EXPECT_TRUE(exchange->Write("three"));
          exchange->Finish();
        });
      });
    } else if (request.path == "/flood") {
      exchange->OnClosed([this](HttpLoss why) { Lost(why); });
      exchange->StartStream({});
      Flood(exchange);
    } else if (request.path == "/large") {
      exchange->StartStream({});
      EXPECT_TRUE(exchange->Write(std::string(3 << 20, 'x')));  // a piece beyond the bound
      exchange->Finish();
    } else if (request.path == "/hold") {
      exchange->OnClosed([this](HttpLoss why) { Lost(why); });
      absl::MutexLock lock(&mutex);
      held.push_back(exchange);
    } else if (request.path == "/throw") {
      throw std::runtime_error("as the test asked");
    } else {
      HttpResponse response;
      response.content_type = "text/plain";
      response.body = request.method + " " + request.path + " " + request.body;
      exchange->Respond(response);
    }
  }
  HttpResponse ProtocolError(int status, absl::string_view message) override {
    HttpResponse response;
    response.status = status;
    response.body = std::string(message);
    return response;
  }

  void Flood(std::shared_ptr<HttpExchange> exchange) {
    if (lost.load() > 0) return;
    if (!exchange->Write(std::string(4096, 'x'))) {
      cuts.fetch_add(1);
      return exchange->Cut("too slow");
    }
    exchange->PostAfter(absl::ZeroDuration(), [this, exchange] { Flood(exchange); });
  }

  void Lost(HttpLoss why) {
    last_loss.store(why);
    lost.fetch_add(1);
  }

  std::shared_ptr<HttpExchange> Held(size_t index) {
    absl::MutexLock lock(&mutex);
    return index < held.size() ? held[index] : nullptr;
  }

  std::atomic<int> requests{0};
  std::atomic<int> lost{0};
  std::atomic<HttpLoss> last_loss{HttpLoss::kFailed};
  std::atomic<int> cuts{0};
  absl::Mutex mutex;
  std::vector<std::shared_ptr<HttpExchange>> held;
};

bool WaitFor(const std::function<bool()>& condition, absl::Duration timeout = absl::Seconds(10)) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    if (condition()) return true;
    absl::SleepFor(absl::Milliseconds(2));
  }
  return condition();
}

class HttpServerTest : public ::testing::Test {
 protected:
  void Start(HttpServerOptions options = {}) {
    options.listen = "127.0.0.1:0";
    auto server = HttpServer::Create(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    server_->Start(handler_);
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    server_->Stop(absl::Now());
    handler_.held.clear();  // exchanges do not outlive their server
  }
  std::string address() const { return server_->address(); }

  ToyHandler handler_;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpServerTest, KeepsConnectionsAlive) {
  Start();
  TestClient client(address());
  for (int i = 0; i < 3; ++i) {
    ASSERT_TRUE(client.Send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"));
    std::string body;
    EXPECT_THAT(client.ReadAnswer(&body), StartsWith("HTTP/1.1 200 OK\r\n"));
    EXPECT_EQ(body, "POST /echo hello");
  }
  ASSERT_TRUE(client.Send("GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
  EXPECT_THAT(client.ReadAll(), HasSubstr("Connection: close\r\n"));
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  TestClient client(address());
  std::string requests;
  for (int i = 0; i < 2000; ++i) {
    absl::StrAppend(&requests, "GET /", i, " HTTP/1.1\r\nHost: a\r\n\r\n");
  }
  std::thread sender([&] { client.Send(requests); });
  for (int i = 0; i < 2000; ++i) {
    std::string body;
    client.ReadAnswer(&body);
    ASSERT_EQ(body, absl::StrCat("GET /", i, " "));
  }
  sender.join();
}

TEST_F(HttpServerTest, TakesTheNextRequestInPiecesWhileAnswering) {
  Start();
  TestClient client(address());
  client.Send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(WaitFor([&] { return handler_.Held(0) != nullptr; }));
  // Its header is buffered behind the answer under way, its body comes afterwards.
  client.Send("POST /next HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
  absl::SleepFor(absl::Milliseconds(50));
  handler_.Held(0)->Post([exchange = handler_.Held(0)] { exchange->Respond({}); });
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 200"));
  absl::SleepFor(absl::Milliseconds(50));
  client.Send("hello");
  std::string body;
  client.ReadAnswer(&body);
  EXPECT_EQ(body, "POST /next hello");
}

TEST_F(HttpServerTest, AcceptsARequestByteByByteAndChunked) {
  Start();
  TestClient client(address());
  for (const char c :
       std::string("POST /e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
                   "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n")) {
    ASSERT_TRUE(client.Send(std::string(1, c)));
  }
  std::string body;
  client.ReadAnswer(&body);
  EXPECT_EQ(body, "POST /e abcde");
}

TEST_F(HttpServerTest, StreamsInChunks) {
  Start();
  TestClient client(address());
  client.Send("GET /stream HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("0\r\n\r\n"),
              AllOf(HasSubstr("Transfer-Encoding: chunked\r\n"),
                    HasSubstr("\r\n\r\n3\r\none\r\n1\r\n2\r\n5\r\nthree\r\n0\r\n\r\n")));
  // The connection goes on.
  client.Send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, StreamsToHttp10ByClosing) {
  Start();
  TestClient client(address());
  client.Send("GET /stream HTTP/1.0\r\n\r\n");
  const std::string answer = client.ReadAll();
  EXPECT_THAT(answer, HasSubstr("\r\n\r\none2three"));
  EXPECT_THAT(answer, ::testing::Not(HasSubstr("chunked")));
  EXPECT_TRUE(client.closed());
}

TEST_F(HttpServerTest, HeadHasNoBody) {
  Start();
  TestClient client(address());
  client.Send("HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\nGET /next HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), HasSubstr("Content-Length: 11\r\n"));
  std::string body;
  EXPECT_THAT(client.ReadAnswer(&body), StartsWith("HTTP/1.1 200"));
  EXPECT_EQ(body, "GET /next ");
}

TEST_F(HttpServerTest, SaysContinueBeforeABody) {
  Start();
  TestClient client(address());
  client.Send("POST /e HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("hi");
  std::string body;
  client.ReadAnswer(&body);
  EXPECT_EQ(body, "POST /e hi");
}

TEST_F(HttpServerTest, RefusesMalformedRequestsAndLives) {
  HttpServerOptions options;
  options.max_header_bytes = 1024;
  options.max_body_bytes = 1000;
  Start(options);
  const std::string big_header =
      absl::StrCat("GET / HTTP/1.1\r\nA: ", std::string(5000, 'a'), "\r\n\r\n");
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "400"},  // a TLS hello
      {"hello\r\n\r\n", "400"},
      {"GET\r\n\r\n", "400"},
      {"GET / HTTP/9.9\r\n\r\n", "505"},
      {"GET / HTTQ/1.1\r\n\r\n", "505"},
      {"GET / HTTP/1.1\r\nno colon\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\n: empty\r\n\r\n", "400"},
      {std::string("GET / HTTP/1.1\r\nA: \0\r\n\r\n", 24), "400"},
      {"GET /\x01 HTTP/1.1\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "400"},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
       "400"},
      {"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n500\r\n" +
           std::string(0x500, 'a'),
       "413"},
      {"GET / HTTP/1.1\r\n\r\n", "400"},
      {"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "400"},
      {"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", "413"},
      {big_header, "431"},
  };
  for (const auto& [request, status] : cases) {
    TestClient client(address());
    client.Send(request);
    const std::string answer = client.ReadUntil("\r\n\r\n");
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 " + status)) << request;
    EXPECT_THAT(answer, HasSubstr("Connection: close\r\n")) << request;
    client.HalfClose();
    client.ReadAll();
    EXPECT_TRUE(client.closed()) << request;
  }
  EXPECT_EQ(handler_.requests.load(), 0);
  TestClient client(address());
  client.Send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 200"));
}

// Requests with bytes changed, cut or doubled at random: each gets an answer or an end.
TEST_F(HttpServerTest, SurvivesDamagedRequests) {
  HttpServerOptions options;
  options.header_timeout = absl::Milliseconds(50);
  options.body_timeout = absl::Milliseconds(50);
  options.idle_timeout = absl::Milliseconds(50);
  Start(options);
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(::testing::Message() << "seed " << seed);
  std::mt19937 random(seed);
  const std::string good =
      "POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
      "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello"
      "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n";
  for (int round = 0; round < 200; ++round) {
    std::string bytes = good;
    for (uint32_t i = 1 + random() % 3; i > 0; --i) {
      const size_t at = random() % bytes.size();
      switch (random() % 3) {
        case 0:
          bytes[at] = static_cast<char>(random());
          break;
        case 1:
          bytes.erase(at, 1 + random() % 20);
          break;
        default:
          bytes.insert(at, bytes.substr(random() % bytes.size(), random() % 20));
      }
    }
    TestClient client(address());
    client.Send(bytes);
    if (random() % 2 == 0) client.HalfClose();
    client.ReadAll();
    ASSERT_TRUE(client.closed()) << bytes;
  }
  EXPECT_TRUE(WaitFor([&] { return server_->connections() == 0; }));
}

TEST_F(HttpServerTest, AnswersAnOversizedBodyThatIsStillBeingSent) {
  HttpServerOptions options;
  options.max_body_bytes = 1000;
  Start(options);
  TestClient client(address());
  client.Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000\r\n\r\n");
  for (int i = 0; i < 100; ++i) client.Send(std::string(100000, 'x'));
  EXPECT_THAT(client.ReadUntil("\r\n\r\n"), StartsWith("HTTP/1.1 413"));
}

TEST_F(HttpServerTest, CutsOffStalledRequests) {
  HttpServerOptions options;
  options.header_timeout = absl::Milliseconds(150);
  options.body_timeout = absl::Milliseconds(150);
  options.idle_timeout = absl::Milliseconds(150);
  Start(options);
  TestClient silent(address());
  TestClient header(address());
  header.Send("GET / HT");
  TestClient body(address());
  body.Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc");
  TestClient idle(address());
  idle.Send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
  idle.ReadAnswer();
  EXPECT_EQ(silent.ReadAll(), "");
  EXPECT_TRUE(silent.closed());
  EXPECT_THAT(header.ReadAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_THAT(body.ReadAll(), StartsWith("HTTP/1.1 408"));
  EXPECT_EQ(idle.ReadAll(), "");
  EXPECT_TRUE(idle.closed());
  EXPECT_TRUE(WaitFor([&] { return server_->connections() <= 2; }));
}

TEST_F(HttpServerTest, NoticesClientsThatGo) {
  Start();
  {  // The next piece of a stream tells.
    TestClient client(address());
    client.Send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
    client.ReadUntil("xxxx");
    client.Close();
    EXPECT_TRUE(WaitFor([&] { return handler_.lost.load() == 1; }));
  }
  for (const bool half_closed_before : {false, true}) {
    const int before = handler_.lost.load();
    TestClient client(address());
    client.Send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    ASSERT_TRUE(WaitFor([&] { return handler_.requests.load() == before + 1; }));
    if (half_closed_before) client.HalfClose();
    client.Close();
    EXPECT_TRUE(WaitFor([&] { return handler_.lost.load() == before + 1; }));
    EXPECT_EQ(handler_.last_loss.load(), HttpLoss::kClientGone);
    EXPECT_TRUE(WaitFor([&] { return server_->connections() == 0; }));
  }
  // Answers to the lost clients do nothing.
  for (auto& exchange : handler_.held) {
    absl::Notification done;
    exchange->Post([&] {
      exchange->Respond({});
      done.Notify();
    });
    EXPECT_TRUE(done.WaitForNotificationWithTimeout(absl::Seconds(10)));
  }
}

// As `nc -N` does: all is sent, nothing more will be, the answer is still wanted.
TEST_F(HttpServerTest, AnswersClientsThatClosedTheirHalf) {
  Start();
  {
    TestClient client(address());
    client.Send(
        "GET /a HTTP/1.1\r\nHost: a\r\n\r\nGET /stream HTTP/1.1\r\nHost: a\r\n\r\n"
        "GET /b HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /half");
    client.HalfClose();
    const std::string answers = client.ReadAll();
    EXPECT_TRUE(client.closed());
    EXPECT_THAT(answers, AllOf(HasSubstr("GET /a "), HasSubstr("three"), HasSubstr("GET /b ")));
    EXPECT_THAT(answers, Not(AnyOf(HasSubstr("HTTP/1.1 100"), HasSubstr("/half"))));
  }
  for (const bool late : {false, true}) {
    TestClient client(address());
    client.Send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
    client.HalfClose();
    const size_t index = late ? 1 : 0;
    ASSERT_TRUE(WaitFor([&] { return handler_.Held(index) != nullptr; }));
    // A late answer comes behind an interim one.
    if (late) {
      EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    }
    handler_.Held(index)->Post([exchange = handler_.Held(index)] {
      HttpResponse response;
      response.body = "here";
      exchange->Respond(response);
    });
    EXPECT_THAT(client.ReadAll(), AllOf(StartsWith("HTTP/1.1 200"), HasSubstr("here")));
    EXPECT_TRUE(client.closed());
  }
  EXPECT_EQ(handler_.lost.load(), 0);
  EXPECT_TRUE(WaitFor([&] { return server_->connections() == 0; }));
}

TEST_F(HttpServerTest, TakesTargetsInAbsoluteForm) {
  Start();
  TestClient client(address());
  for (const auto& [target, path] :
       std::vector<std::pair<std::string, std::string>>{{"http://some.host:80/echo/x?y", "/echo/x"},
                                                        {"HTTPS://h/e", "/e"},
                                                        {"http://h", "/"},
                                                        {"http://h?x=/y", "/"},
                                                        {"/http://h/", "/http://h/"}}) {
    client.Send(absl::StrCat("GET ", target, " HTTP/1.1\r\nHost: a\r\n\r\n"));
    std::string body;
    client.ReadAnswer(&body);
    EXPECT_EQ(body, absl::StrCat("GET ", path, " "));
  }
}

TEST_F(HttpServerTest, CutsClientsThatDoNotRead) {
  HttpServerOptions options;
  options.max_write_buffer_bytes = 1 << 20;
  Start(options);
  TestClient client(address(), 4096);
  client.Send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(WaitFor([&] { return handler_.cuts.load() == 1; }));
  // It can still read what was on its way, and why there is no more.
  const std::string answer = client.ReadAll();
  EXPECT_THAT(answer, EndsWith("\r\n8\r\ntoo slow\r\n0\r\n\r\n"));
  EXPECT_TRUE(client.closed());
  client.Close();
  EXPECT_TRUE(WaitFor([&] { return server_->connections() == 0; }));
  EXPECT_EQ(handler_.lost.load(), 0);
}

TEST_F(HttpServerTest, ForgetsClientsThatNeverReadAgain) {
  HttpServerOptions options;
  options.write_timeout = absl::Milliseconds(200);
  Start(options);
  TestClient client(address(), 4096);
  client.Send("GET /flood HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(WaitFor([&] { return handler_.cuts.load() + handler_.lost.load() == 1; }));
  EXPECT_TRUE(WaitFor([&] { return server_->connections() == 0; }));
  if (handler_.lost.load() == 1) {
    EXPECT_EQ(handler_.last_loss.load(), HttpLoss::kSlowClient);
  }
}

TEST_F(HttpServerTest, TakesAPieceLargerThanTheBuffer) {
  Start();
  TestClient client(address());
  client.Send("GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  const std::string answer = client.ReadAll();
  EXPECT_GT(answer.size(), size_t{3} << 20);
  EXPECT_THAT(answer, EndsWith("0\r\n\r\n"));
}

TEST_F(HttpServerTest, CutsClientsThatStopReadingAnAnswer) {
  HttpServerOptions options;
  options.write_timeout = absl::Milliseconds(200);
  Start(options);
  TestClient client(address(), 4096);
  const std::string body(8 << 20, 'b');  // more than both kernels will hold for it
  client.Send(
      absl::StrCat("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: ", body.size(), "\r\n\r\n"));
  client.Send(body);
  EXPECT_TRUE(WaitFor([&] { return handler_.requests.load() == 1; }));
  EXPECT_TRUE(WaitFor([&] { return server_->connections() == 0; }));
}

TEST_F(HttpServerTest, HandlerExceptionsEndOneConnection) {
  Start();
  TestClient client(address());
  client.Send("GET /throw HTTP/1.1\r\nHost: a\r\n\r\n");
  client.ReadAll();
  EXPECT_TRUE(client.closed());
  TestClient other(address());
  other.Send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(other.ReadAnswer(), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, LimitsConnections) {
  HttpServerOptions options;
  options.max_connections = 2;
  Start(options);
  TestClient a(address());
  TestClient b(address());
  ASSERT_TRUE(WaitFor([&] { return server_->connections() == 2; }));
  TestClient c(address());
  EXPECT_EQ(c.ReadAll(), "");
  EXPECT_TRUE(c.closed());
  a.Close();
  ASSERT_TRUE(WaitFor([&] { return server_->connections() == 1; }));
  TestClient d(address());
  d.Send("GET /echo HTTP/1.1\r\nHost: a\r\n\r\n");
  EXPECT_THAT(d.ReadAnswer(), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, StopWaitsForAnswersUnderWay) {
  Start();
  TestClient idle(address());
  TestClient client(address());
  client.Send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(WaitFor([&] { return handler_.Held(0) != nullptr; }));
  std::thread stopper([&] { server_->Stop(absl::Now() + absl::Seconds(20)); });
  idle.ReadAll();
  EXPECT_TRUE(idle.closed());
  handler_.Held(0)->Post([exchange = handler_.Held(0)] {
    HttpResponse response;
    response.body = "late";
    exchange->Respond(response);
  });
  const std::string answer = client.ReadAll();
  EXPECT_THAT(answer, HasSubstr("late"));
  EXPECT_TRUE(client.closed());
  client.Close();
  stopper.join();
  EXPECT_EQ(handler_.lost.load(), 0);
}

TEST_F(HttpServerTest, StopCutsWhatIsLeftAtTheDeadline) {
  Start();
  TestClient client(address());
  client.Send("GET /hold HTTP/1.1\r\nHost: a\r\n\r\n");
  ASSERT_TRUE(WaitFor([&] { return handler_.Held(0) != nullptr; }));
  server_->Stop(absl::Now() + absl::Milliseconds(50));
  EXPECT_EQ(handler_.lost.load(), 1);
  EXPECT_EQ(handler_.last_loss.load(), HttpLoss::kStopped);
  client.ReadAll();
  EXPECT_TRUE(client.closed());
}

TEST(HttpServer, RefusesUnusableAddresses) {
  HttpServerOptions options;
  for (const char* listen : {"", "8000", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http",
                             "127.0.0.1:70000", "no.such.host.invalid:80"}) {
    options.listen = listen;
    EXPECT_EQ(HttpServer::Create(options).status().code(), absl::StatusCode::kInvalidArgument)
        << listen;
  }
  options.listen = "0.0.0.0:0";
  options.loopback_only = true;
  EXPECT_EQ(HttpServer::Create(options).status().code(), absl::StatusCode::kFailedPrecondition);
  options.listen = "127.0.0.1:0";
  auto first = HttpServer::Create(options);
  ASSERT_TRUE(first.ok());
  options.listen = (*first)->address().substr(7);
  EXPECT_EQ(HttpServer::Create(options).status().code(), absl::StatusCode::kAlreadyExists);
}

TEST(HttpServer, RefusesUnusableCertificates) {
  HttpServerOptions options;
  options.tls_certificate_file = "/nonexistent.pem";
  EXPECT_EQ(HttpServer::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
  options.tls_key_file = "/nonexistent.key";
  EXPECT_EQ(HttpServer::Create(options).status().code(), absl::StatusCode::kNotFound);
  options.tls_certificate_file = options.tls_key_file = SHOAL_SOURCE_DIR "/CMakeLists.txt";
  EXPECT_EQ(HttpServer::Create(options).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace shoal
