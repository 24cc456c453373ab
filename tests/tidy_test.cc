// SPDX-License-Identifier: Apache-2.0
// Shows that the house keeps its walls: every #include goes in the direction that ARCHITECTURE.md
// draws, backends do not know each other, core and simulated worlds are pure, public headers stay
// free of the heavy libraries, and every file opens as it should. It reads the sources themselves.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace {

namespace fs = std::filesystem;
using ::testing::ContainsRegex;
using ::testing::Not;

const fs::path kRoot = SHOAL_SOURCE_DIR;

// Room -> rooms it may include beside itself. A room is the longest prefix of a file's folder that
// stands here. The rule of the table in ARCHITECTURE.md, "Who may include whom".
const std::map<std::string, std::set<std::string>>& AllowedIncludes() {
  static const std::set<std::string> kFoundation = {"engine/base", "engine/config"};
  static const std::set<std::string> kPorts = {"engine/base", "engine/config", "engine/tensor",
                                               "engine/device", "engine/parallel"};
  static const std::set<std::string> kEngine = {
      "engine/base",    "engine/config", "engine/tensor", "engine/device", "engine/parallel",
      "engine/weights", "engine/cache",  "engine/model",  "engine/sample"};
  static const std::set<std::string> kWholeEngine = [] {
    std::set<std::string> rooms = kEngine;
    rooms.insert({"engine/text", "engine"});
    return rooms;
  }();
  static const std::set<std::string> kWorker = [] {
    std::set<std::string> rooms = kEngine;
    rooms.insert({"comm", "proto"});
    return rooms;
  }();
  static const std::set<std::string> kDeploy = [] {
    std::set<std::string> rooms = kWholeEngine;
    rooms.insert({"engine/device/cpu", "engine/device/reference", "comm", "proto", "worker",
                  "coordinator", "coordinator/core", "coordinator/api", "coordinator/link",
                  "coordinator/sim"});
    return rooms;
  }();
  // The real coordinator and real workers in one world.
  static const std::set<std::string> kSimulator = [] {
    std::set<std::string> rooms = kWorker;
    rooms.insert({"worker", "coordinator/core", "coordinator/link"});
    return rooms;
  }();
  static const std::map<std::string, std::set<std::string>> kTable = {
      {"engine/base", {}},
      {"engine/config", {"engine/base"}},
      {"engine/text", {"engine/base"}},
      {"engine/tensor", kFoundation},
      {"engine/device", kPorts},
      {"engine/device/cpu", kPorts},
      {"engine/device/reference", kPorts},
      {"engine/parallel", kPorts},
      {"engine/weights", kEngine},
      {"engine/cache", kEngine},
      {"engine/model", kEngine},
      {"engine/sample", kEngine},
      {"engine", kWholeEngine},
      {"comm",
       {"engine/base", "engine/config", "engine/tensor", "engine/device", "engine/parallel",
        "proto"}},
      {"worker", kWorker},
      {"coordinator/core", kFoundation},
      {"coordinator/api", {"engine/base", "engine/config", "engine/text", "coordinator/core"}},
      {"coordinator/link", {"engine/base", "engine/config", "coordinator/core", "proto"}},
      {"coordinator/sim", kSimulator},
      {"coordinator",
       {"engine/base", "engine/config", "engine/text", "coordinator/core", "coordinator/api",
        "coordinator/link"}},
      {"deploy", kDeploy},
  };
  return kTable;
}

// The one place where backends are joined: it names each of them.
const std::set<std::string> kRegistry = {"engine/device/registry.cc",
                                         "engine/device/CMakeLists.txt"};

std::string RoomOf(const std::string& path) {
  std::string best;
  for (const auto& [room, allowed] : AllowedIncludes()) {
    if (path.rfind(room + "/", 0) == 0 && room.size() > best.size()) best = room;
  }
  return best;
}

