// SPDX-License-Identifier: Apache-2.0
#include "engine/text/stream_decoder.h"

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace shoal {

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : tokenizer_(&tokenizer), skip_special_(skip_special) {}

std::string StreamDecoder::Push(int32_t id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return "";
  absl::StrAppend(&pending_, tokenizer_->TokenBytes(id));
  // Everything up to an incomplete tail is decided: no further byte can change it.
  absl::string_view rest = pending_;
  while (!rest.empty()) {
    const Utf8Step step = NextUtf8(rest);
    if (step.kind == Utf8Step::Kind::kIncomplete) break;
    rest.remove_prefix(step.size);
  }
  const size_t decided = pending_.size() - rest.size();
  std::string text = ToValidUtf8(absl::string_view(pending_).substr(0, decided));
  pending_.erase(0, decided);
  return text;
}

std::string StreamDecoder::Flush() {
  std::string text = ToValidUtf8(pending_);
  pending_.clear();
  return text;
}

}  // namespace shoal
