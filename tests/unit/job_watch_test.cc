// SPDX-License-Identifier: Apache-2.0
// Shows when an MPI job that lost ranks is started again: not before one that stood still could
// have come back, soon when requests wait, and not because the new job takes its time to load.
#include "deploy/shoal/job_watch.h"

#include <initializer_list>
#include <string>

#include "gtest/gtest.h"

namespace shoal {
namespace {

constexpr bool kServing = true;
constexpr bool kPaused = false;

ClusterSnapshot Snapshot(bool serving, int64_t waiting, std::initializer_list<std::string> states) {
  ClusterSnapshot snapshot;
  snapshot.serving = serving;
  snapshot.requests_waiting = waiting;
  for (const std::string& state : states) snapshot.workers.emplace_back().state = state;
  return snapshot;
}

// Seconds until `watch` gives the job up, asked once a second for ten minutes; -1: not.
int SecondsUntilBroken(JobWatch& watch, const ClusterSnapshot& snapshot) {
  static absl::Time now = absl::UnixEpoch();
  for (int second = 0; second < 600; ++second) {
    now += absl::Seconds(1);
    if (watch.IsBroken(snapshot, now)) return second;
  }
  return -1;
}

TEST(JobWatch, WaitsLessWhileRequestsWait) {
  JobWatch watch;
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 3, {"joining", "gone"})), 6);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 0, {"joining", "gone"})), 10);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kServing, 0, {"serving", "gone"})), 10);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 3, {"joining", "joining"})), 10);
}

TEST(JobWatch, LetsGoOnWhatDoes) {
  JobWatch watch;
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kServing, 3, {"serving", "gone"})), -1);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kServing, 0, {"serving", "serving"})), -1);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 3, {"joining", "loading"})), -1);
}

TEST(JobWatch, BeginsAnewWhenARankComesBack) {
  JobWatch watch;
  const absl::Time start = absl::UnixEpoch();
  const ClusterSnapshot missed = Snapshot(kPaused, 3, {"joining", "gone"});
  EXPECT_FALSE(watch.IsBroken(missed, start));
  EXPECT_FALSE(watch.IsBroken(missed, start + absl::Seconds(5)));
  EXPECT_FALSE(
      watch.IsBroken(Snapshot(kServing, 3, {"serving", "serving"}), start + absl::Seconds(6)));
  EXPECT_FALSE(watch.IsBroken(missed, start + absl::Seconds(7)));
  EXPECT_FALSE(watch.IsBroken(missed, start + absl::Seconds(12)));
  EXPECT_TRUE(watch.IsBroken(missed, start + absl::Seconds(13)));
}

TEST(JobWatch, GivesANewJobTimeToStartAndToLoad) {
  JobWatch watch;
  watch.Restarted();
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 3, {"loading", "gone"})), 300);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 3, {"loading", "loading"})), -1);
  EXPECT_EQ(SecondsUntilBroken(watch, Snapshot(kPaused, 3, {"loading", "gone"})), 6);
}

}  // namespace
}  // namespace shoal
