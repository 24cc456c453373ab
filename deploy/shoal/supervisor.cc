// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/supervisor.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/base/steady_clock.h"

extern char** environ;

namespace shoal {
namespace {

// The child's side of fork: only calls that are safe there, since other threads may have held any
// lock.
[[noreturn]] void BecomeChild(char* const* argv, char** environment, pid_t parent) {
  // The kernel tells us when the parent's thread ends, which is why one thread starts all children
  // and outlives them.
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(125);  // it died before we asked
  setpgid(0, 0);                        // Ctrl-C at a terminal is the parent's to handle
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  for (int signal : {SIGPIPE, SIGINT, SIGTERM}) std::signal(signal, SIG_DFL);
  const int null = open("/dev/null", O_RDONLY);
  if (null >= 0) dup2(null, STDIN_FILENO);
  dup2(STDERR_FILENO, STDOUT_FILENO);
  // Listening sockets and clients' connections are not the child's to keep open.
  syscall(SYS_close_range, 3u, ~0u, 0u);
  environ = environment;
  execvp(argv[0], argv);
  const char* text = strerrordesc_np(errno);
  const char colon[] = ": ";
  (void)!write(STDERR_FILENO, argv[0], std::strlen(argv[0]));
  (void)!write(STDERR_FILENO, colon, sizeof(colon) - 1);
  (void)!write(STDERR_FILENO, text, std::strlen(text));
  (void)!write(STDERR_FILENO, "\n", 1);
  _exit(127);
}

std::vector<char*> Pointers(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  for (const std::string& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

absl::StatusOr<std::string> NewName() {
  char bytes[16];
  if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
    return absl::InternalError(absl::StrCat("getrandom: ", std::strerror(errno)));
  return absl::BytesToHexString(absl::string_view(bytes, sizeof(bytes)));
}

}  // namespace

std::string ChildExit::ToString() const {
  const std::string how =
      signal != 0 ? absl::StrCat("was killed by signal ", signal, " (", strsignal(signal), ")")
                  : absl::StrCat("ended with code ", code);
  return absl::StrCat(name, " (pid ", pid, ") ", how, " after ", absl::FormatDuration(lived));
}

class Supervisor::Process {
 public:
  explicit Process(SupervisorOptions options) : options_(std::move(options)) {
    for (size_t i = 0; i < options_.children.size(); ++i) children_.emplace_back();
    for (char** entry = environ; *entry != nullptr; ++entry) {
      // What our own supervisor calls us is not for our children.
      if (!absl::StartsWith(*entry, absl::StrCat(kSupervisedAs, "="))) {
        environment_.push_back(*entry);
      }
    }
  }

  absl::Status Start() {
    wake_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (wake_ < 0) return absl::InternalError(absl::StrCat("eventfd: ", std::strerror(errno)));
    thread_ = std::thread([this] { Run(); });
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&started_));
    return start_status_;
  }

  void KillAt(const std::string& supervised_as, absl::Time when) {
    absl::MutexLock lock(&mutex_);
    for (Child& child : children_) {
      if (child.pid > 0 && child.supervised_as == supervised_as) child.kill_at = when;
    }
    Wake();
  }

  void Signal(int child, int signal) {
    absl::MutexLock lock(&mutex_);
    if (children_[child].pid > 0) kill(children_[child].pid, signal);
  }

  void StopRestarting() {
    absl::MutexLock lock(&mutex_);
    restarting_ = false;
  }

  void Stop(absl::Duration grace) {
    if (!thread_.joinable()) return;
    {
      absl::MutexLock lock(&mutex_);
      restarting_ = false;
      stopping_ = true;
      for (const Child& child : children_) {
        if (child.pid > 0) kill(child.pid, SIGTERM);
      }
      Wake();
      const auto all_gone = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return std::all_of(children_.begin(), children_.end(),
                           [](const Child& child) { return child.pid == 0; });
      };
      if (!fewer_.WaitUntil(mutex_, SteadyNow() + grace, all_gone)) {
        for (const Child& child : children_) {
          if (child.pid > 0) kill(-child.pid, SIGKILL);
        }
      }
    }
    thread_.join();
    close(wake_);
  }

 private:
  struct Child {
    pid_t pid = 0;              // 0: not running
    std::string supervised_as;  // in this life
    int pidfd = -1;             // readable when it has ended
    absl::Time started;
    absl::Time restart_at = absl::InfiniteFuture();
    absl::Time kill_at = absl::InfiniteFuture();
    absl::Duration backoff = absl::ZeroDuration();
  };

  void Wake() {
    const uint64_t one = 1;
    (void)!write(wake_, &one, sizeof(one));
  }