std::vector<fs::path> Sources(const std::vector<std::string>& folders) {
  std::vector<fs::path> files;
  for (const std::string& folder : folders) {
    if (!fs::exists(kRoot / folder)) continue;
    for (const auto& entry : fs::recursive_directory_iterator(kRoot / folder)) {
      const std::string extension = entry.path().extension();
      if (extension == ".h" || extension == ".cc")
        files.push_back(fs::relative(entry.path(), kRoot));
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

std::vector<std::string> Lines(const fs::path& file) {
  std::ifstream in(kRoot / file);
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  return lines;
}

// The path within #include "..." or <...>, or empty.
std::string IncludedPath(const std::string& line) {
  if (line.rfind("#include ", 0) != 0) return "";
  const size_t begin = line.find_first_of("\"<");
  if (begin == std::string::npos) return "";
  const size_t end = line.find_first_of("\">", begin + 1);
  return line.substr(begin + 1, end - begin - 1);
}

const std::vector<std::string> kRooms = {"engine", "comm", "worker", "coordinator", "deploy"};

TEST(Tidy, IncludesFollowTheDirectionOfTheHouse) {
  const std::vector<fs::path> files = Sources(kRooms);
  ASSERT_GT(files.size(), 20u);
  for (const fs::path& file : files) {
    const std::string room = RoomOf(file);
    ASSERT_NE(room, "") << file << " stands in no room of the table";
    for (const std::string& line : Lines(file)) {
      const std::string target = IncludedPath(line);
      EXPECT_NE(target.rfind("tests/", 0), 0u) << file << ": " << line;
      EXPECT_NE(target.rfind("benchmarks/", 0), 0u) << file << ": " << line;
      if (target.rfind("proto/", 0) == 0 && room != "proto") {
        EXPECT_TRUE(AllowedIncludes().at(room).count("proto")) << file << ": " << line;
        continue;
      }
      const std::string target_room = RoomOf(target);
      if (target_room.empty() || target_room == room || kRegistry.count(file)) continue;
      EXPECT_TRUE(AllowedIncludes().at(room).count(target_room))
          << file << " (room " << room << ") may not include room " << target_room << ": " << line;
    }
  }
}

// Folders whose headers only their own room includes: a transport speaks its library's types
// inside.
const std::vector<std::string> kPrivateFolders = {"comm/grpc/", "comm/inprocess/", "comm/mpi/",
                                                  "comm/shm/"};

bool IsPrivate(const std::string& path) {
  return std::any_of(kPrivateFolders.begin(), kPrivateFolders.end(),
                     [&](const std::string& folder) { return path.rfind(folder, 0) == 0; });
}

// What a pure function of (event, now) may be made of: values and containers.
const std::set<std::string> kPureHeaders = {
    "algorithm", "array",      "bit",      "cmath",       "compare",
    "cstddef",   "cstdint",    "cstring",  "deque",       "limits",
    "map",       "memory",     "numeric",  "optional",    "set",
    "string",    "utility",    "tuple",    "string_view", "variant",
    "vector",    "functional", "iterator", "new",         "absl/time/time.h"};
const std::vector<std::string> kPureFolders = {"absl/algorithm/",  "absl/container/",
                                               "absl/functional/", "absl/status/",
                                               "absl/strings/",    "absl/types/"};
// What needs no header of its own, since others bring it along.
constexpr char kImpure[] =
    "\\babsl::(Now|SleepFor|GetCurrentTimeNanos|Hash|BitGen)"
    "|\\bSteady(Now|CondVar)"
    "|\\bstd::(chrono|thread|jthread|async|random_device|hash|unordered_)"
    "|\\b(s?rand|getenv|clock_gettime|gettimeofday|localtime)\\("
    "|\\btime\\((nullptr|NULL|0|&)";
// A worker hands the simulator its mutex; the core sees none.
constexpr char kLock[] = "\\babsl::(Mutex|CondVar|Notification)|\\bstd::(mutex|atomic)";

bool IsPureHeader(const std::string& target) {
  return kPureHeaders.count(target) > 0 || !RoomOf(target).empty() ||
         target.rfind("proto/", 0) == 0 ||
         std::any_of(kPureFolders.begin(), kPureFolders.end(),
                     [&](const std::string& folder) { return target.rfind(folder, 0) == 0; });
}

// Equal state and equal (event, now) must give equal commands, and equal seeds equal worlds: no
// clock, thread, lock, randomness, file, environment or hash of another seed each time.
TEST(Tidy, CoreAndSimulatedWorldsArePure) {
  // Runs worlds, many at once, or measures what the core costs: none is part of a world.
  const std::set<std::string> around_worlds = {"campaign.h", "campaign.cc", "core_thread.h",
                                               "large_unit.h", "large_unit.cc", "outage.cc"};
  const std::set<std::string> of_fibers = {"ucontext.h", "sys/mman.h",
                                           "sanitizer/common_interface_defs.h"};
  const std::vector<fs::path> files = Sources({"coordinator/core", "coordinator/sim"});
  ASSERT_GT(files.size(), 50u);
  for (const fs::path& file : files) {
    const bool simulator = RoomOf(file) == "coordinator/sim";
    if (simulator && around_worlds.count(file.filename()) > 0) continue;
    const bool fibers = simulator && file.stem() == "fiber";
    for (const std::string& line : Lines(file)) {
      const std::string target = IncludedPath(line);
      EXPECT_TRUE(target.empty() || IsPureHeader(target) || (fibers && of_fibers.count(target) > 0))
          << file << ": " << line;
      const std::string code = line.substr(0, line.find("//"));
      EXPECT_THAT(code, Not(ContainsRegex(kImpure))) << file << ": " << line;
      if (simulator) continue;
      EXPECT_THAT(code, Not(ContainsRegex(kLock))) << file << ": " << line;
    }
  }
}

// What goes by the system's clock, which somebody may set: what it says, and Abseil's timed waits.
constexpr char kTimeOfDay[] = "\\babsl::(Now|GetCurrentTimeNanos)\\b|\\bCLOCK_REALTIME\\b";
constexpr char kWaitByTimeOfDay[] = "(Await|When|Wait|ForNotification)With(Deadline|Timeout)\\(";

// Deadlines, and what is measured, go by engine/base/steady_clock.h.
TEST(Tidy, NothingWaitsByAClockThatCanBeSet) {
  const std::set<std::string> tell_the_time_of_day = {
      "engine/base/steady_clock.h",          // where the steady clock begins
      "coordinator/api/api_server.cc",       // a model's `created`
      "coordinator/api/request_stream.cc",   // an answer's `created`
      "coordinator/api/http_connection.cc",  // Date
      "deploy/shoal/status.cc"};             // how long ago
  for (const fs::path& file : Sources(kRooms)) {
    for (const std::string& line : Lines(file)) {
      const std::string code = line.substr(0, line.find("//"));
      EXPECT_THAT(code, Not(ContainsRegex(kWaitByTimeOfDay))) << file << ": " << line;
      if (tell_the_time_of_day.count(file) > 0) continue;
      EXPECT_THAT(code, Not(ContainsRegex(kTimeOfDay))) << file << ": " << line;
    }
  }
}

TEST(Tidy, HeadersStayFreeOfHeavyLibraries) {
  // A room's private headers may name them: those that end in _internal.h, and private folders'.
  const std::vector<std::string> heavy = {"grpc",  "google/protobuf", "spdlog",     "nlohmann",
                                          "boost", "yaml-cpp",        "prometheus", "proto/",
                                          "mpi.h", "openssl"};
  for (const fs::path& file : Sources(kRooms)) {
    if (file.extension() != ".h" || IsPrivate(file)) continue;
    if (file.filename().string().find("_internal.h") != std::string::npos) continue;
    for (const std::string& line : Lines(file)) {
      const std::string target = IncludedPath(line);
      for (const std::string& library : heavy) {
        EXPECT_NE(target.rfind(library, 0), 0u) << file << ": " << line;
      }
    }
  }
}

TEST(Tidy, PrivateFoldersStayPrivate) {
  for (const fs::path& file : Sources(kRooms)) {
    for (const std::string& line : Lines(file)) {
      const std::string target = IncludedPath(line);
      if (!IsPrivate(target)) continue;
      EXPECT_EQ(RoomOf(target), RoomOf(file)) << file << ": " << line;
    }
  }
}

TEST(Tidy, FilesOpenWithLicenceAndPurpose) {
  for (const fs::path& file :
       Sources({"engine", "comm", "worker", "coordinator", "deploy", "tests", "benchmarks"})) {
    const std::vector<std::string> lines = Lines(file);
    ASSERT_FALSE(lines.empty()) << file;
    EXPECT_EQ(lines[0], "// SPDX-License-Identifier: Apache-2.0") << file;
    if (file.extension() == ".h") {
      ASSERT_GT(lines.size(), 2u) << file;
      EXPECT_EQ(lines[1].rfind("// ", 0), 0u) << file << ": a header says what it is for";
      EXPECT_NE(std::find(lines.begin(), lines.end(), "#pragma once"), lines.end()) << file;
    }
  }
}

TEST(Tidy, EveryRoomHasAReadme) {
  for (const char* room : {"engine",
                           "engine/config",
                           "engine/text",
                           "engine/tensor",
                           "engine/weights",
                           "engine/device",
                           "engine/cache",
                           "engine/parallel",
                           "engine/model",
                           "engine/sample",
                           "comm",
                           "worker",
                           "coordinator",
                           "coordinator/core",
                           "coordinator/api",
                           "coordinator/link",
                           "coordinator/sim",
                           "proto",
                           "deploy",
                           "tests",
                           "benchmarks"}) {
    EXPECT_TRUE(fs::exists(kRoot / room / "README.md")) << room;
  }
}

TEST(Tidy, NoRoomIsALumberRoom) {
  const std::set<std::string> banned = {"util", "utils", "common", "misc", "helpers", "impl"};
  for (const fs::path& file :
       Sources({"engine", "comm", "worker", "coordinator", "deploy", "tests", "benchmarks"})) {
    for (const fs::path& part : file) {
      EXPECT_FALSE(banned.count(part.stem().string())) << file;
    }
  }
}

}  // namespace
