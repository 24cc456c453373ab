// SPDX-License-Identifier: Apache-2.0
// Measures one exchange (every rank sends a message to every rank, itself included, and waits for
// all) over each transport, beside the same bytes copied by plain memcpy on the same ranks, in
// alternating blocks of one run. Ranks are threads for `inprocess`, processes for `shm` and `grpc`,
// and an MPI job for `mpi`.
//
//   alltoall --transport shm --transport grpc --ranks 2 --ranks 4 --bytes 16384 --json
//
// A rank fills each message with one memcpy, as the engine writes rows, and reads one byte of what
// it receives. Times are those of rank 0; "GB/s" counts what leaves a rank, over all ranks.
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "comm/fabric.h"
#include "engine/base/steady_clock.h"
#include "nlohmann/json.hpp"

namespace shoal {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr int kBlocks = 7;
constexpr int kSlots = 4;  // of a transport for one peer: two phases, two slots

struct Settings {
  std::vector<std::string> transports = {"inprocess", "shm", "grpc", "mpi"};
  std::vector<int> ranks = {2, 4, 8};
  std::vector<size_t> bytes = {64, 16384, 1835008};
  double block_seconds = 0.1;
  bool json = false;
  std::string mpirun = "mpirun";
  // Set by this program for the processes it starts.
  std::string rank_of;  // the transport
  int rank = -1;        // -1: the transport knows
  int world = 0;
  std::string meet;  // a folder where ranks leave their endpoints and rank 0 its result
};

[[noreturn]] void Fail(const absl::Status& status) {
  std::cerr << "alltoall: " << status << std::endl;
  std::_Exit(1);
}

double SecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// One rank's measurement at one size.
class Rank {
 public:
  Rank(Exchange& exchange, size_t bytes)
      : exchange_(exchange),
        bytes_(bytes),
        sizes_(exchange.world_size(), bytes),
        received_(exchange.world_size()),
        source_(bytes, std::byte{1}),
        copies_(kSlots * bytes * exchange.world_size()) {}

  void Run(int rounds, int64_t& step) {
    for (int round = 0; round < rounds; ++round, ++step) {
      const ExchangeTag tag = {
          .epoch = epoch_,
          .step = StepId(step / 2),
          .layer = 0,
          .phase = step % 2 == 0 ? ExchangePhase::kDispatch : ExchangePhase::kCombine};
      const absl::Time deadline = SteadyNow() + absl::Seconds(60);
      for (int i = 1; i <= exchange_.world_size(); ++i) {
        const int peer = (exchange_.rank().value() + i) % exchange_.world_size();
        absl::Span<std::byte> buffer = exchange_.SendBuffer(tag, RankId(peer), deadline);
        if (!buffer.empty()) std::memcpy(buffer.data(), source_.data(), bytes_);
      }
      if (absl::Status status = exchange_.Post(tag, sizes_); !status.ok()) Fail(status);
      if (absl::Status status = exchange_.Wait(tag, deadline, absl::MakeSpan(received_));
          !status.ok()) {
        Fail(status);
      }
      for (const absl::Span<const std::byte> message : received_)
        sum_ += message[0] == std::byte{1};
      exchange_.Release(tag);
    }
  }

  // The same bytes, copied to memory of our own that alternates as the slots do.
  void Copy(int rounds) {
    for (int round = 0; round < rounds; ++round) {
      std::byte* out = &copies_[round % kSlots * bytes_ * exchange_.world_size()];
      for (int peer = 0; peer < exchange_.world_size(); ++peer, out += bytes_) {
        std::memcpy(out, source_.data(), bytes_);
        asm volatile("" : : "r"(out) : "memory");
      }
    }
  }

  // Rank 0's number, known to all: it travels in a message.
  int Agree(int rounds, int64_t& step) {
    std::memcpy(source_.data(), &rounds, sizeof(rounds));
    const ExchangeTag tag = {
        .epoch = epoch_,
        .step = StepId(step / 2),
        .layer = 0,
        .phase = step % 2 == 0 ? ExchangePhase::kDispatch : ExchangePhase::kCombine};
    ++step;
    const absl::Time deadline = SteadyNow() + absl::Seconds(60);
    for (int peer = 0; peer < exchange_.world_size(); ++peer) {
      std::memcpy(exchange_.SendBuffer(tag, RankId(peer), deadline).data(), source_.data(), bytes_);
    }
    if (absl::Status status = exchange_.Post(tag, sizes_); !status.ok()) Fail(status);
    if (absl::Status status = exchange_.Wait(tag, deadline, absl::MakeSpan(received_));
        !status.ok()) {
      Fail(status);
    }
    std::memcpy(&rounds, received_[0].data(), sizeof(rounds));
    exchange_.Release(tag);
    std::fill(source_.begin(), source_.end(), std::byte{1});
    return rounds;
  }

