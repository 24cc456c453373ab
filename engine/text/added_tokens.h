// SPDX-License-Identifier: Apache-2.0
// Finds added tokens (`<think>`, `<｜User｜>`, ...) in raw text: leftmost first, longest on a tie.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace shoal {

// A trie over bytes. Built once, then read-only; a search costs at most (text x longest token)
// steps.
class AddedTokens {
 public:
  struct Match {
    size_t begin;
    size_t size;
    int32_t id;
  };

  // Requires !content.empty(). A second token with the same content replaces the first.
  void Add(absl::string_view content, int32_t id);

  bool empty() const { return nodes_.size() == 1; }

  // The first match at or after `from`; its `id` is -1 when there is none.
  Match Find(absl::string_view text, size_t from) const;

 private:
  struct Node {
    std::vector<std::pair<uint8_t, int32_t>> children;  // byte, node
    int32_t id = -1;                                    // the token that ends here
  };
  int32_t Child(int32_t node, uint8_t byte) const;  // -1: none

  std::vector<Node> nodes_ = std::vector<Node>(1);
  std::array<bool, 256>
      starts_{};  // bytes that begin some token: most text is skipped by this table
};

}  // namespace shoal
