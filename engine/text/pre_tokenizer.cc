// SPDX-License-Identifier: Apache-2.0
#include "engine/text/pre_tokenizer.h"

#include <cstdint>
#include <limits>
#include <utility>

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/base/check.h"
#include "engine/base/status_macros.h"
#include "engine/text/regex_translation.h"

namespace shoal {

namespace {

struct Pcre2Free {
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
};
template <typename T>
using Pcre2Ptr = std::unique_ptr<T, Pcre2Free>;

PCRE2_SPTR AsUnits(absl::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

std::string ErrorText(int code) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(code, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

class PreTokenizer::Pattern {
 public:
  static absl::StatusOr<std::unique_ptr<Pattern>> Compile(absl::string_view oniguruma) {
    SHOAL_ASSIGN_OR_RETURN(const std::string text, ToPcre2Pattern(oniguruma));
    const Pcre2Ptr<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
    Pcre2Ptr<pcre2_match_context> limits(pcre2_match_context_create(nullptr));
    if (context == nullptr || limits == nullptr) return OutOfMemory(oniguruma);
    pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
    int error = 0;
    PCRE2_SIZE offset = 0;
    Pcre2Ptr<pcre2_code> code(pcre2_compile(AsUnits(text), text.size(),
                                            PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE, &error,
                                            &offset, context.get()));
    if (code == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("regular expression \"", oniguruma, "\": ", ErrorText(error)));
    }
    uint32_t matches_empty = 0;
    pcre2_pattern_info(code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
    if (matches_empty != 0) {
      return absl::UnimplementedError(
          absl::StrCat("regular expression \"", oniguruma, "\" can match nothing"));
    }
    // Where just-in-time compilation is not to be had, the interpreter gives the same answers.
    const bool jit = pcre2_jit_compile(code.get(), PCRE2_JIT_COMPLETE) == 0;
    // The default limits guard against hostile patterns; ours are a file's, and the text may be
    // long.
    pcre2_set_match_limit(limits.get(), std::numeric_limits<uint32_t>::max());
    pcre2_set_depth_limit(limits.get(), std::numeric_limits<uint32_t>::max());
    pcre2_set_heap_limit(limits.get(), std::numeric_limits<uint32_t>::max());
    return std::unique_ptr<Pattern>(new Pattern(std::move(code), std::move(limits), jit));
  }

  // Appends the pieces of `text` to `pieces`.
  void Isolate(absl::string_view text, pcre2_match_data* match,
               std::vector<absl::string_view>& pieces) const {
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match);
    size_t done = 0;
    while (done < text.size() && Find(text, done, match)) {
      if (bounds[0] > done) pieces.push_back(text.substr(done, bounds[0] - done));
      pieces.push_back(text.substr(bounds[0], bounds[1] - bounds[0]));
      done = bounds[1];
    }
    if (done < text.size()) pieces.push_back(text.substr(done));
  }

 private:
  Pattern(Pcre2Ptr<pcre2_code> code, Pcre2Ptr<pcre2_match_context> limits, bool jit)
      : code_(std::move(code)), limits_(std::move(limits)), jit_(jit) {}

  static absl::Status OutOfMemory(absl::string_view oniguruma) {
    return absl::ResourceExhaustedError(
        absl::StrCat("no memory to compile regular expression \"", oniguruma, "\""));
  }

  bool Find(absl::string_view text, size_t from, pcre2_match_data* match) const {
    int result = PCRE2_ERROR_JIT_STACKLIMIT;
    if (jit_) {
      result = pcre2_jit_match(code_.get(), AsUnits(text), text.size(), from, PCRE2_NO_UTF_CHECK,
                               match, limits_.get());
    }
    // The interpreter keeps its backtracking on the heap.
    if (result == PCRE2_ERROR_JIT_STACKLIMIT) {
      result = pcre2_match(code_.get(), AsUnits(text), text.size(), from,
                           PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, match, limits_.get());
    }
    SHOAL_CHECK(result > 0 || result == PCRE2_ERROR_NOMATCH);
    return result > 0;
  }

  Pcre2Ptr<pcre2_code> code_;
  Pcre2Ptr<pcre2_match_context> limits_;
  bool jit_;
};

PreTokenizer::PreTokenizer(std::vector<std::unique_ptr<Pattern>> steps)
    : steps_(std::move(steps)) {}
PreTokenizer::~PreTokenizer() = default;

absl::StatusOr<std::unique_ptr<PreTokenizer>> PreTokenizer::Create(
    absl::Span<const std::string> patterns) {
  std::vector<std::unique_ptr<Pattern>> steps;
  for (const std::string& pattern : patterns) {
    SHOAL_ASSIGN_OR_RETURN(steps.emplace_back(), Pattern::Compile(pattern));
  }
  return std::unique_ptr<PreTokenizer>(new PreTokenizer(std::move(steps)));
}

std::vector<absl::string_view> PreTokenizer::Split(absl::string_view text) const {
  std::vector<absl::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  const Pcre2Ptr<pcre2_match_data> match(pcre2_match_data_create(1, nullptr));
  SHOAL_CHECK(match != nullptr);
  std::vector<absl::string_view> next;
  for (const std::unique_ptr<Pattern>& step : steps_) {
    next.clear();
    for (const absl::string_view piece : pieces) step->Isolate(piece, match.get(), next);
    pieces.swap(next);
  }
  return pieces;
}

}  // namespace shoal
