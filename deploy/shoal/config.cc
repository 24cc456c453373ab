// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/config.h"

#include <arpa/inet.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "deploy/shoal/config_fields.h"
#include "engine/base/status_macros.h"

namespace shoal {
namespace {

absl::Status Bad(absl::string_view flag, absl::string_view wanted, absl::string_view found) {
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, ": want ", wanted, ", got '", found, "'"));
}

absl::Status InRange(absl::string_view flag, int64_t value, int64_t least, int64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return Bad(flag, absl::StrCat(least, "..", most), absl::StrCat(value));
}

absl::Status InSeconds(absl::string_view flag, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();  // NaN is not
  return Bad(flag, absl::StrCat(least, "..", most, " seconds"), absl::StrCat(value));
}

absl::Status OneOf(absl::string_view flag, absl::string_view value,
                   const std::vector<absl::string_view>& choices) {
  if (std::find(choices.begin(), choices.end(), value) != choices.end()) return absl::OkStatus();
  // An empty choice is the flag left out; nobody needs to be told of that.
  std::vector<absl::string_view> named = choices;
  named.erase(std::remove(named.begin(), named.end(), ""), named.end());
  return Bad(flag, absl::StrJoin(named, " | "), value);
}

absl::Status AllOrNone(absl::string_view names, std::initializer_list<const std::string*> values) {
  size_t given = 0;
  for (const std::string* value : values) given += value->empty() ? 0 : 1;
  if (given == 0 || given == values.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(names, ": want all of them or none"));
}

absl::StatusOr<HostPort> AddressOf(absl::string_view flag, const std::string& address) {
  absl::StatusOr<HostPort> where = ParseHostPort(address);
  if (where.ok()) return where;
  return absl::InvalidArgumentError(absl::StrCat("--", flag, ": ", where.status().message()));
}

// Listening where strangers can reach it without proof of who they are must be asked for.
absl::Status CheckExposure(absl::string_view flag, const std::string& address, bool secured,
                           absl::string_view cure, bool insecure) {
  SHOAL_ASSIGN_OR_RETURN(const HostPort where, AddressOf(flag, address));
  if (where.loopback() || secured || insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "--", flag, " ", address, " listens beyond loopback: give ", cure, ", or say --insecure"));
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  absl::string_view number = absl::StripAsciiWhitespace(text);
  if (!absl::ConsumeSuffix(&number, "iB")) absl::ConsumeSuffix(&number, "B");
  double unit = 1;
  if (!number.empty()) {
    const size_t power = absl::string_view("KMGTP").find(absl::ascii_toupper(number.back()));
    if (power != absl::string_view::npos) {
      unit = std::pow(1024.0, static_cast<double>(power) + 1);
      number.remove_suffix(1);
    }
  }
  double value = 0;
  if (number.empty() || !absl::SimpleAtod(number, &value) || !(value >= 0) || value * unit > 9e18) {
    return absl::InvalidArgumentError(
        absl::StrCat("'", text, "' is no size: want bytes, or 512M, 8G"));
  }
  return static_cast<int64_t>(value * unit);
}

bool HostPort::loopback() const {
  in_addr v4 = {};
  if (inet_pton(AF_INET, host.c_str(), &v4) == 1) return (ntohl(v4.s_addr) >> 24) == 127;
  in6_addr v6 = {};
  if (inet_pton(AF_INET6, host.c_str(), &v6) == 1) return IN6_IS_ADDR_LOOPBACK(&v6);
  return host == "localhost";
}

absl::StatusOr<HostPort> ParseHostPort(absl::string_view text) {
  const auto bad = [&] {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is no address: want HOST:PORT"));
  };
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos) return bad();
  HostPort parsed;
  absl::string_view host = text.substr(0, colon);
  if (absl::ConsumePrefix(&host, "[")) {
    if (!absl::ConsumeSuffix(&host, "]")) return bad();
  } else if (host.find(':') != absl::string_view::npos) {
    return bad();  // an IPv6 address wants brackets
  }
  const absl::string_view port = text.substr(colon + 1);
  if (host.empty() || port.empty() || !std::all_of(port.begin(), port.end(), absl::ascii_isdigit) ||
      !absl::SimpleAtoi(port, &parsed.port) || parsed.port > 65535) {
    return bad();
  }
  parsed.host = std::string(host);
  return parsed;
}

