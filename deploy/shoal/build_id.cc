// SPDX-License-Identifier: Apache-2.0
#include "deploy/shoal/build_id.h"

#include <elf.h>
#include <link.h>

#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace shoal {
namespace {

constexpr size_t kShownBytes = 6;

// Called for every loaded object, the program itself first.
int FindBuildId(dl_phdr_info* info, size_t, void* result) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& header = info->dlpi_phdr[i];
    if (header.p_type != PT_NOTE) continue;
    const char* note = reinterpret_cast<const char*>(info->dlpi_addr + header.p_vaddr);
    const char* end = note + header.p_memsz;
    while (note + sizeof(ElfW(Nhdr)) <= end) {
      const auto* head = reinterpret_cast<const ElfW(Nhdr)*>(note);
      const char* name = note + sizeof(*head);
      const char* value = name + ((head->n_namesz + 3) & ~3u);
      if (head->n_type == NT_GNU_BUILD_ID && head->n_namesz == 4 &&
          std::memcmp(name, "GNU", 4) == 0 && head->n_descsz >= kShownBytes) {
        *static_cast<std::string*>(result) =
            absl::BytesToHexString(absl::string_view(value, kShownBytes));
        return 1;
      }
      note = value + ((head->n_descsz + 3) & ~3u);
    }
  }
  return 1;  // the program has none; other objects' do not interest
}

}  // namespace

std::string BuildId() {
  std::string id;
  dl_iterate_phdr(FindBuildId, &id);
  return id.empty() ? std::string(SHOAL_VERSION) : absl::StrCat(SHOAL_VERSION, "-", id);
}

}  // namespace shoal
