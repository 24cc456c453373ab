// SPDX-License-Identifier: Apache-2.0
// Certificates made by openssl for 127.0.0.1, in a temporary folder: one from each of two
// authorities, "ours" and "theirs".
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace shoal {

class TlsCertificates {
 public:
  TlsCertificates() : folder_(absl::StrCat(::testing::TempDir(), "shoal-tls-XXXXXX")) {
    EXPECT_NE(mkdtemp(folder_.data()), nullptr);
    std::ofstream(folder_ + "/san") << "subjectAltName=IP:127.0.0.1\n";
    for (const std::string ca : {"ours", "theirs"}) {
      Run(absl::StrCat("openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=", ca,
                       " -keyout ", ca, ".ca.key -out ", ca, ".ca"));
      Run(absl::StrCat("openssl req -newkey rsa:2048 -nodes -subj /CN=worker -keyout ", ca,
                       ".key -out ", ca, ".csr"));
      Run(absl::StrCat("openssl x509 -req -days 1 -in ", ca, ".csr -CA ", ca, ".ca -CAkey ", ca,
                       ".ca.key -CAcreateserial -extfile san -out ", ca, ".pem"));
    }
  }
  ~TlsCertificates() { std::filesystem::remove_all(folder_); }
  TlsCertificates(const TlsCertificates&) = delete;
  TlsCertificates& operator=(const TlsCertificates&) = delete;

  const std::string& folder() const { return folder_; }
  // `owner`'s certificate and key, trusting those whom `ca` signed. Tls: a struct of three paths.
  template <typename Tls>
  Tls Files(const std::string& owner, const std::string& ca) const {
    return {.certificate = absl::StrCat(folder_, "/", owner, ".pem"),
            .key = absl::StrCat(folder_, "/", owner, ".key"),
            .ca = absl::StrCat(folder_, "/", ca, ".ca")};
  }

 private:
  void Run(const std::string& command) {
    EXPECT_EQ(std::system(absl::StrCat("cd ", folder_, " && ", command, " 2>/dev/null").c_str()), 0)
        << command;
  }

  std::string folder_;
};

}  // namespace shoal
