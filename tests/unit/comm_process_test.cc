// SPDX-License-Identifier: Apache-2.0
// Shows that the transports between processes survive what processes do: a rank killed with SIGKILL
// is named to the others within a fraction of a second, waiting or idle; one that stands still for
// seconds is not taken for dead; a new process takes a dead one's place in the next epoch, or the
// others go on without it; one that was only stopped and wakes up in a past epoch disturbs nobody,
// and may come back;
// and nothing is left behind on the host. The ranks are copies of this program, told what to do
// through pipes.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <deque>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

using ::testing::ContainsRegex;
using ::testing::HasSubstr;

constexpr uint64_t kSeed = 99;
constexpr size_t kMaxMessage = 3000;

// --- The life of a rank -------------------------------------------------------------------------

// Commands: "connect EPOCH RANK ENDPOINT...", where "-" is an absent rank, and "exchange EPOCH COUNT
// DEADLINE_MS". Every command is answered with one line: "ok" or a status. A "connect" interrupts
// exchanges that are under way, as the coordinator's word does in a worker. Ends with its input.
class RankProgram {
 public:
  explicit RankProgram(std::unique_ptr<Fabric> fabric) : fabric_(std::move(fabric)) {}

  void Run() {
    std::cout << fabric_->endpoint() << std::endl;
    std::thread reader([this] { Read(); });
    while (const std::optional<std::string> line = NextLine()) {
      const absl::Status status = Do(*line);
      std::cout << (status.ok() ? "ok" : status.ToString()) << std::endl;
    }
    reader.join();
  }

 private:
  void Read() {
    for (std::string line; std::getline(std::cin, line);) {
      absl::MutexLock lock(&mutex_);
      lines_.push_back(line);
      if (running_ != nullptr && absl::StartsWith(line, "connect")) running_->Cancel();
    }
    absl::MutexLock lock(&mutex_);
    over_ = true;
  }
  std::optional<std::string> NextLine() {
    absl::MutexLock lock(&mutex_);
    const auto any = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return over_ || !lines_.empty(); };
    mutex_.Await(absl::Condition(&any));
    if (lines_.empty()) return std::nullopt;
    std::string line = std::move(lines_.front());
    lines_.pop_front();
    return line;
  }
  absl::Status Do(const std::string& line) {
    std::istringstream words(line);
    std::string command;
    int64_t epoch = 0;
    words >> command >> epoch;
    if (command == "connect") {
      int rank = 0;
      words >> rank;
      std::vector<std::string> endpoints{std::istream_iterator<std::string>(words), {}};
      std::replace(endpoints.begin(), endpoints.end(), std::string("-"), std::string());
      absl::StatusOr<Exchange*> connected = fabric_->Connect(
          Epoch(epoch), RankId(rank), endpoints, absl::Now() + absl::Seconds(20));
      if (connected.ok()) exchange_ = *connected;
      return connected.status();
    }
    int64_t count = 0;
    int64_t deadline_ms = 0;
    words >> count >> deadline_ms;
    SetRunning(exchange_);
    absl::Status status;
    for (int64_t step = 0; step < count && status.ok(); ++step) {
      const ExchangeTag tag = Tag(epoch, step, 0, ExchangePhase(step % 2));
      const absl::Time deadline = absl::Now() + absl::Milliseconds(deadline_ms);
      status = SendAll(*exchange_, tag, kSeed, deadline);
      if (status.ok()) status = ReceiveAll(*exchange_, tag, kSeed, deadline);
      if (status.ok()) exchange_->Release(tag);
    }
    SetRunning(nullptr);
    return status;
  }
  void SetRunning(Exchange* exchange) {
    absl::MutexLock lock(&mutex_);
    running_ = exchange;
  }

  const std::unique_ptr<Fabric> fabric_;
  Exchange* exchange_ = nullptr;
  absl::Mutex mutex_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  Exchange* running_ ABSL_GUARDED_BY(mutex_) = nullptr;  // while exchanges are under way
};

int LiveAsRank(const std::string& transport, const std::string& cluster) {
  FabricOptions options = Options(transport, kMaxMessage);
  options.cluster = cluster;
  absl::StatusOr<std::unique_ptr<Fabric>> fabric = Fabric::Create(options);
  if (!fabric.ok()) {
    std::cout << fabric.status() << std::endl;
    return 1;
  }
  RankProgram(*std::move(fabric)).Run();
  return 0;
}

