// SPDX-License-Identifier: Apache-2.0
// Shows that the core's parts keep their own promises: blocks are never given to two owners, the
// prefix cache never takes one content for another even if all hashes collide, users are served in
// equal amounts, and rates are per second. Random operations run against a model that is obviously
// right.
#include <map>
#include <random>
#include <set>
#include <vector>

#include "coordinator/core/block_manager.h"
#include "coordinator/core/fair_share.h"
#include "coordinator/core/prefix_cache.h"
#include "coordinator/core/rate_meter.h"
#include "coordinator/core/waiting_queue.h"
#include "gtest/gtest.h"

namespace shoal {
namespace {

using Tokens = std::vector<int32_t>;

TEST(PrefixCache, CollisionsCostMissesAndNothingElse) {
  PrefixCache cache(2);
  const uint64_t hash = 5;  // of everything
  const auto first = cache.Insert(PrefixCache::kRoot, hash, Tokens{1, 2}, BlockId(0), StepId(1));
  EXPECT_EQ(cache.Find(PrefixCache::kRoot, hash, Tokens{1, 2})->block, BlockId(0));
  EXPECT_FALSE(cache.Find(PrefixCache::kRoot, hash, Tokens{1, 3}).has_value());
  EXPECT_EQ(cache.Insert(PrefixCache::kRoot, hash, Tokens{1, 3}, BlockId(1), StepId(1)),
            PrefixCache::kNone);
  // The same content again keeps the first block.
  EXPECT_EQ(cache.Insert(PrefixCache::kRoot, hash, Tokens{1, 2}, BlockId(1), StepId(1)), first);
  EXPECT_FALSE(cache.Holds(BlockId(1)));
  // Equal tokens behind another parent are another content.
  EXPECT_FALSE(cache.Find(first, hash, Tokens{1, 2}).has_value());
}

TEST(PrefixCache, ASuccessorOfALostParentIsNotItsSuccessorsSuccessor) {
  PrefixCache cache(1);
  const auto parent = cache.Insert(PrefixCache::kRoot, 1, Tokens{1}, BlockId(0), StepId(1));
  cache.Insert(parent, 2, Tokens{2}, BlockId(1), StepId(1));
  cache.Erase(BlockId(0));
  const auto heir = cache.Insert(PrefixCache::kRoot, 1, Tokens{1}, BlockId(0), StepId(2));
  EXPECT_NE(heir, parent);
  EXPECT_FALSE(cache.Find(heir, 2, Tokens{2}).has_value());
}

TEST(BlockManager, CountsHowLongBlocksKeepTheirContents) {
  BlockLifetimes lifetimes;
  BlockManager blocks(2, 1);
  blocks.CountLifetimes(&lifetimes);
  const absl::Time start = absl::FromUnixSeconds(1000);
  const auto at = [&](double seconds) { lifetimes.now = start + absl::Seconds(seconds); };
  at(0);
  const BlockId kept = *blocks.Allocate();
  blocks.cache().Insert(PrefixCache::kRoot, 1, Tokens{1}, kept, StepId(1));
  const BlockId freed = *blocks.Allocate();
  at(0.015);
  blocks.Release(freed);  // holds nothing that anybody could find: over
  EXPECT_EQ(lifetimes.counts[4], 1);
  at(1);
  blocks.Release(kept);  // idle, its contents live on
  at(40);
  EXPECT_EQ(*blocks.Allocate(), freed);
  EXPECT_DOUBLE_EQ(lifetimes.sum_s, 0.015);
  EXPECT_EQ(*blocks.Allocate(), kept);  // given away
  EXPECT_EQ(lifetimes.counts[15], 1);
  EXPECT_DOUBLE_EQ(lifetimes.sum_s, 40.015);
  at(40 + 7200);
  blocks.Release(kept);
  EXPECT_EQ(lifetimes.counts.back(), 1);
}

TEST(BlockManager, IdleBlocksGoLeastRecentlyUsedFirst) {
  BlockManager blocks(3, 1);
  for (int32_t i = 0; i < 3; ++i) {
    const BlockId block = *blocks.Allocate();
    blocks.cache().Insert(PrefixCache::kRoot, static_cast<uint64_t>(i), Tokens{i}, block,
                          StepId(1));
  }
  EXPECT_FALSE(blocks.Allocate().has_value());
  for (int32_t i : {1, 0, 2}) blocks.Release(BlockId(i));
  EXPECT_EQ(blocks.available(), 3);
  blocks.AddReference(BlockId(1));  // used again
  blocks.Release(BlockId(1));
  EXPECT_EQ(*blocks.Allocate(), BlockId(0));
  EXPECT_EQ(*blocks.Allocate(), BlockId(2));
  EXPECT_EQ(blocks.cache().size(), 1);
  EXPECT_EQ(*blocks.Allocate(), BlockId(1));
  EXPECT_EQ(blocks.cache().size(), 0);
}

TEST(BlockManager, ContentsOfUncommittedStepsAreForgotten) {
  BlockManager blocks(4, 1);
  for (int32_t i = 0; i < 3; ++i) {
    const BlockId block = *blocks.Allocate();
    blocks.cache().Insert(PrefixCache::kRoot, static_cast<uint64_t>(i), Tokens{i}, block,
                          StepId(i + 1));
  }
  for (int32_t i = 0; i < 3; ++i) blocks.Release(BlockId(i));
  blocks.DropContentsAfter(StepId(2));
  EXPECT_TRUE(blocks.cache().Holds(BlockId(0)));
  EXPECT_TRUE(blocks.cache().Holds(BlockId(1)));
  EXPECT_FALSE(blocks.cache().Holds(BlockId(2)));
  std::set<BlockId> given;
  for (int i = 0; i < 4; ++i) given.insert(*blocks.Allocate());
  EXPECT_EQ(given.size(), 4u);
}

TEST(BlockManager, RandomOperationsAgreeWithAModel) {
  constexpr uint64_t kSeed = 20;
  std::mt19937_64 random(kSeed);
  BlockManager blocks(24, 1);
  std::map<BlockId, int> references;    // the model: of blocks that somebody refers to
  std::map<int32_t, BlockId> contents;  // tokens -> block believed to be indexed
  int32_t next_content = 0;
  for (int i = 0; i < 200'000; ++i) {
    const auto any = [&] {
      auto it = references.begin();
      std::advance(it, random() % references.size());
      return it;
    };
    const uint64_t dice = random() % 10;
    if (dice < 4) {
      const auto block = blocks.Allocate();
      ASSERT_EQ(block.has_value(), references.size() < 24u) << "seed " << kSeed;
      if (!block.has_value()) continue;
      ASSERT_TRUE(references.emplace(*block, 1).second) << "owned twice";
    } else if (references.empty()) {
      continue;
    } else if (dice < 5) {
      auto it = any();
      blocks.AddReference(it->first);
      ++it->second;
    } else if (dice < 6) {
      auto it = any();
      if (blocks.cache().Holds(it->first)) continue;
      blocks.cache().Insert(PrefixCache::kRoot, HashTokens(Tokens{next_content}),
                            Tokens{next_content}, it->first, StepId(1));
      contents[next_content++] = it->first;
    } else if (dice < 7 && !contents.empty()) {
      auto it = contents.begin();
      std::advance(it, random() % contents.size());
      const auto node =
          blocks.cache().Find(PrefixCache::kRoot, HashTokens(Tokens{it->first}), Tokens{it->first});
      if (!node.has_value()) {
        contents.erase(it);  // given away meanwhile
        continue;
      }
      ASSERT_EQ(node->block, it->second);
      blocks.AddReference(node->block);
      ++references[node->block];
    } else {
      auto it = any();
      blocks.Release(it->first);
      if (--it->second == 0) references.erase(it);
    }
    ASSERT_EQ(blocks.used(), static_cast<int64_t>(references.size()));
    ASSERT_EQ(blocks.available(), 24 - blocks.used());
  }
}

// Requests of one user each, all the same size but for the user.
class Line {
 public:
  explicit Line(FairShare& users) : users_(users) {}
  void Push(const std::string& user, int32_t priority = 0, bool resumed = false) {
    LiveRequest& request = *requests_.emplace_back(std::make_unique<LiveRequest>());
    request.request.user = user;
    request.user = &users_.Join(user);
    Sequence& sequence = request.choices.emplace_back();
    sequence.request = &request;
    sequence.seniority = Seniority{priority, ++arrivals_, 0};
    sequence.resumed = resumed;
    queue_.Push(sequence);
  }
  // Serves the next one so many tokens; its user and arrival, "-" when none waits.
  std::string Serve(const std::map<std::string, int64_t>& tokens = {}) {
    Sequence* next = queue_.Front();
    if (next == nullptr) return "-";
    queue_.Remove(*next);
    const std::string user = next->request->request.user;
    if (tokens.contains(user)) next->request->user->served += tokens.at(user);
    users_.Leave(user);
    return user + std::to_string(next->seniority.arrival);
  }