 private:
  Exchange& exchange_;
  const Epoch epoch_{1};
  const size_t bytes_;
  std::vector<size_t> sizes_;
  std::vector<absl::Span<const std::byte>> received_;
  std::vector<std::byte> source_;
  std::vector<std::byte> copies_;
  int64_t sum_ = 0;
};

Json MeasureSize(Exchange& exchange, size_t bytes, double block_seconds, int64_t& step) {
  Rank rank(exchange, bytes);
  rank.Run(kSlots, step);  // touches every page
  rank.Copy(kSlots);
  auto start = std::chrono::steady_clock::now();
  rank.Run(8, step);
  const double guess = SecondsSince(start) / 8;
  const int rounds =
      rank.Agree(std::clamp(static_cast<int>(block_seconds / guess), 4, 20000), step);
  std::vector<double> exchange_us, copy_us;
  for (int block = 0; block < kBlocks; ++block) {
    start = std::chrono::steady_clock::now();
    rank.Run(rounds, step);
    exchange_us.push_back(SecondsSince(start) / rounds * 1e6);
    rank.Agree(0, step);
    start = std::chrono::steady_clock::now();
    rank.Copy(rounds);
    rank.Agree(0, step);  // when all ranks have copied
    copy_us.push_back(SecondsSince(start) / rounds * 1e6);
  }
  std::sort(exchange_us.begin(), exchange_us.end());
  std::sort(copy_us.begin(), copy_us.end());
  const int world = exchange.world_size();
  const double off_rank_bytes = static_cast<double>(world) * (world - 1) * bytes;
  return {{"ranks", world},
          {"bytes_per_peer", bytes},
          {"exchange_us_median", exchange_us[kBlocks / 2]},
          {"exchange_us_best", exchange_us[0]},
          {"memcpy_us_median", copy_us[kBlocks / 2]},
          {"memcpy_us_best", copy_us[0]},
          {"off_rank_gb_per_s", off_rank_bytes / exchange_us[kBlocks / 2] / 1e3}};
}

absl::StatusOr<std::unique_ptr<Fabric>> Open(const Settings& settings,
                                             const std::string& transport) {
  FabricOptions options;
  options.transport = transport;
  options.cluster = absl::StrCat("alltoall-", settings.world);
  options.max_message_bytes = *std::max_element(settings.bytes.begin(), settings.bytes.end());
  return Fabric::Create(options);
}

Json MeasureRank(const Settings& settings, Fabric& fabric, int rank,
                 const std::vector<std::string>& endpoints) {
  absl::StatusOr<Exchange*> exchange =
      fabric.Connect(Epoch(1), RankId(rank), endpoints, SteadyNow() + absl::Seconds(60));
  if (!exchange.ok()) Fail(exchange.status());
  Json rows = Json::array();
  int64_t step = 0;
  for (size_t bytes : settings.bytes) {
    rows.push_back(MeasureSize(**exchange, bytes, settings.block_seconds, step));
  }
  return rows;
}

// A file appears whole or not at all.
void WriteFile(const fs::path& path, const std::string& text) {
  const fs::path part = absl::StrCat(path.string(), ".part");
  std::ofstream(part) << text;
  fs::rename(part, path);
}

std::string AwaitFile(const fs::path& path) {
  for (int tries = 0; tries < 60000 && !fs::exists(path); ++tries) {
    absl::SleepFor(absl::Milliseconds(1));
  }
  std::ifstream file(path);
  return std::string(std::istreambuf_iterator<char>(file), {});
}

// The life of a process that this program started as one rank.
int RunRank(const Settings& settings) {
  absl::StatusOr<std::unique_ptr<Fabric>> fabric = Open(settings, settings.rank_of);
  if (!fabric.ok()) Fail(fabric.status());
  const int rank = settings.rank >= 0 ? settings.rank : (*fabric)->fixed_rank();
  const fs::path meet = settings.meet;
  WriteFile(meet / absl::StrCat(rank), (*fabric)->endpoint());
  std::vector<std::string> endpoints;
  for (int r = 0; r < settings.world; ++r) endpoints.push_back(AwaitFile(meet / absl::StrCat(r)));
  const Json rows = MeasureRank(settings, **fabric, rank, endpoints);
  if (rank == 0) WriteFile(meet / "result", rows.dump());
  return 0;
}

std::vector<std::string> RankArguments(const Settings& settings, const std::string& transport,
                                       int world, int rank, const fs::path& meet) {
  std::vector<std::string> arguments = {fs::read_symlink("/proc/self/exe").string(),
                                        "--rank-of",
                                        transport,
                                        "--rank",
                                        absl::StrCat(rank),
                                        "--world",
                                        absl::StrCat(world),
                                        "--meet",
                                        meet.string(),
                                        "--block-seconds",
                                        absl::StrCat(settings.block_seconds)};
  for (size_t bytes : settings.bytes) {
    arguments.push_back("--bytes");
    arguments.push_back(absl::StrCat(bytes));
  }
  return arguments;
}

pid_t Start(const std::vector<std::string>& arguments) {
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t pid = fork();
  if (pid != 0) return pid;
  execvp(argv[0], argv.data());
  std::_Exit(127);
}

// Ranks as processes; empty when they failed.
Json MeasureProcesses(const Settings& settings, const std::string& transport, int world) {
  char folder[] = "/tmp/alltoall-XXXXXX";
  if (mkdtemp(folder) == nullptr) Fail(absl::InternalError("mkdtemp"));
  std::vector<pid_t> processes;
  if (transport == "mpi") {
    std::vector<std::string> command = {settings.mpirun,
                                        "--allow-run-as-root",
                                        "--oversubscribe",
                                        "--bind-to",
                                        "none",
                                        "--mca",
                                        "mpi_yield_when_idle",
                                        "1",
                                        "-n",
                                        absl::StrCat(world)};
    for (std::string& argument : RankArguments(settings, transport, world, -1, folder)) {
      command.push_back(std::move(argument));
    }
    processes.push_back(Start(command));
  } else {
    for (int rank = 0; rank < world; ++rank) {
      processes.push_back(Start(RankArguments(settings, transport, world, rank, folder)));
    }
  }
  bool ok = true;
  for (pid_t process : processes) {
    int status = 0;
    waitpid(process, &status, 0);
    ok = ok && status == 0;
  }
  Json rows = ok ? Json::parse(AwaitFile(fs::path(folder) / "result")) : Json::array();
  fs::remove_all(folder);
  return rows;
}

Json MeasureThreads(Settings settings, int world) {
  settings.world = world;
  std::vector<std::unique_ptr<Fabric>> fabrics;
  std::vector<std::string> endpoints;
  for (int rank = 0; rank < world; ++rank) {
    absl::StatusOr<std::unique_ptr<Fabric>> fabric = Open(settings, "inprocess");
    if (!fabric.ok()) Fail(fabric.status());
    endpoints.push_back((*fabric)->endpoint());
    fabrics.push_back(*std::move(fabric));
  }
  Json rows;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < world; ++rank) {
    threads.emplace_back([&, rank] {
      Json mine = MeasureRank(settings, *fabrics[rank], rank, endpoints);
      if (rank == 0) rows = std::move(mine);
    });
  }
  for (std::thread& thread : threads) thread.join();
  return rows;
}

