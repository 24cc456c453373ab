// SPDX-License-Identifier: Apache-2.0
// Shows that a safetensors file is believed only when it is whole: written files read back to the
// byte, wherever they are written to; each kind of damage gives one error that names the file and
// the tensor; random damage to a real shard never does worse.
#include "engine/weights/safetensors.h"

#include <sys/resource.h>
#include <sys/stat.h>

#include <csignal>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/checkpoint_copy.h"

namespace shoal {
namespace {

using ::testing::HasSubstr;

// A file of this header and so many data bytes.
std::string FileOf(const std::string& header, size_t data_bytes) {
  std::string text(8, '\0');
  const uint64_t length = header.size();
  std::memcpy(text.data(), &length, sizeof(length));
  return text + header + std::string(data_bytes, 'x');
}

absl::Status OpenText(const std::string& text) {
  const std::string path = ::testing::TempDir() + "/shoal-safetensors-test.safetensors";
  std::ofstream(path, std::ios::binary | std::ios::trunc) << text;
  return SafetensorsFile::Open(path).status();
}

struct Damage {
  std::string file;
  std::string message;
};

class Damaged : public ::testing::TestWithParam<Damage> {};

TEST_P(Damaged, IsNamed) {
  const absl::Status status = OpenText(GetParam().file);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
  EXPECT_THAT(std::string(status.message()), HasSubstr("shoal-safetensors-test"));
}

const char kOne[] = R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}})";

INSTANTIATE_TEST_SUITE_P(
    Safetensors, Damaged,
    ::testing::Values(
        Damage{"", "want at least 8 bytes, found 0"}, Damage{"1234567", "want at least 8 bytes"},
        Damage{std::string(8, '\xff'), "its header says it has 18446744073709551615 bytes"},
        Damage{FileOf(kOne, 8).substr(0, 30), "truncated"},
        Damage{FileOf(kOne, 7), "a: truncated: its data end"},
        Damage{FileOf(kOne, 9), "want 8 bytes of data, found 9"},
        Damage{FileOf("not json", 0), "not valid JSON"},
        Damage{FileOf("[]", 0), "not a JSON object"},
        Damage{FileOf(R"({"a": 5})", 0), "a: want dtype"},
        Damage{FileOf(R"({"a": {"dtype": "F32", "shape": [2]}})", 8), "a: want dtype"},
        Damage{FileOf(R"({"a": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}})", 8),
               "a: shape"},
        Damage{FileOf(R"({"a": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 8]}})", 8),
               "a: shape"},
        Damage{
            FileOf(
                R"({"a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4], "data_offsets": [0, 8]}})",
                8),
            "overflows"},
        Damage{
            FileOf(
                R"({"a": {"dtype": "F32", "shape": [9223372036854775807], "data_offsets": [0, 8]}})",
                8),
            "want 9223372036854775807 elements"},
        Damage{FileOf(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}})", 8),
               "ascending"},
        Damage{FileOf(R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}})", 8),
               "data_offsets"},
        Damage{FileOf(R"({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}})", 8),
               "a: want 3 elements of F32, found 8 bytes"},
        Damage{FileOf(R"({"a": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]},
                          "b": {"dtype": "U8", "shape": [8], "data_offsets": [4, 12]}})",
                      12),
               "b: overlaps another tensor"},
        Damage{FileOf(R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                          "b": {"dtype": "U8", "shape": [4], "data_offsets": [8, 12]}})",
                      12),
               "b: follows a gap"},
        Damage{FileOf(R"({"a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                          "a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}})",
                      4),
               "a occurs twice"},
        Damage{FileOf(std::string(1000000, '['), 0), "nested too deep"}));

TEST(Safetensors, WrittenFilesReadBack) {
  CheckpointCopy copy("odd");
  copy.WriteSingle();
  const auto file = SafetensorsFile::Open(copy.Path("model.safetensors"));
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_EQ((*file)->tensors().size(), copy.tensors.size());
  for (const auto& [name, tensor] : copy.tensors) {
    const TensorEntry& entry = (*file)->tensors().at(name);
    EXPECT_EQ(entry.shape, tensor.shape);
    EXPECT_EQ(entry.dtype, tensor.dtype);
    const auto data = (*file)->Data(entry);
    EXPECT_TRUE(std::equal(data.begin(), data.end(), tensor.data.begin(), tensor.data.end()))
        << name;
  }
}

TEST(Safetensors, AbandonedWriterLeavesNothing) {
  CheckpointCopy copy("odd");
  {
    ASSERT_TRUE(
        SafetensorsWriter::Create(copy.Path("x.safetensors"), {{"a", DType::kF32, {2}}}).ok());
  }
  for (const auto& file : std::filesystem::directory_iterator(copy.folder())) {
    EXPECT_EQ(file.path().filename(), "config.json");
  }
  EXPECT_EQ(SafetensorsWriter::Create("/no/such/folder/x", {}).status().code(),
            absl::StatusCode::kNotFound);
}

const std::vector<std::byte> kTwoFloats(8, std::byte{0x3f});