absl::Status ValidateConfig(const ShoalConfig& config, ConfigCommand command) {
  if (config.model.empty()) return Bad("model", "a directory", "");
  SHOAL_RETURN_IF_ERROR(OneOf("transport", config.transport, {"inprocess", "shm", "grpc", "mpi"}));
  SHOAL_RETURN_IF_ERROR(OneOf("backend", config.backend, {"cpu", "reference"}));
  SHOAL_RETURN_IF_ERROR(
      OneOf("log-level", config.log_level, {"trace", "debug", "info", "warn", "error", "off"}));
  SHOAL_RETURN_IF_ERROR(
      OneOf("chat-format", config.chat_format, {"", "v2", "v3", "r1", "r1-0528", "v3.1"}));
  SHOAL_RETURN_IF_ERROR(InRange("workers", config.workers, 1, 4096));
  if (config.holders < 1 || config.holders > config.workers) {
    return Bad("holders", absl::StrCat("1..", config.workers, " (one on each of --workers)"),
               absl::StrCat(config.holders));
  }
  SHOAL_RETURN_IF_ERROR(InRange("redundant-experts", config.redundant_experts, 0, 1000000));
  if (!config.placement.empty() && config.redundant_experts > 0) {
    return absl::InvalidArgumentError("--placement and --redundant-experts: give one");
  }
  if (!config.placement.empty() && !config.expert_load.empty()) {
    return absl::InvalidArgumentError("--placement and --expert-load: give one");
  }
  SHOAL_RETURN_IF_ERROR(InRange("threads", config.threads, 0, 4096));
  SHOAL_RETURN_IF_ERROR(InRange("block-tokens", config.block_tokens, 1, 4096));
  SHOAL_RETURN_IF_ERROR(InRange("max-batch-rows", config.max_batch_rows, 1, 65536));
  SHOAL_RETURN_IF_ERROR(InRange("max-running", config.max_running, 1, 65536));
  SHOAL_RETURN_IF_ERROR(InRange("max-queue", config.max_queue, 1, 1000000));
  SHOAL_RETURN_IF_ERROR(InRange("cache-blocks", config.cache_blocks, 0, (int64_t{1} << 31) - 1));
  SHOAL_RETURN_IF_ERROR(InSeconds("step-timeout-s", config.step_timeout_s, 0.1, 86400));
  SHOAL_RETURN_IF_ERROR(InSeconds("heartbeat-timeout-s", config.heartbeat_timeout_s, 0.1, 3600));
  SHOAL_RETURN_IF_ERROR(InSeconds("load-timeout-s", config.load_timeout_s, 0.1, 864000));
  SHOAL_RETURN_IF_ERROR(InSeconds("drain-timeout-s", config.drain_timeout_s, 0, 86400));
  if (config.max_running > config.max_batch_rows) {
    return Bad("max-running", absl::StrCat("at most max-batch-rows (", config.max_batch_rows, ")"),
               absl::StrCat(config.max_running));
  }
  if (!config.cache_memory.empty()) {
    if (config.cache_blocks > 0)
      return absl::InvalidArgumentError("--cache-memory and --cache-blocks: give one");
    if (absl::StatusOr<int64_t> bytes = ParseBytes(config.cache_memory); !bytes.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("--cache-memory: ", bytes.status().message()));
    }
  }
  SHOAL_RETURN_IF_ERROR(AllOrNone("--tls-cert, --tls-key", {&config.tls_cert, &config.tls_key}));
  SHOAL_RETURN_IF_ERROR(AllOrNone("--cluster-cert, --cluster-key, --cluster-ca",
                                  {&config.cluster_cert, &config.cluster_key, &config.cluster_ca}));
  const bool cluster_tls = !config.cluster_cert.empty();
  constexpr absl::string_view kClusterCure = "--cluster-cert, --cluster-key and --cluster-ca";
  if (command == kWorker) {
    if (config.coordinator.empty()) return Bad("coordinator", "HOST:PORT", "");
    SHOAL_RETURN_IF_ERROR(AddressOf("coordinator", config.coordinator).status());
    if (config.transport == "inprocess")
      return Bad("transport", "shm | grpc | mpi", config.transport);
  } else {
    SHOAL_RETURN_IF_ERROR(CheckExposure("http", config.http,
                                        !config.tls_cert.empty() && !config.api_keys.empty(),
                                        "--tls-cert, --tls-key and --api-keys", config.insecure));
    if (!config.cluster_listen.empty()) {
      SHOAL_RETURN_IF_ERROR(CheckExposure("cluster-listen", config.cluster_listen, cluster_tls,
                                          kClusterCure, config.insecure));
    } else if (command == kCoordinator) {
      return Bad("cluster-listen", "HOST:PORT", "");
    }
  }
  if (command != kCoordinator && config.transport == "grpc") {
    SHOAL_ASSIGN_OR_RETURN(const HostPort exchange,
                           AddressOf("exchange-listen", config.exchange_listen));
    if (command == kServe && config.workers > 1 && exchange.port != 0) {
      return Bad("exchange-listen", "port 0 for several workers", config.exchange_listen);
    }
    SHOAL_RETURN_IF_ERROR(CheckExposure("exchange-listen", config.exchange_listen, cluster_tls,
                                        kClusterCure, config.insecure));
  }
  return absl::OkStatus();
}

