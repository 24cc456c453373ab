// SPDX-License-Identifier: Apache-2.0
// Shows that ranks which are processes survive each other: a peer that is killed (SIGKILL) or stands
// still (SIGSTOP) in the middle of an exchange is left out of the next epoch, the others go on within
// it at once and receive exactly what they sent to each other, and a peer that wakes up while they do
// spoils nothing and may come back. Each rank is this program again, told what to do line by line; the
// test itself exchanges nothing.
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "comm/fabric.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/comm_ranks.h"

extern char** environ;

namespace shoal::comm_test {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr uint64_t kSeed = 37;
constexpr size_t kMaxMessageBytes = 20000;
constexpr char kRankFlag[] = "--as-rank";
constexpr absl::Duration kPatience = absl::Seconds(30);

// --- One rank -------------------------------------------------------------------------------------

// Does what lines tell it: "connect EPOCH ENDPOINT..." (an absent one is "-") and "exchange EPOCH
// MOST"; says one line for each. "connect" interrupts exchanges that are under way, as the
// coordinator's word does in a worker.
class RankProgram {
 public:
  RankProgram(std::unique_ptr<Fabric> fabric, int rank) : fabric_(std::move(fabric)), rank_(rank) {}

  int Run() {
    Say(fabric_->endpoint());
    std::thread reader([this] { Read(); });
    while (const std::optional<std::string> line = NextLine()) Say(Do(absl::StrSplit(*line, ' ')));
    reader.join();
    return 0;
  }

 private:
  static void Say(const std::string& line) { std::cout << line << std::endl; }  // and flush

  void Read() {
    std::string line;
    while (std::getline(std::cin, line)) {
      absl::MutexLock lock(&mutex_);
      lines_.push_back(line);
      if (exchange_ != nullptr && absl::StartsWith(line, "connect")) exchange_->Cancel();
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

  std::string Do(const std::vector<std::string>& words) {
    int64_t epoch = 0;
    int most = 0;
    if (words.size() < 3 || !absl::SimpleAtoi(words[1], &epoch)) return "what?";
    if (words[0] == "connect") return Connect(epoch, {words.begin() + 2, words.end()});
    if (connected_ == nullptr || !absl::SimpleAtoi(words[2], &most)) return "what?";
    return RunExchanges(epoch, most);
  }
  std::string Connect(int64_t epoch, std::vector<std::string> endpoints) {
    for (std::string& endpoint : endpoints) {
      if (endpoint == "-") endpoint.clear();
    }
    absl::StatusOr<Exchange*> connected =
        fabric_->Connect(Epoch(epoch), RankId(rank_), endpoints, absl::Now() + kPatience);
    if (!connected.ok()) return absl::StrCat("not connected: ", connected.status().message());
    connected_ = *connected;
    absl::MutexLock lock(&mutex_);
    exchange_ = connected_;
    return "connected";
  }
  std::string RunExchanges(int64_t epoch, int most) {
    for (int done = 0; done < most; ++done) {
      for (ExchangePhase phase : {ExchangePhase::kDispatch, ExchangePhase::kCombine}) {
        const ExchangeTag tag = Tag(epoch, done, 0, phase);
        const absl::Time deadline = absl::Now() + kPatience;
        absl::Status status = SendAll(*connected_, tag, kSeed, deadline);
        if (status.ok()) status = ReceiveAll(*connected_, tag, kSeed, deadline);
        if (!status.ok()) return absl::StrCat("failed after ", done, ": ", status.ToString());
        connected_->Release(tag);
      }
    }
    return absl::StrCat("exchanged ", most);
  }

  const std::unique_ptr<Fabric> fabric_;
  const int rank_;
  Exchange* connected_ = nullptr;  // the main thread's
  absl::Mutex mutex_;
  std::deque<std::string> lines_ ABSL_GUARDED_BY(mutex_);
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
  Exchange* exchange_ ABSL_GUARDED_BY(mutex_) = nullptr;  // connected_, for the reader
};

int BeRank(const std::string& transport, int rank) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  absl::StatusOr<std::unique_ptr<Fabric>> fabric =
      Fabric::Create(Options(transport, kMaxMessageBytes));
  if (!fabric.ok()) return 1;
  return RankProgram(*std::move(fabric), rank).Run();
}

// --- The test's end of it -------------------------------------------------------------------------

class RankProcess {
 public:
  RankProcess(const std::string& transport, int rank) {
    int in[2];
    int out[2];
    if (pipe2(in, O_CLOEXEC) != 0 || pipe2(out, O_CLOEXEC) != 0) return;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&actions, out[1], STDOUT_FILENO);
    std::string program = "/proc/self/exe";
    std::string flag = kRankFlag;
    std::string transport_word = transport;
    std::string rank_word = absl::StrCat(rank);
    char* argv[] = {program.data(), flag.data(), transport_word.data(), rank_word.data(), nullptr};
    posix_spawn(&pid_, program.c_str(), &actions, nullptr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    to_ = in[1];
    from_ = out[0];
    endpoint_ = Hear();
  }
  ~RankProcess() {
    Signal(SIGKILL);
    Signal(SIGCONT);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
    close(to_);
    close(from_);
  }
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  void Tell(const std::string& line) {
    const std::string whole = line + "\n";
    ASSERT_EQ(write(to_, whole.data(), whole.size()), static_cast<ssize_t>(whole.size()));
  }
  // The next line; empty when none comes.
  std::string Hear(absl::Duration patience = kPatience + absl::Seconds(5)) {
    const absl::Time deadline = absl::Now() + patience;
    while (true) {
      if (const size_t end = heard_.find('\n'); end != std::string::npos) {
        const std::string line = heard_.substr(0, end);
        heard_.erase(0, end + 1);
        return line;
      }
      pollfd output = {from_, POLLIN, 0};
      const int64_t left_ms = absl::ToInt64Milliseconds(deadline - absl::Now());
      if (left_ms <= 0 || poll(&output, 1, static_cast<int>(left_ms)) <= 0) return "";
      char bytes[4096];
      const ssize_t count = read(from_, bytes, sizeof(bytes));
      if (count <= 0) return "";
      heard_.append(bytes, count);
    }
  }
  void Signal(int signal) {
    if (pid_ > 0) kill(pid_, signal);
  }

