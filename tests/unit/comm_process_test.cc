// SPDX-License-Identifier: Apache-2.0
// Shows that the transports between processes survive what processes do: a rank killed with SIGKILL
// is named to the others within a fraction of a second, waiting or idle; one that stands still for
// seconds is not taken for dead; a new process takes a dead one's place in the next epoch; one that was only stopped and wakes up in a past epoch disturbs nobody;
// and nothing is left behind on the host. The ranks are copies of this program, told what to do
// through pipes.
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

namespace shoal::comm_test {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kSeed = 99;
constexpr size_t kMaxMessage = 3000;

// --- The life of a rank -------------------------------------------------------------------------

// Commands: "connect EPOCH RANK ENDPOINT..." and "exchange EPOCH COUNT DEADLINE_MS". Every command
// is answered with one line: "ok" or a status. Ends with its input.
int LiveAsRank(const std::string& transport, const std::string& cluster) {
  FabricOptions options = Options(transport, kMaxMessage);
  options.cluster = cluster;
  absl::StatusOr<std::unique_ptr<Fabric>> fabric = Fabric::Create(options);
  if (!fabric.ok()) {
    std::cout << fabric.status() << std::endl;
    return 1;
  }
  std::cout << (*fabric)->endpoint() << std::endl;
  Exchange* exchange = nullptr;
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    int64_t epoch = 0;
    words >> command >> epoch;
    absl::Status status;
    if (command == "connect") {
      int rank = 0;
      words >> rank;
      const std::vector<std::string> endpoints{std::istream_iterator<std::string>(words), {}};
      absl::StatusOr<Exchange*> connected = (*fabric)->Connect(
          Epoch(epoch), RankId(rank), endpoints, absl::Now() + absl::Seconds(20));
      status = connected.status();
      if (connected.ok()) exchange = *connected;
    } else {
      int64_t count = 0;
      int64_t deadline_ms = 0;
      words >> count >> deadline_ms;
      for (int64_t step = 0; step < count && status.ok(); ++step) {
        const ExchangeTag tag = Tag(epoch, step, 0, ExchangePhase(step % 2));
        const absl::Time deadline = absl::Now() + absl::Milliseconds(deadline_ms);
        status = SendAll(*exchange, tag, kSeed, deadline);
        if (status.ok()) status = ReceiveAll(*exchange, tag, kSeed, deadline);
        if (status.ok()) exchange->Release(tag);
      }
    }
    std::cout << (status.ok() ? "ok" : status.ToString()) << std::endl;
  }
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
  void ConnectAll(int epoch) {
    std::vector<std::string> endpoints;
    for (const auto& rank : ranks_) endpoints.push_back(rank->endpoint());
    for (int rank = 0; rank < kWorld; ++rank) {
      ranks_[rank]->Tell(
          absl::StrCat("connect ", epoch, " ", rank, " ", absl::StrJoin(endpoints, " ")));
    }
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
    EXPECT_THAT(ranks_[rank]->Answer(), HasSubstr("waits for rank 1"));
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

// A core that others took, a page-in, a debugger: longer than a keepalive, shorter than a deadline.
TEST_P(CommProcess, AProcessThatStandsStillForAWhileIsNotDead) {
  ConnectAll(1);
  ExchangeAll(1, 10);
  kill(ranks_[1]->pid(), SIGSTOP);
  absl::SleepFor(absl::Seconds(3));
  kill(ranks_[1]->pid(), SIGCONT);
  ExchangeAll(1, 10);
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
