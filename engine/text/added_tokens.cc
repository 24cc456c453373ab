// SPDX-License-Identifier: Apache-2.0
#include "engine/text/added_tokens.h"

namespace shoal {

int32_t AddedTokens::Child(int32_t node, uint8_t byte) const {
  for (const auto& [child_byte, child] : nodes_[node].children) {
    if (child_byte == byte) return child;
  }
  return -1;
}

void AddedTokens::Add(absl::string_view content, int32_t id) {
  starts_[static_cast<uint8_t>(content[0])] = true;
  int32_t node = 0;
  for (const char c : content) {
    const uint8_t byte = static_cast<uint8_t>(c);
    int32_t child = Child(node, byte);
    if (child < 0) {
      child = static_cast<int32_t>(nodes_.size());
      nodes_.emplace_back();
      nodes_[node].children.emplace_back(byte, child);
    }
    node = child;
  }
  nodes_[node].id = id;
}

AddedTokens::Match AddedTokens::Find(absl::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!starts_[static_cast<uint8_t>(text[begin])]) continue;
    Match longest{begin, 0, -1};
    int32_t node = 0;
    for (size_t i = begin; i < text.size(); ++i) {
      node = Child(node, static_cast<uint8_t>(text[i]));
      if (node < 0) break;
      if (nodes_[node].id >= 0) longest = {begin, i + 1 - begin, nodes_[node].id};
    }
    if (longest.id >= 0) return longest;
  }
  return {text.size(), 0, -1};
}

}  // namespace shoal
