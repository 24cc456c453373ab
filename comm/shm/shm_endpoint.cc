// SPDX-License-Identifier: Apache-2.0
#include "comm/shm/shm_endpoint.h"

#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/base/endpoint.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

constexpr absl::string_view kPrefix = "shm:";
constexpr size_t kMaxClusterShown = 32;

// The boot id tells machines apart, the network namespace tells containers on one machine apart.
std::string HostId() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string boot;
  std::getline(file, boot);
  struct stat net = {};
  if (stat("/proc/self/ns/net", &net) != 0) net.st_ino = 0;
  return absl::StrCat(boot.empty() ? "unknown" : boot, "/", net.st_ino);
}

}  // namespace

std::string ShmEndpoint::ToString() const { return absl::StrCat(kPrefix, host, ":", socket); }

absl::StatusOr<ShmEndpoint> ShmEndpoint::Parse(absl::string_view text) {
  SHOAL_ASSIGN_OR_RETURN(const ShmAddress address, ParseShmEndpoint(text));
  return ShmEndpoint{.host = std::string(address.host), .socket = std::string(address.socket)};
}

absl::StatusOr<ShmEndpoint> ShmEndpoint::MakeHere(absl::string_view cluster) {
  uint64_t nonce = 0;
  if (getrandom(&nonce, sizeof(nonce), 0) != sizeof(nonce)) {
    return absl::UnavailableError("no random bytes for a socket name");
  }
  std::string shown(cluster.substr(0, kMaxClusterShown));
  for (char& c : shown) {
    if (!absl::ascii_isalnum(c)) c = '_';
  }
  return ShmEndpoint{.host = HostId(),
                     .socket = absl::StrCat("shoal-", shown, "-", getpid(), "-",
                                            absl::Hex(nonce, absl::kZeroPad16))};
}

}  // namespace shoal
