// SPDX-License-Identifier: Apache-2.0
// The bundled model's tokenizer and facts, for tests of the API.
#pragma once

#include <memory>

#include "coordinator/api/api_options.h"
#include "coordinator/api/openai_request.h"
#include "engine/text/tokenizer.h"

namespace shoal::testing {

inline const Tokenizer& TinyTokenizer() {
  static const Tokenizer* const kTokenizer =
      Tokenizer::Load(SHOAL_SOURCE_DIR "/deploy/models/shoal-tiny").value().release();
  return *kTokenizer;
}

inline ApiOptions TinyOptions() {
  ApiOptions options;
  options.listen = "127.0.0.1:0";
  options.served_model_name = "shoal-tiny";
  options.version = "1.2.3";
  options.chat_format = ChatFormat::kV3;
  options.model.vocab_size = 2048;
  options.model.max_position_embeddings = 2048;
  options.model.bos_token_id = 0;
  options.model.eos_token_ids = {1};
  options.sampling.temperature = 0.7f;
  options.sampling.top_p = 0.95f;
  return options;
}

}  // namespace shoal::testing
