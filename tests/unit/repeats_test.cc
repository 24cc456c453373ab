// SPDX-License-Identifier: Apache-2.0
// Shows that what is logged again and again is said once a minute, with a count, and that other
// lines are said at once.
#include "deploy/shoal/repeats.h"

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

absl::Time At(double seconds) { return absl::UnixEpoch() + absl::Seconds(seconds); }

TEST(Repeats, SaysTheSameOnceAMinute) {
  Repeats repeats;
  EXPECT_EQ(repeats.Say("other weights", At(0)), "");
  for (int i = 1; i <= 11; ++i) {
    EXPECT_EQ(repeats.Say("other weights", At(5 * i)), std::nullopt);
  }
  EXPECT_EQ(repeats.Say("other weights", At(60)), " (and 11 times more since the last such line)");
  EXPECT_EQ(repeats.Say("other weights", At(65)), std::nullopt);
}

TEST(Repeats, SaysWhatIsNewAtOnce) {
  Repeats repeats;
  EXPECT_EQ(repeats.Say("other weights", At(0)), "");
  EXPECT_EQ(repeats.Say("another build", At(1)), "");
  EXPECT_EQ(repeats.Say("other weights", At(2)), std::nullopt);
  // An hour later it is news again.
  EXPECT_EQ(repeats.Say("other weights", At(3600)), "");
}

TEST(Repeats, IsBounded) {
  Repeats repeats;
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(repeats.Say(absl::StrCat(i), At(0)), "");
  EXPECT_EQ(repeats.Say("1", At(1)), std::nullopt);
  EXPECT_EQ(repeats.Say("999", At(1)), "");
}

}  // namespace
}  // namespace shoal
