// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/fingerprint.h"

#include <openssl/evp.h>

#include <algorithm>
#include <cstdint>
#include <memory>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/base/status_macros.h"
#include "engine/config/read_model_config.h"

namespace shoal {
namespace {

constexpr int64_t kWholeBytes = int64_t{64} << 20;
constexpr int64_t kSamples = 1024;
constexpr int64_t kSampleBytes = 4096;
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
  const bool whole = total <= kWholeBytes;
  const int64_t stride = total / kSamples;
  int64_t position = 0;  // of the tensor at hand
  int64_t next = 0;      // of the next sample
  for (const auto& [name, location] : checkpoint.tensors()) {
    const absl::Span<const std::byte> data = location.shard->Data(*location.entry);
    const int64_t size = static_cast<int64_t>(data.size());
    if (whole) {
      hash.Add(data.data(), data.size());
      continue;
    }
    for (; next < position + size; next += stride) {
      const int64_t offset = next - position;
      hash.Add(data.data() + offset, std::min(kSampleBytes, size - offset));
    }
    position += size;
  }
  return absl::StrCat(config_hash.Hex(), "-", hash.Hex());
}

}  // namespace shoal