std::string CpuModel() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("model name", 0) == 0) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

int RunAll(const Settings& settings) {
  Json rows = Json::array();
  if (!settings.json) {
    std::cout << absl::StrFormat("%s, %d cores\n%-10s %5s %11s %14s %12s %14s %7s %8s\n",
                                 CpuModel(), std::thread::hardware_concurrency(), "transport",
                                 "ranks", "bytes/peer", "exchange us", "best us", "memcpy us",
                                 "ratio", "GB/s");
  }
  bool ok = true;
  for (const std::string& transport : settings.transports) {
    for (int world : settings.ranks) {
      Json measured = transport == "inprocess" ? MeasureThreads(settings, world)
                                               : MeasureProcesses(settings, transport, world);
      ok = ok && !measured.empty();
      for (Json& row : measured) {
        if (!settings.json) {
          const double exchange_us = row["exchange_us_median"];
          const double memcpy_us = row["memcpy_us_median"];
          std::cout << absl::StrFormat("%-10s %5d %11d %14.1f %12.1f %14.1f %7.2f %8.2f\n",
                                       transport, world, row["bytes_per_peer"].get<int64_t>(),
                                       exchange_us, row["exchange_us_best"].get<double>(),
                                       memcpy_us, exchange_us / memcpy_us,
                                       row["off_rank_gb_per_s"].get<double>())
                    << std::flush;
        }
        Json whole = {{"transport", transport}};
        whole.update(row);
        rows.push_back(std::move(whole));
      }
    }
  }
  if (settings.json) {
    const Json out = {{"cpu", CpuModel()},
                      {"cores", std::thread::hardware_concurrency()},
                      {"block_seconds", settings.block_seconds},
                      {"blocks", kBlocks},
                      {"rows", rows}};
    std::cout << out.dump(1) << std::endl;
  }
  return ok ? 0 : 1;
}

int Main(int argc, char** argv) {
  Settings settings;
  CLI::App app{"All-to-all over each transport beside plain memcpy"};
  app.add_option("--transport", settings.transports,
                 "inprocess, shm, grpc, mpi; repeat for several")
      ->check(CLI::IsMember({"inprocess", "shm", "grpc", "mpi"}));
  app.add_option("--ranks", settings.ranks, "Sizes of the world")->check(CLI::Range(1, 64));
  app.add_option("--bytes", settings.bytes, "Bytes to each peer")->check(CLI::Range(4, 1 << 28));
  app.add_option("--block-seconds", settings.block_seconds, "Length of one of the 7 blocks");
  app.add_option("--mpirun", settings.mpirun, "How to start MPI jobs");
  app.add_flag("--json", settings.json, "One JSON document instead of a table");
  app.add_option("--rank-of", settings.rank_of)->group("");
  app.add_option("--rank", settings.rank)->group("");
  app.add_option("--world", settings.world)->group("");
  app.add_option("--meet", settings.meet)->group("");
  CLI11_PARSE(app, argc, argv);
  return settings.rank_of.empty() ? RunAll(settings) : RunRank(settings);
}

}  // namespace
}  // namespace shoal

int main(int argc, char** argv) { return shoal::Main(argc, argv); }
