// SPDX-License-Identifier: Apache-2.0
// The table of configuration fields: flags, YAML keys and log lines are all made from it.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "deploy/shoal/config.h"

namespace shoal {

using ConfigMember =
    std::variant<std::string ShoalConfig::*, int ShoalConfig::*, int64_t ShoalConfig::*,
                 double ShoalConfig::*, bool ShoalConfig::*>;

struct ConfigField {
  const char* name;   // "max-batch-rows": flag and YAML key
  unsigned commands;  // ConfigCommand bits
  const char* group;  // heading in --help; empty: hidden, set by `serve` for its workers
  ConfigMember member;
  const char* help;
};

absl::Span<const ConfigField> ConfigFields();

// Adds the flags of `command` and --config FILE to `app`. Resolve, called when the flags are
// parsed, gives the configuration: defaults, then the file, then the flags; validated.
class ConfigFlags {
 public:
  ConfigFlags(CLI::App& app, ConfigCommand command);
  absl::StatusOr<ShoalConfig> Resolve() const;

 private:
  CLI::App& app_;
  const ConfigCommand command_;
  ShoalConfig flags_;
  std::string file_;
};

}  // namespace shoal
