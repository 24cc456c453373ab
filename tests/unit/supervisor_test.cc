// SPDX-License-Identifier: Apache-2.0
// Shows that supervised children are started again with growing pauses, that a stubborn one is
// killed when its time is over, and that none outlives its supervisor's process, kill -9 included.
// It supervises shells.
#include "deploy/shoal/supervisor.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

ChildSpec Shell(const std::string& name, const std::string& script) {
  ChildSpec spec;
  spec.name = name;
  spec.argv = {"/bin/sh", "-c", script};
  return spec;
}

// Collects exits; thread-safe.
class Exits {
 public:
  void Add(const ChildExit& exit) {
    absl::MutexLock lock(&mutex_);
    exits_.push_back(exit);
  }
  std::vector<ChildExit> WaitFor(size_t count) {
    absl::MutexLock lock(&mutex_);
    const auto enough = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return exits_.size() >= count;
    };
    mutex_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(20));
    return exits_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<ChildExit> exits_ ABSL_GUARDED_BY(mutex_);
};

std::string ReadWhenThere(const std::string& path) {
  const absl::Time deadline = absl::Now() + absl::Seconds(20);
  while (absl::Now() < deadline) {
    std::ifstream in(path);
    std::string word;
    if (in >> word) return word;
    absl::SleepFor(absl::Milliseconds(10));
  }
  return "";
}

// False once the process is gone (or a zombie that nobody reaps).
bool Alive(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::string ignored, name, state;
  return (in >> ignored >> name >> state) && state != "Z" && state != "X";
}

bool GoneWithin(pid_t pid, absl::Duration time) {
  const absl::Time deadline = absl::Now() + time;
  while (Alive(pid) && absl::Now() < deadline) absl::SleepFor(absl::Milliseconds(5));
  return !Alive(pid);
}

TEST(Supervisor, StartsAgainWhatDiesWithGrowingPauses) {
  Exits exits;
  SupervisorOptions options;
  options.children = {Shell("dies", "exit 7")};
  options.min_backoff = absl::Milliseconds(20);
  options.max_backoff = absl::Milliseconds(80);
  options.restart = [&](const ChildExit& exit) {
    exits.Add(exit);
    return true;
  };
  const absl::Time begin = absl::Now();
  auto supervisor = Supervisor::Start(options);
  ASSERT_TRUE(supervisor.ok()) << supervisor.status();
  const std::vector<ChildExit> seen = exits.WaitFor(6);
  ASSERT_GE(seen.size(), 6u);
  // 0 + 20 + 40 + 80 + 80 ms of pauses between six lives.
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(220));
  for (const ChildExit& exit : seen) {
    EXPECT_EQ(exit.code, 7);
    EXPECT_EQ(exit.signal, 0);
  }
  (*supervisor)->Stop(absl::Seconds(5));
}

// A shell that writes its pid and what its supervisor calls it, and sleeps.
ChildSpec Sleeper(const std::string& file) {
  unlink(file.c_str());
  return Shell("sleeper", absl::StrCat("echo $$ $", kSupervisedAs, " > ", file, ".new; mv ", file,
                                       ".new ", file, "; exec sleep 1000"));
}

std::pair<pid_t, std::string> ReadSleeper(const std::string& file) {
  const std::string pid = ReadWhenThere(file);
  std::ifstream in(file);
  std::string ignored, name;
  in >> ignored >> name;
  unlink(file.c_str());
  return {std::stoi(pid), name};
}

TEST(Supervisor, KillsOneAndStartsItAgain) {
  Exits exits;
  SupervisorOptions options;
  const std::string file = ::testing::TempDir() + "/supervisor_pid";
  options.children = {Sleeper(file)};
  options.restart = [&](const ChildExit& exit) {
    exits.Add(exit);
    return true;
  };
  auto supervisor = Supervisor::Start(options);
  ASSERT_TRUE(supervisor.ok());
  const auto [first, first_name] = ReadSleeper(file);
  EXPECT_EQ(first_name.size(), 32u);
  (*supervisor)->KillAt(first_name, absl::Now() + absl::Milliseconds(100));
  (*supervisor)->KillAt(first_name, absl::InfiniteFuture());  // it was pardoned
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_TRUE(Alive(first));
  (*supervisor)->KillAt(first_name, absl::Now() + absl::Milliseconds(50));
  const auto [second, second_name] = ReadSleeper(file);
  EXPECT_NE(first, second);
  EXPECT_NE(first_name, second_name);
  const std::vector<ChildExit> seen = exits.WaitFor(1);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].pid, first);
  EXPECT_EQ(seen[0].signal, SIGKILL);
  (*supervisor)->Stop(absl::Seconds(5));
  EXPECT_TRUE(GoneWithin(second, absl::Seconds(1)));
}

