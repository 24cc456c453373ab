// SPDX-License-Identifier: Apache-2.0
// Cuts text into the pieces (words, numbers, punctuation, ...) that byte-pair merging never joins.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace shoal {

// One step isolates every match of a pattern: matches and the stretches between them become the
// next step's pieces, each seen alone (a look-ahead does not see beyond its piece).
class PreTokenizer {
 public:
  // `patterns` in Oniguruma's syntax, in order. Unimplemented for syntax we do not know or a
  // pattern that can match nothing; ResourceExhausted if a pattern cannot be compiled for lack of
  // memory.
  static absl::StatusOr<std::unique_ptr<PreTokenizer>> Create(
      absl::Span<const std::string> patterns);

  ~PreTokenizer();
  PreTokenizer(const PreTokenizer&) = delete;
  PreTokenizer& operator=(const PreTokenizer&) = delete;

  // The pieces of `text`, in order, none empty; together they are `text`. Requires valid UTF-8.
  // Thread-safe.
  std::vector<absl::string_view> Split(absl::string_view text) const;

 private:
  class Pattern;  // a compiled regular expression
  explicit PreTokenizer(std::vector<std::unique_ptr<Pattern>> steps);
  std::vector<std::unique_ptr<Pattern>> steps_;
};

}  // namespace shoal