// Writes one tensor of eight bytes to `path`.
absl::Status WriteTo(const std::string& path) {
  auto writer = SafetensorsWriter::Create(path, {{"a", DType::kF32, {2}}});
  if (!writer.ok()) return writer.status();
  if (absl::Status status = (*writer)->Write(0, 0, kTwoFloats); !status.ok()) return status;
  return (*writer)->Finish();
}

TEST(Safetensors, LinksAreFollowedAndStay) {
  CheckpointCopy copy("odd");
  std::filesystem::create_directory(copy.Path("elsewhere"));
  copy.WriteText("elsewhere/old.safetensors", "old");
  std::filesystem::permissions(copy.Path("elsewhere/old.safetensors"),
                               std::filesystem::perms::owner_read |
                                   std::filesystem::perms::owner_write);
  std::filesystem::create_symlink("elsewhere/old.safetensors", copy.Path("link"));
  std::filesystem::create_symlink("elsewhere/new.safetensors", copy.Path("dangling"));
  for (const char* name : {"link", "dangling"}) {
    ASSERT_TRUE(WriteTo(copy.Path(name)).ok());
    EXPECT_TRUE(std::filesystem::is_symlink(copy.Path(name)));
  }
  for (const char* name : {"elsewhere/old.safetensors", "elsewhere/new.safetensors"}) {
    EXPECT_TRUE(SafetensorsFile::Open(copy.Path(name)).ok()) << name;
  }
  EXPECT_EQ(std::filesystem::status(copy.Path("link")).permissions(),
            std::filesystem::perms::owner_read | std::filesystem::perms::owner_write);
}

TEST(Safetensors, DevicesAndPipesAreWrittenInPlace) {
  EXPECT_TRUE(WriteTo("/dev/null").ok());
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/null"));
  const absl::Status full = WriteTo("/dev/full");
  EXPECT_EQ(full.message(), "cannot write /dev/full: No space left on device");
  EXPECT_TRUE(std::filesystem::is_character_file("/dev/full"));

  CheckpointCopy copy("odd");
  ASSERT_EQ(mkfifo(copy.Path("pipe").c_str(), 0600), 0);
  std::string received;
  std::thread reader([&] { received = copy.ReadText("pipe"); });
  EXPECT_TRUE(WriteTo(copy.Path("pipe")).ok());
  reader.join();
  EXPECT_TRUE(std::filesystem::is_fifo(copy.Path("pipe")));
  ASSERT_TRUE(WriteTo(copy.Path("file")).ok());
  EXPECT_EQ(received, copy.ReadText("file"));
}

TEST(Safetensors, AFailureLeavesTheOldFile) {
  CheckpointCopy copy("odd");
  copy.WriteText("x.safetensors", "old");
  rlimit limit;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &limit), 0);
  const rlimit small = {64, limit.rlim_max};  // the header does not fit
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = WriteTo(copy.Path("x.safetensors"));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(status.message(),
            absl::StrCat("cannot write ", copy.Path("x.safetensors"), ": File too large"));
  EXPECT_EQ(copy.ReadText("x.safetensors"), "old");
  EXPECT_EQ(SafetensorsWriter::Create(copy.folder(), {}).status().message(),
            absl::StrCat("cannot write ", copy.folder(), ": a directory"));
}

TEST(Safetensors, NotAFile) {
  EXPECT_EQ(SafetensorsFile::Open("/no/such/file").status().code(), absl::StatusCode::kNotFound);
  EXPECT_EQ(SafetensorsFile::Open("/tmp").status().code(), absl::StatusCode::kInvalidArgument);
}

// Whatever opens after damage has tensors that lie within the file; reading them all must not
// fault.
TEST(Safetensors, RandomDamageToTheHeaderIsHarmless) {
  CheckpointCopy copy("odd");
  copy.WriteSingle();
  const std::string whole = copy.ReadText("model.safetensors");
  uint64_t header = 0;
  std::memcpy(&header, whole.data(), sizeof(header));
  int opened = 0;
  for (uint64_t seed = 1; seed <= 150; ++seed) {
    std::mt19937_64 random(seed);
    std::string text = whole;
    const int hits = 1 + static_cast<int>(random() % 4);
    for (int i = 0; i < hits; ++i) text[random() % (8 + header)] = static_cast<char>(random());
    if (random() % 4 == 0) text.resize(random() % text.size());
    copy.WriteText("damaged.safetensors", text);
    const auto file = SafetensorsFile::Open(copy.Path("damaged.safetensors"));
    if (!file.ok()) continue;
    ++opened;
    int sum = 0;
    for (const auto& [name, entry] : (*file)->tensors()) {
      for (std::byte byte : (*file)->Data(entry)) sum += static_cast<int>(byte);
    }
    EXPECT_GT(sum, 0) << seed;
  }
  EXPECT_LT(opened, 100);
  std::printf("seeds 1..150: %d damaged files still describe themselves consistently\n", opened);
}

}  // namespace
}  // namespace shoal