  absl::Status Spawn(int index) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const ChildSpec& spec = options_.children[index];
    Child& child = children_[index];
    std::vector<std::string> environment = environment_;
    environment.insert(environment.end(), spec.environment.begin(), spec.environment.end());
    SHOAL_ASSIGN_OR_RETURN(child.supervised_as, NewName());
    environment.push_back(absl::StrCat(kSupervisedAs, "=", child.supervised_as));
    const std::vector<char*> argv = Pointers(spec.argv);
    std::vector<char*> env = Pointers(environment);
    child.restart_at = child.kill_at = absl::InfiniteFuture();
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid == 0) BecomeChild(argv.data(), env.data(), parent);
    if (pid < 0)
      return absl::InternalError(
          absl::StrCat("cannot start ", spec.name, ": ", std::strerror(errno)));
    setpgid(pid, pid);  // in both, so that it holds whoever comes first
    child.pid = pid;
    child.started = SteadyNow();
    child.pidfd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    if (child.pidfd < 0) {
      const absl::Status status =
          absl::InternalError(absl::StrCat("pidfd_open: ", std::strerror(errno)));
      kill(pid, SIGKILL);
      waitpid(pid, nullptr, 0);
      child.pid = 0;
      return status;
    }
    fcntl(child.pidfd, F_SETFD, FD_CLOEXEC);
    return absl::OkStatus();
  }

  // Notes that a child has ended, if it has. True if it had.
  bool Reap(int index, ChildExit& exit) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Child& child = children_[index];
    siginfo_t info = {};
    if (child.pid == 0 || waitid(P_PID, child.pid, &info, WEXITED | WNOHANG | WNOWAIT) != 0 ||
        info.si_pid == 0) {
      return false;
    }
    kill(-child.pid,
         SIGKILL);  // whatever else is in its group, while the dead child still reserves the number
    int status = 0;
    waitpid(child.pid, &status, 0);
    exit = ChildExit{index, options_.children[index].name, child.pid, -1,
                     0,     SteadyNow() - child.started};
    if (WIFEXITED(status)) exit.code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) exit.signal = WTERMSIG(status);
    close(child.pidfd);
    child.pid = 0;
    child.pidfd = -1;
    fewer_.NotifyAll();
    return true;
  }

  void ScheduleRestart(int index, absl::Duration lived) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    Child& child = children_[index];
    if (lived >= options_.healthy_after) child.backoff = absl::ZeroDuration();
    child.restart_at = SteadyNow() + child.backoff;
    child.backoff = std::clamp(child.backoff * 2, options_.min_backoff, options_.max_backoff);
  }

  void Run();

  const SupervisorOptions options_;
  std::vector<std::string> environment_;
  int wake_ = -1;
  std::thread thread_;

  absl::Mutex mutex_;
  SteadyCondVar fewer_;  // children
  std::vector<Child> children_ ABSL_GUARDED_BY(mutex_);
  bool started_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status start_status_ ABSL_GUARDED_BY(mutex_);
  bool restarting_ ABSL_GUARDED_BY(mutex_) = true;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

void Supervisor::Process::Run() {
  pthread_setname_np(pthread_self(), "supervisor");
  const int count = static_cast<int>(options_.children.size());
  {
    absl::MutexLock lock(&mutex_);
    for (int i = 0; i < count && start_status_.ok(); ++i) start_status_ = Spawn(i);
    started_ = true;
  }
  while (true) {
    std::vector<pollfd> polled = {{wake_, POLLIN, 0}};
    absl::Time next = absl::InfiniteFuture();
    {
      absl::MutexLock lock(&mutex_);
      for (int i = 0; i < count; ++i) {
        Child& child = children_[i];
        if (restarting_ && child.pid == 0 && child.restart_at <= SteadyNow() && !Spawn(i).ok()) {
          ScheduleRestart(i, absl::ZeroDuration());  // out of processes or files: later
        }
        if (child.pid > 0 && child.kill_at <= SteadyNow()) {
          kill(-child.pid, SIGKILL);
          child.kill_at = absl::InfiniteFuture();
        }
        if (child.pid > 0) {
          polled.push_back({child.pidfd, POLLIN, 0});
          next = std::min(next, child.kill_at);
        } else if (restarting_) {
          next = std::min(next, child.restart_at);
        }
      }
      if (stopping_ && polled.size() == 1) return;
    }
    int timeout_ms = -1;
    if (next != absl::InfiniteFuture()) {
      timeout_ms =
          static_cast<int>(std::max<int64_t>(absl::ToInt64Milliseconds(next - SteadyNow()) + 1, 0));
    }
    poll(polled.data(), polled.size(), timeout_ms);
    uint64_t drained = 0;
    (void)!read(wake_, &drained, sizeof(drained));
    for (int i = 0; i < count; ++i) {
      ChildExit exit;
      {
        absl::MutexLock lock(&mutex_);
        if (!Reap(i, exit) || !restarting_) continue;
      }
      // Without the lock: it may take its time, or ask us for something.
      if (options_.restart && !options_.restart(exit)) continue;
      absl::MutexLock lock(&mutex_);
      ScheduleRestart(i, exit.lived);
    }
  }
}

absl::StatusOr<std::unique_ptr<Supervisor>> Supervisor::Start(SupervisorOptions options) {
  auto process = std::make_unique<Process>(std::move(options));
  absl::Status status = process->Start();
  std::unique_ptr<Supervisor> supervisor(new Supervisor(std::move(process)));
  if (!status.ok()) return status;  // the destructor ends those that did start
  return supervisor;
}

Supervisor::Supervisor(std::unique_ptr<Process> process) : process_(std::move(process)) {}
Supervisor::~Supervisor() { Stop(absl::ZeroDuration()); }

void Supervisor::KillAt(const std::string& supervised_as, absl::Time when) {
  process_->KillAt(supervised_as, when);
}
void Supervisor::Signal(int child, int signal) { process_->Signal(child, signal); }
void Supervisor::StopRestarting() { process_->StopRestarting(); }
void Supervisor::Stop(absl::Duration grace) { process_->Stop(grace); }

}  // namespace shoal
