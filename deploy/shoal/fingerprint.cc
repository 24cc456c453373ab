// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "engine/base/status_macros.h"
#include "engine/config/read_model_config.h"

namespace shoal {
namespace {

constexpr int64_t kWholeBytes = int64_t{64} << 20;
constexpr int64_t kWholeTensorBytes = int64_t{8} << 20;  // of a larger checkpoint
constexpr int64_t kSamples = 1024;
constexpr int64_t kSampleBytes = 4096;
constexpr int64_t kBufferBytes = int64_t{1} << 20;
constexpr size_t kShownBytes = 8;

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void Add(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  void Add(const std::string& text) { Add(text.data(), text.size() + 1); }  // with its end
  std::string Hex() {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest, &size);
    return absl::BytesToHexString(absl::string_view(reinterpret_cast<char*>(digest), kShownBytes));
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

}  // namespace

absl::StatusOr<std::string> ModelFingerprint(const Checkpoint& checkpoint) {
  SHOAL_ASSIGN_OR_RETURN(const std::string config,
                         ReadSmallFile(checkpoint.directory() + "/config.json"));
  Sha256 config_hash;
  config_hash.Add(config);
  Sha256 hash;
  int64_t total = 0;
  for (const auto& [name, location] : checkpoint.tensors()) {
    hash.Add(absl::StrCat(name, " ", location.entry->dtype_name, " ",
                          absl::StrJoin(location.entry->shape, ",")));
    total += location.entry->bytes();
  }
  // Tensors in the order of their names, one after another: where they lie in which shard does not
  // matter.
  const int64_t stride = std::max<int64_t>(total / kSamples, 1);
  int64_t position = 0;  // of the tensor at hand
  int64_t next = 0;      // of the next sample
  // Read, not mapped: pages of tensors that are others' must not stay in this process.
  std::vector<std::byte> buffer(kBufferBytes);
  for (const auto& [name, location] : checkpoint.tensors()) {
    const int64_t size = location.entry->bytes();
    const auto add = [&](int64_t offset, int64_t most) -> absl::Status {
      const absl::Span<std::byte> part(buffer.data(), std::min(most, size - offset));
      SHOAL_RETURN_IF_ERROR(location.shard->Read(*location.entry, offset, part));
      hash.Add(part.data(), part.size());
      return absl::OkStatus();
    };
    const bool expert = absl::StrContains(name, ".mlp.experts.");
    const bool whole = total <= kWholeBytes || (!expert && size <= kWholeTensorBytes);
    for (int64_t offset = 0; whole && offset < size; offset += kBufferBytes) {
      SHOAL_RETURN_IF_ERROR(add(offset, kBufferBytes));
    }
    if (!whole && !expert) {
      SHOAL_RETURN_IF_ERROR(add((size - kSampleBytes) / 2, kSampleBytes));
    }
    for (; next < position + size; next += stride) {
      if (!whole) SHOAL_RETURN_IF_ERROR(add(next - position, kSampleBytes));
    }
    position += size;
  }
  return absl::StrCat(config_hash.Hex(), "-", hash.Hex());
}

}  // namespace shoal
