// SPDX-License-Identifier: Apache-2.0
// See stop_matcher.h.
#include "coordinator/api/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace shoal {

StopMatcher::StopMatcher(const std::vector<std::string>& stop) {
  for (const std::string& text : stop) {
    if (text.empty()) continue;
    Pattern pattern;
    pattern.text = text;
    pattern.fallback.assign(text.size(), 0);
    for (size_t i = 1, border = 0; i < text.size(); ++i) {
      while (border > 0 && text[i] != text[border]) border = pattern.fallback[border - 1];
      if (text[i] == text[border]) ++border;
      pattern.fallback[i] = border;
    }
    patterns_.push_back(std::move(pattern));
  }
}

std::string StopMatcher::Push(absl::string_view text) {
  if (matched_) return "";
  if (patterns_.empty()) return std::string(text);
  for (size_t i = 0; i < text.size(); ++i) {
    size_t complete = 0;
    for (Pattern& pattern : patterns_) {
      size_t& n = pattern.matched;
      while (n > 0 && text[i] != pattern.text[n]) n = pattern.fallback[n - 1];
      if (text[i] == pattern.text[n]) ++n;
      if (n == pattern.text.size()) complete = std::max(complete, n);
    }
    if (complete > 0) {
      matched_ = true;
      held_.append(text.data(), i + 1);
      held_.resize(held_.size() - complete);
      return std::exchange(held_, "");
    }
  }
  size_t hold = 0;
  for (const Pattern& pattern : patterns_) hold = std::max(hold, pattern.matched);
  held_.append(text.data(), text.size());
  std::string shown = held_.substr(0, held_.size() - hold);
  held_.erase(0, shown.size());
  return shown;
}

std::string StopMatcher::Flush() {
  for (Pattern& pattern : patterns_) pattern.matched = 0;
  return std::exchange(held_, "");
}

}  // namespace shoal
