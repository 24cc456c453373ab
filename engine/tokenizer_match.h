// SPDX-License-Identifier: Apache-2.0
// Whether a directory's tokenizer is the one its model was trained with, as far as files can tell.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "engine/config/model_config.h"
#include "engine/text/tokenizer.h"

namespace shoal {

// Three signs: no id lies beyond the embedding; nearly every row of the embedding has a token (V2
// leaves 2.3 % of its rows without one, V3 0.4 %: at most one in 32 is allowed); and the ids that
// config.json and generation_config.json give begin and end of sentence are those of the tokens
// that tokenizer_config.json names. Errors: InvalidArgument naming the key, wanted and found.
absl::Status CheckTokenizerMatches(const std::string& directory, const ModelConfig& config,
                                   const Tokenizer& tokenizer);

}  // namespace shoal
