// SPDX-License-Identifier: Apache-2.0
// Token ids to text, one at a time, for streaming: never emits half a code point.
#pragma once

#include <cstdint>
#include <string>

#include "engine/text/tokenizer.h"

namespace shoal {

// The text of a growing sequence. All Push results and the Flush, concatenated, equal
// Tokenizer::Decode of the ids. Not thread-safe; one per stream.
class StreamDecoder {
 public:
  // `tokenizer` must outlive the decoder. `skip_special` as in Tokenizer::Decode.
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);

  // Appends a token and returns what may be shown now: everything but an unfinished code point at
  // the end. Bytes that can no longer become valid are U+FFFD at once.
  std::string Push(int32_t id);

  // The stream is over: returns what was held back, as U+FFFD. The decoder is then as new.
  std::string Flush();

 private:
  const Tokenizer* tokenizer_;
  bool skip_special_;
  std::string pending_;  // an incomplete code point, at most 3 bytes
};

}  // namespace shoal