// --- The tests' hold on it ----------------------------------------------------------------------

class Process {
 public:
  Process(const std::string& transport, const std::string& cluster) {
    std::array<int, 2> in;
    std::array<int, 2> out;
    if (pipe2(in.data(), O_CLOEXEC) != 0 || pipe2(out.data(), O_CLOEXEC) != 0) std::abort();
    pid_ = fork();
    if (pid_ == 0) {
      dup2(in[0], 0);
      dup2(out[1], 1);
      execl("/proc/self/exe", "comm_process_test", "--rank", transport.c_str(), cluster.c_str(),
            nullptr);
      _exit(127);
    }
    close(in[0]);
    close(out[1]);
    to_ = in[1];
    from_ = fdopen(out[0], "r");
    endpoint_ = Answer();
  }
  ~Process() {
    close(to_);
    if (pid_ > 0) {
      kill(pid_, SIGCONT);
      waitpid(pid_, nullptr, 0);
    }
    fclose(from_);
  }
  Process(const Process&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  pid_t pid() const { return pid_; }
  void Tell(const std::string& command) {
    const std::string line = command + "\n";
    EXPECT_EQ(write(to_, line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  // The next line it says; empty when it is dead.
  std::string Answer() {
    std::array<char, 4096> line;
    if (fgets(line.data(), line.size(), from_) == nullptr) return "";
    std::string text(line.data());
    if (!text.empty() && text.back() == '\n') text.pop_back();
    return text;
  }
  void Kill() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }

 private:
  pid_t pid_ = -1;
  int to_ = -1;
  FILE* from_ = nullptr;
  std::string endpoint_;
};

class CommProcess : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int kWorld = 3;

  CommProcess() : cluster_(absl::StrCat("process", getpid())) {
    for (int rank = 0; rank < kWorld; ++rank) ranks_.push_back(Start());
  }

  std::unique_ptr<Process> Start() { return std::make_unique<Process>(GetParam(), cluster_); }
  // Tells all ranks but `absent` to connect.
  void TellToConnect(int epoch, int absent = -1) {
    std::vector<std::string> endpoints;
    for (int rank = 0; rank < kWorld; ++rank) {
      endpoints.push_back(rank == absent ? "-" : ranks_[rank]->endpoint());
    }
    for (int rank = 0; rank < kWorld; ++rank) {
      if (rank == absent) continue;
      ranks_[rank]->Tell(
          absl::StrCat("connect ", epoch, " ", rank, " ", absl::StrJoin(endpoints, " ")));
    }
  }
  void ConnectAll(int epoch) {
    TellToConnect(epoch);
    for (const auto& rank : ranks_) ASSERT_EQ(rank->Answer(), "ok");
  }
  void ExchangeAll(int epoch, int count) {
    for (const auto& rank : ranks_)
      rank->Tell(absl::StrCat("exchange ", epoch, " ", count, " 20000"));
    for (const auto& rank : ranks_) EXPECT_EQ(rank->Answer(), "ok");
  }

  const std::string cluster_;
  std::vector<std::unique_ptr<Process>> ranks_;
};

TEST_P(CommProcess, ADeathIsNamedToThoseWhoWait) {
  ConnectAll(1);
  for (const auto& rank : ranks_) rank->Tell("exchange 1 100000000 20000");
  absl::SleepFor(absl::Milliseconds(200));
  const absl::Time killed = absl::Now();
  ranks_[1]->Kill();
  for (int rank : {0, 2}) {
    const std::string answer = ranks_[rank]->Answer();
    EXPECT_THAT(answer, HasSubstr("UNAVAILABLE: epoch 1 step "));
    EXPECT_THAT(answer, HasSubstr("rank 1 is gone"));
  }
  const absl::Duration took = absl::Now() - killed;
  std::cout << GetParam() << ": a killed rank was named after " << took << std::endl;
  EXPECT_LT(took, absl::Seconds(1));
}

TEST_P(CommProcess, ADeathAtRestIsNamedByTheNextPost) {
  ConnectAll(1);
  ExchangeAll(1, 10);
  ranks_[2]->Kill();
  absl::SleepFor(absl::Milliseconds(300));
  const absl::Time start = absl::Now();
  for (int rank : {0, 1}) ranks_[rank]->Tell("exchange 1 1 20000");
  for (int rank : {0, 1}) EXPECT_THAT(ranks_[rank]->Answer(), HasSubstr("rank 2 is gone"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(1));
}

TEST_P(CommProcess, ANewProcessTakesADeadOnesPlace) {
  ConnectAll(1);
  for (int epoch = 2; epoch < 5; ++epoch) {
    for (const auto& rank : ranks_)
      rank->Tell(absl::StrCat("exchange ", epoch - 1, " 100000000 20000"));
    absl::SleepFor(absl::Milliseconds(20));
    const int victim = epoch % kWorld;
    ranks_[victim]->Kill();
    for (int rank = 0; rank < kWorld; ++rank) {
      if (rank == victim) continue;
      EXPECT_THAT(ranks_[rank]->Answer(), HasSubstr("UNAVAILABLE"));
    }
    ranks_[victim] = Start();
    ConnectAll(epoch);
  }
  ExchangeAll(4, 200);
}

// A process that stood still while the others went on without it (a false suspicion) comes back in
// the middle of what it was doing. Whatever it still sends is of the old epoch and reaches nobody.
TEST_P(CommProcess, AProcessOfThePastDisturbsNobody) {
  ConnectAll(1);
  for (const auto& rank : ranks_) rank->Tell("exchange 1 100000000 300");
  absl::SleepFor(absl::Milliseconds(50));
  kill(ranks_[1]->pid(), SIGSTOP);
  for (int rank : {0, 2}) {
    // One of them may be a round behind, and waited for too.
    EXPECT_THAT(ranks_[rank]->Answer(), ContainsRegex("waits for rank( |s 0, |s )1"));
  }
  std::unique_ptr<Process> past = std::move(ranks_[1]);
  ranks_[1] = Start();
  ConnectAll(2);
  for (const auto& rank : ranks_) rank->Tell("exchange 2 3000 20000");
  kill(past->pid(), SIGCONT);
  EXPECT_THAT(past->Answer(), ::testing::AnyOf(HasSubstr("UNAVAILABLE"), HasSubstr("ABORTED"),
                                               HasSubstr("DEADLINE_EXCEEDED")));
  past->Tell("exchange 1 5 100");
  EXPECT_NE(past->Answer(), "ok");
  for (const auto& rank : ranks_) EXPECT_EQ(rank->Answer(), "ok");
}

TEST_P(CommProcess, TheOthersGoOnWithoutADeadOne) {
  ConnectAll(1);
  for (const auto& rank : ranks_) rank->Tell("exchange 1 100000000 20000");
  absl::SleepFor(absl::Milliseconds(50));
  ranks_[1]->Kill();
  for (int rank : {0, 2}) EXPECT_THAT(ranks_[rank]->Answer(), HasSubstr("UNAVAILABLE"));
  const absl::Time begin = absl::Now();
  TellToConnect(2, 1);
  for (int rank : {0, 2}) ASSERT_EQ(ranks_[rank]->Answer(), "ok");
  const absl::Duration took = absl::Now() - begin;
  std::cout << GetParam() << ": the others were connected anew after " << took << std::endl;
  EXPECT_LT(took, absl::Seconds(1));
  for (int rank : {0, 2}) ranks_[rank]->Tell("exchange 2 1000 20000");
  for (int rank : {0, 2}) EXPECT_EQ(ranks_[rank]->Answer(), "ok");
  ranks_[1] = Start();  // back, as another process
  ConnectAll(3);
  ExchangeAll(3, 200);
}

// The sleeper stops wherever it happens to be, perhaps in the middle of writing to a peer's memory,
// and wakes up in the middle of an epoch that knows nothing of it. It notices, and comes back.
TEST_P(CommProcess, ASleeperThatIsLeftOutSpoilsNothing) {
  ConnectAll(1);
  for (int round = 0; round < 6; ++round) {
    const int epoch = 1 + 2 * round;
    const int sleeper = round % kWorld;
    for (const auto& rank : ranks_) {
      rank->Tell(absl::StrCat("exchange ", epoch, " 100000000 20000"));
    }
    absl::SleepFor(absl::Milliseconds(100 + 7 * round));
    kill(ranks_[sleeper]->pid(), SIGSTOP);
    absl::SleepFor(absl::Milliseconds(20));
    // Nobody can tell a sleeper from one that is busy: they hear of it from outside, and that word
    // interrupts their wait.
    TellToConnect(epoch + 1, sleeper);
    const auto for_others = [&](auto act) {
      for (int rank = 0; rank < kWorld; ++rank) {
        if (rank != sleeper) act(*ranks_[rank]);
      }
    };
    for_others([](Process& rank) { EXPECT_THAT(rank.Answer(), HasSubstr("ABORTED")); });
    for_others([](Process& rank) { EXPECT_EQ(rank.Answer(), "ok"); });
    for_others([&](Process& rank) {
      rank.Tell(absl::StrCat("exchange ", epoch + 1, " 3000 20000"));
    });
    absl::SleepFor(absl::Milliseconds(10));
    kill(ranks_[sleeper]->pid(), SIGCONT);
    EXPECT_THAT(ranks_[sleeper]->Answer(),
                ::testing::AnyOf(HasSubstr("UNAVAILABLE"), HasSubstr("ABORTED")));
    for_others([](Process& rank) { EXPECT_EQ(rank.Answer(), "ok"); });
    ConnectAll(epoch + 2);
  }
}

// A core that others took, a page-in, a debugger: longer than a keepalive, shorter than the silence
// that is a death.
TEST_P(CommProcess, AProcessThatStandsStillForAWhileIsNotDead) {
  ConnectAll(1);
  ExchangeAll(1, 10);
  kill(ranks_[1]->pid(), SIGSTOP);
  absl::SleepFor(absl::Seconds(2));
  kill(ranks_[1]->pid(), SIGCONT);
  ExchangeAll(1, 10);
}

// As behind a network that swallows what it says: no connection ends, and nobody else can tell.
TEST_P(CommProcess, SilenceIsADeathOverGrpc) {
  if (GetParam() != "grpc") GTEST_SKIP() << "the ranks share a host: there is no such network";
  ConnectAll(1);
  for (const auto& rank : ranks_) rank->Tell("exchange 1 100000000 10000");
  absl::SleepFor(absl::Milliseconds(50));
  kill(ranks_[1]->pid(), SIGSTOP);
  for (int rank : {0, 2}) EXPECT_THAT(ranks_[rank]->Answer(), HasSubstr("UNAVAILABLE"));
  kill(ranks_[1]->pid(), SIGCONT);
}

TEST_P(CommProcess, OneThatLeavesInGoodOrderIsMissedOnlyWhereItIsNeeded) {
  ConnectAll(1);
  ExchangeAll(1, 10);
  ranks_[2].reset();  // ends by itself
  ranks_[0]->Tell("exchange 1 1 20000");
  EXPECT_THAT(ranks_[0]->Answer(), HasSubstr("UNAVAILABLE"));
}

TEST_P(CommProcess, NothingIsLeftOfTheDead) {
  const auto files = [] {
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
      names.insert(entry.path().string());
    }
    return names;
  };
  const auto sockets = [&] {
    std::ifstream table("/proc/net/unix");
    const std::string text(std::istreambuf_iterator<char>(table), {});
    return text.find(absl::StrCat("shoal-", cluster_)) != std::string::npos;
  };
  const std::set<std::string> before = files();
  EXPECT_EQ(sockets(), GetParam() == "shm");
  ConnectAll(1);
  for (const auto& rank : ranks_) rank->Tell("exchange 1 100000000 20000");
  absl::SleepFor(absl::Milliseconds(20));
  for (const auto& rank : ranks_) rank->Kill();
  EXPECT_FALSE(sockets());
  EXPECT_THAT(files(), ::testing::IsSubsetOf(before));
}

INSTANTIATE_TEST_SUITE_P(Comm, CommProcess, ::testing::Values("shm", "grpc"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal::comm_test

int main(int argc, char** argv) {
  signal(SIGPIPE, SIG_IGN);
  if (argc == 4 && std::string(argv[1]) == "--rank") {
    return shoal::comm_test::LiveAsRank(argv[2], argv[3]);
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