 private:
  pid_t pid_ = -1;
  int to_ = -1;
  int from_ = -1;
  std::string heard_;
  std::string endpoint_;
};

class CommProcesses : public ::testing::TestWithParam<std::string> {
 protected:
  static constexpr int kWorld = 4;

  void SetUp() override {
    for (int rank = 0; rank < kWorld; ++rank) {
      ranks_.push_back(std::make_unique<RankProcess>(GetParam(), rank));
      ASSERT_FALSE(ranks_.back()->endpoint().empty());
    }
    ASSERT_NO_FATAL_FAILURE(Connect(1, {}));
  }
  // Tells all but `absent` to connect the epoch.
  void TellToConnect(int64_t epoch, const std::vector<int>& absent) {
    present_.clear();
    std::vector<std::string> endpoints;
    for (int rank = 0; rank < kWorld; ++rank) {
      const bool gone = std::count(absent.begin(), absent.end(), rank) > 0;
      endpoints.push_back(gone ? "-" : ranks_[rank]->endpoint());
      if (!gone) present_.push_back(rank);
    }
    TellAll(absl::StrCat("connect ", epoch, " ", absl::StrJoin(endpoints, " ")));
  }
  void HearConnected() {
    for (int rank : present_) ASSERT_EQ(ranks_[rank]->Hear(), "connected") << "rank " << rank;
  }
  void Connect(int64_t epoch, const std::vector<int>& absent) {
    ASSERT_NO_FATAL_FAILURE(TellToConnect(epoch, absent));
    ASSERT_NO_FATAL_FAILURE(HearConnected());
  }
  void TellAll(const std::string& line) {
    for (int rank : present_) ASSERT_NO_FATAL_FAILURE(ranks_[rank]->Tell(line));
  }

  std::vector<std::unique_ptr<RankProcess>> ranks_;
  std::vector<int> present_;
};

TEST_P(CommProcesses, TheOthersGoOnWithoutOneThatIsKilled) {
  TellAll("exchange 1 1000000");
  absl::SleepFor(absl::Milliseconds(200));
  ranks_[2]->Signal(SIGKILL);
  for (int rank : {0, 1, 3}) {
    const std::string said = ranks_[rank]->Hear(absl::Seconds(5));
    EXPECT_THAT(said, StartsWith("failed after ")) << "rank " << rank;
    EXPECT_THAT(said, HasSubstr("rank ")) << "rank " << rank;
  }
  const absl::Time begin = absl::Now();
  ASSERT_NO_FATAL_FAILURE(Connect(2, {2}));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  TellAll("exchange 2 500");
  for (int rank : present_) EXPECT_EQ(ranks_[rank]->Hear(), "exchanged 500");
  ranks_[2].reset();
  ranks_[2] = std::make_unique<RankProcess>(GetParam(), 2);  // another process takes its rank
  ASSERT_NO_FATAL_FAILURE(Connect(3, {}));
  TellAll("exchange 3 100");
  for (int rank : present_) EXPECT_EQ(ranks_[rank]->Hear(), "exchanged 100");
}

// The sleeper stops wherever it happens to be, perhaps in the middle of writing to a peer's memory,
// and wakes up in the middle of an epoch that knows nothing of it. It notices, and may come back.
TEST_P(CommProcesses, ASleeperThatWakesUpSpoilsNothing) {
  for (int round = 0; round < 6; ++round) {
    const int64_t epoch = 1 + 2 * round;
    const int sleeper = round % kWorld;
    TellAll(absl::StrCat("exchange ", epoch, " 1000000"));
    absl::SleepFor(absl::Milliseconds(100 + 7 * round));
    ranks_[sleeper]->Signal(SIGSTOP);
    absl::SleepFor(absl::Milliseconds(20));
    // Nobody can tell a sleeper from one that is busy: it is from outside that they hear of it. The
    // word interrupts what they wait for.
    TellToConnect(epoch + 1, {sleeper});
    for (int rank : present_) {
      EXPECT_THAT(ranks_[rank]->Hear(), AllOf(StartsWith("failed after "), HasSubstr("ABORTED")));
    }
    ASSERT_NO_FATAL_FAILURE(HearConnected());
    TellAll(absl::StrCat("exchange ", epoch + 1, " 1500"));
    absl::SleepFor(absl::Milliseconds(30));
    ranks_[sleeper]->Signal(SIGCONT);
    EXPECT_THAT(ranks_[sleeper]->Hear(), StartsWith("failed after "));
    for (int rank : present_) EXPECT_EQ(ranks_[rank]->Hear(), "exchanged 1500");
    ASSERT_NO_FATAL_FAILURE(Connect(epoch + 2, {}));
  }
}

INSTANTIATE_TEST_SUITE_P(Comm, CommProcesses, ::testing::Values("shm", "grpc"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace shoal::comm_test

int main(int argc, char** argv) {
  if (argc == 4 && std::strcmp(argv[1], shoal::comm_test::kRankFlag) == 0) {
    return shoal::comm_test::BeRank(argv[2], std::atoi(argv[3]));
  }
  ::testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