absl::Status ApplyYaml(const std::string& yaml, ConfigCommand command, ShoalConfig& config) {
  try {
    const YAML::Node root = YAML::Load(yaml);
    if (root.IsNull()) return absl::OkStatus();
    if (!root.IsMap()) return absl::InvalidArgumentError("want a map of keys to values");
    std::set<std::string> seen;
    for (const auto& entry : root) {
      const std::string key = entry.first.as<std::string>();
      const std::string where = absl::StrCat("line ", entry.first.Mark().line + 1, ": ");
      if (!seen.insert(key).second)
        return absl::InvalidArgumentError(absl::StrCat(where, "'", key, "' a second time"));
      const ConfigField* found = nullptr;
      for (const ConfigField& field : ConfigFields()) {
        if (key == field.name && (field.commands & command) != 0) found = &field;
      }
      if (found == nullptr)
        return absl::InvalidArgumentError(absl::StrCat(where, "unknown key '", key, "'"));
      try {
        if (entry.second.IsNull()) throw YAML::Exception(entry.second.Mark(), "no value");
        std::visit(
            [&](auto member) {
              using Value = std::decay_t<decltype(config.*member)>;
              config.*member = entry.second.as<Value>();
            },
            found->member);
      } catch (const YAML::Exception&) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, "'", key, "' has a value of the wrong type"));
      }
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat("no YAML: ", error.what()));
  }
  return absl::OkStatus();
}

std::string ConfigToYaml(const ShoalConfig& config, ConfigCommand command) {
  YAML::Emitter out;
  out.SetDoublePrecision(6);
  out << YAML::BeginMap;
  for (const ConfigField& field : ConfigFields()) {
    if ((field.commands & command) == 0 || field.group[0] == '\0') continue;
    out << YAML::Key << field.name << YAML::Value;
    std::visit([&](auto member) { out << config.*member; }, field.member);
  }
  out << YAML::EndMap;
  return out.c_str();
}

std::vector<std::string> ConfigToFlags(const ShoalConfig& config, ConfigCommand command) {
  const ShoalConfig defaults;
  std::vector<std::string> flags;
  for (const ConfigField& field : ConfigFields()) {
    if ((field.commands & command) == 0) continue;
    std::visit(
        [&](auto member) {
          if (config.*member == defaults.*member) return;
          using Value = std::decay_t<decltype(config.*member)>;
          if constexpr (std::is_same_v<Value, bool>) {
            flags.push_back(absl::StrCat(config.*member ? "--" : "--no-", field.name));
          } else {
            flags.push_back(absl::StrCat("--", field.name, "=", config.*member));
          }
        },
        field.member);
  }
  return flags;
}

}  // namespace shoal
