// SPDX-License-Identifier: Apache-2.0
// Finds stop strings in text that arrives in pieces, and holds back what may still become one.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace shoal {

// The first stop string to be complete wins; of several complete at the same byte, the longest. So
// the result does not depend on where the text was cut into pieces. Works on bytes: a UTF-8 stop
// string matches at any split of its code points, and the text given out is cut only where a stop
// string begins. Not thread-safe; one per stream.
class StopMatcher {
 public:
  // Empty strings are ignored.
  explicit StopMatcher(const std::vector<std::string>& stop);

  // Appends `text` and returns what may be shown now. After a match: the text before the stop
  // string, then nothing.
  std::string Push(absl::string_view text);
  // The stream is over: what was held back is text after all.
  std::string Flush();

  bool matched() const { return matched_; }

 private:
  // Knuth-Morris-Pratt, one per stop string.
  struct Pattern {
    std::string text;
    std::vector<size_t> fallback;  // [i]: length of the longest proper border of text[0, i]
    size_t matched = 0;            // length of the longest prefix of `text` that ends the input
  };

  std::vector<Pattern> patterns_;
  std::string held_;  // the end of the input that is a prefix of some pattern, not given out yet
  bool matched_ = false;
};

}  // namespace shoal