// Who is evicted from the cluster may be anybody's worker, and numbered as a child of ours.
TEST(Supervisor, KillsNobodyInAnothersStead) {
  Exits exits;
  SupervisorOptions options;
  const std::string file = ::testing::TempDir() + "/others_pid";
  options.children = {Sleeper(file)};
  options.restart = [&](const ChildExit& exit) {
    exits.Add(exit);
    return true;
  };
  setenv(kSupervisedAs, "what our own supervisor calls us", 1);
  auto supervisor = Supervisor::Start(options);
  unsetenv(kSupervisedAs);
  ASSERT_TRUE(supervisor.ok());
  const auto [first, first_name] = ReadSleeper(file);
  ASSERT_EQ(first_name.size(), 32u);
  kill(first, SIGKILL);
  const auto [second, second_name] = ReadSleeper(file);
  const std::string strangers[] = {"", absl::StrCat(second), "what our own supervisor calls us",
                                   second_name.substr(1),
                                   first_name};  // of a life that is over
  for (const std::string& stranger : strangers) (*supervisor)->KillAt(stranger, absl::Now());
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_TRUE(Alive(second));
  EXPECT_EQ(exits.WaitFor(1).size(), 1u);
  (*supervisor)->KillAt(second_name, absl::Now());
  EXPECT_TRUE(GoneWithin(second, absl::Seconds(5)));
}

TEST(Supervisor, StartsNothingAgainWhenToldNotTo) {
  Exits exits;
  SupervisorOptions options;
  options.children = {Shell("once", "exit 0")};
  options.min_backoff = absl::Milliseconds(1);
  options.restart = [&](const ChildExit& exit) {
    exits.Add(exit);
    return false;
  };
  auto supervisor = Supervisor::Start(options);
  ASSERT_TRUE(supervisor.ok());
  exits.WaitFor(1);
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ(exits.WaitFor(1).size(), 1u);
  (*supervisor)->Stop(absl::Seconds(5));
}

TEST(Supervisor, KillsAGroupThatIgnoresSigterm) {
  SupervisorOptions options;
  const std::string file = ::testing::TempDir() + "/stubborn_pid";
  unlink(file.c_str());
  // The grandchild ignores it as well.
  options.children = {Shell("stubborn", absl::StrCat("trap '' TERM; sh -c 'echo $$ > ", file,
                                                     "; while :; do sleep 1; done'"))};
  auto supervisor = Supervisor::Start(options);
  ASSERT_TRUE(supervisor.ok());
  const pid_t grandchild = std::stoi(ReadWhenThere(file));
  const absl::Time begin = absl::Now();
  (*supervisor)->Stop(absl::Milliseconds(200));
  EXPECT_GE(absl::Now() - begin, absl::Milliseconds(200));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(10));
  EXPECT_TRUE(GoneWithin(grandchild, absl::Seconds(1)));
}

TEST(Supervisor, NamesAProgramThatDoesNotExist) {
  Exits exits;
  SupervisorOptions options;
  ChildSpec spec;
  spec.name = "nobody";
  spec.argv = {"/no/such/program"};
  options.children = {spec};
  options.restart = [&](const ChildExit& exit) {
    exits.Add(exit);
    return false;
  };
  auto supervisor = Supervisor::Start(options);
  ASSERT_TRUE(supervisor.ok());
  const std::vector<ChildExit> seen = exits.WaitFor(1);
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_EQ(seen[0].code, 127);
  EXPECT_NE(seen[0].ToString().find("nobody"), std::string::npos);
}

TEST(Supervisor, ChildrenDoNotKeepOurConnectionsOpen) {
  // A child that inherited a client's socket would keep it open after we closed it.
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);  // without CLOEXEC
  SupervisorOptions options;
  const std::string file = ::testing::TempDir() + "/running";
  unlink(file.c_str());
  options.children = {Shell("sleeper", absl::StrCat("echo ready > ", file, "; exec sleep 1000"))};
  auto supervisor = Supervisor::Start(options);
  ASSERT_TRUE(supervisor.ok());
  EXPECT_EQ(ReadWhenThere(file), "ready");
  close(pair[0]);
  fcntl(pair[1], F_SETFL, O_NONBLOCK);
  char byte;
  EXPECT_EQ(read(pair[1], &byte, 1), 0) << "the other end is still open somewhere";
  close(pair[1]);
}

// A process that supervises a child and is then killed without a chance to clean up.
TEST(Supervisor, ChildrenDieWithAParentThatIsKilled) {
  const std::string file = ::testing::TempDir() + "/orphan_pid";
  unlink(file.c_str());
  const pid_t parent = fork();
  if (parent == 0) {
    SupervisorOptions options;
    options.children = {Shell("orphan", absl::StrCat("echo $$ > ", file, "; exec sleep 1000"))};
    auto supervisor = Supervisor::Start(options);
    pause();
    _exit(0);
  }
  const pid_t child = std::stoi(ReadWhenThere(file));
  ASSERT_TRUE(Alive(child));
  kill(parent, SIGKILL);
  waitpid(parent, nullptr, 0);
  EXPECT_TRUE(GoneWithin(child, absl::Seconds(2)));
}

}  // namespace
}  // namespace shoal
