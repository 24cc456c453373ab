// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/repeats.h"

#include "absl/strings/str_cat.h"

namespace shoal {
namespace {

constexpr absl::Duration kPeriod = absl::Minutes(1);
constexpr size_t kMaxLines = 256;  // more at a time are all said

}  // namespace

std::optional<std::string> Repeats::Say(const std::string& what, absl::Time now) {
  absl::MutexLock lock(&mutex_);
  // Who has been quiet for a period after its last line is forgotten, with what was left unsaid.
  std::erase_if(lines_, [&](const auto& line) { return now - line.second.said >= 2 * kPeriod; });
  const auto found = lines_.find(what);
  if (found == lines_.end()) {
    if (lines_.size() < kMaxLines) lines_[what] = Line{.said = now};
    return "";
  }
  Line& line = found->second;
  if (now - line.said < kPeriod) {
    ++line.unsaid;
    return std::nullopt;
  }
  const int64_t unsaid = line.unsaid;
  line = Line{.said = now};
  return unsaid == 0 ? "" : absl::StrCat(" (and ", unsaid, " times more since the last such line)");
}

}  // namespace shoal
