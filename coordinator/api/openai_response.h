// SPDX-License-Identifier: Apache-2.0
// The JSON of OpenAI's answers: whole ones and the chunks of streamed ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "coordinator/api/choice_stream.h"
#include "engine/text/tokenizer.h"

namespace shoal {

// What all chunks of an answer share.
struct ResponseHead {
  bool chat = false;
  std::string id;       // "cmpl-..." or "chatcmpl-..."
  int64_t created = 0;  // Unix seconds
  std::string model;
  bool logprobs = false;  // were asked for
  bool usage = false;     // streamed: the last chunk has the usage, the others say null
};

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;  // of the prompt's
};

// "stop", "length"; empty for kNone.
absl::string_view FinishReasonName(FinishReason finish);

// A whole answer; choices by index.
std::string ResponseJson(const ResponseHead& head, const Tokenizer& tokenizer,
                         const std::vector<ChoiceDelta>& choices, const Usage& usage);

// The chunks of a streamed answer.
std::string RoleChunkJson(const ResponseHead& head, int choice);  // chat: opens each choice
std::string ChunkJson(const ResponseHead& head, const Tokenizer& tokenizer, int choice,
                      const ChoiceDelta& delta);
std::string UsageChunkJson(const ResponseHead& head, const Usage& usage);

// Text that stands for a token in legacy log-probabilities: its text, or "bytes:\xE4\xB8" when it
// is not UTF-8 on its own.
std::string TokenText(const Tokenizer& tokenizer, int32_t token);

}  // namespace shoal
