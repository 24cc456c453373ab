// SPDX-License-Identifier: Apache-2.0
// Pre-tokenizer patterns are written for Oniguruma (Ruby syntax, Unicode 16 tables), which is what
// computed the published vocabularies' ids. We run them with PCRE2, and the two differ in ways that
// change ids or cost:
// - \s: PCRE2's includes U+180E, Oniguruma's is exactly White_Space.
// - \p{L} and the like: Debian 12's PCRE2 knows Unicode 14, so letters, digits and emoji assigned
//   since (such as U+1FA77, the pink heart) would fall into no class.
// - $: the end of every line in Ruby.
// - \s+$: tries every start within a long run of spaces, which takes quadratic time.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace shoal {

// The PCRE2 pattern (for PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, newline = LF) that matches what
// `oniguruma` matches. Unimplemented, naming the construct, for anything outside the part of the
// syntax these patterns use: literals, classes, \s \S \r \n \t \p{L,N,P,S,M}, escaped punctuation,
// groups (?: (?i: (?= (?!, alternation, greedy quantifiers, $.
absl::StatusOr<std::string> ToPcre2Pattern(absl::string_view oniguruma);

}  // namespace shoal