 private:
  FairShare& users_;
  WaitingQueue queue_;
  std::vector<std::unique_ptr<LiveRequest>> requests_;
  int64_t arrivals_ = 0;
};

TEST(WaitingQueue, PriorityThenResumedThenUserThenArrival) {
  FairShare users;
  Line line(users);
  line.Push("a", 1);
  line.Push("a", 0);
  line.Push("b", 0);
  line.Push("b", 0, true);
  line.Push("b", 1, true);
  for (const char* expected : {"b4", "a2", "b3", "b5", "a1", "-"})
    EXPECT_EQ(line.Serve(), expected);
}

TEST(FairShare, EqualTokensNotEqualRequests) {
  FairShare users;
  Line line(users);
  for (int i = 0; i < 100; ++i) {
    line.Push("long");
    line.Push("short");
  }
  std::map<std::string, int> served;
  for (int i = 0; i < 70; ++i) {
    std::string who = line.Serve({{"long", 60}, {"short", 10}});
    ++served[who.substr(0, who.find_first_of("0123456789"))];
  }
  EXPECT_EQ(served["long"], 10);
  EXPECT_EQ(served["short"], 60);
}

TEST(FairShare, AbsenceEarnsNoCreditAndEarnsNoForgiveness) {
  FairShare users;
  users.Join("present").served = 1000;
  EXPECT_EQ(users.Join("newcomer").served, 1000);
  users.Join("greedy").served += 5000;
  users.Leave("greedy");
  EXPECT_EQ(users.Join("greedy").served, 6000);
}

TEST(FairShare, AbsentUsersAreBounded) {
  FairShare users;
  users.Join("present");
  for (size_t i = 0; i < 3 * FairShare::kMaxAbsent; ++i) {
    const std::string name = "user" + std::to_string(i);
    users.Join(name).served = static_cast<int64_t>(i);
    users.Leave(name);
  }
  // The one with the highest counter is remembered, the lowest are not.
  EXPECT_EQ(users.Join("user3071").served, 3071);
  EXPECT_EQ(users.Join("user1").served, 0);
}

TEST(RateMeter, CountsPerSecond) {
  RateMeter meter;
  absl::Time now = absl::UnixEpoch();
  EXPECT_EQ(meter.PerSecond(now), 0);
  for (int i = 0; i < 40; ++i) meter.Add(5, now += absl::Milliseconds(100));
  EXPECT_NEAR(meter.PerSecond(now), 50, 5);
  EXPECT_EQ(meter.PerSecond(now + absl::Seconds(20)), 0);
}

}  // namespace
}  // namespace shoal
