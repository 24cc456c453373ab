// SPDX-License-Identifier: Apache-2.0
#include "comm/inprocess/hub.h"

#include "absl/strings/str_cat.h"

namespace shoal {

std::shared_ptr<Hub> Hub::Of(const std::string& cluster) {
  // The process itself is what these ranks share, so this map is its one global. Never destroyed: a
  // thread may outlive main's statics.
  static absl::Mutex mutex(absl::kConstInit);
  static auto& hubs = *new std::map<std::string, std::weak_ptr<Hub>>;
  absl::MutexLock lock(&mutex);
  std::erase_if(hubs, [](const auto& entry) { return entry.second.expired(); });
  std::shared_ptr<Hub> hub = hubs[cluster].lock();
  if (hub == nullptr) {
    hub = std::make_shared<Hub>();
    hubs[cluster] = hub;
  }
  return hub;
}

std::string Hub::Enter() {
  absl::MutexLock lock(&mutex_);
  std::string name = absl::StrCat("inprocess:", entered_++);
  present_.insert(name);
  return name;
}

void Hub::Leave(const std::string& endpoint) {
  absl::MutexLock lock(&mutex_);
  present_.erase(endpoint);
  std::erase_if(offers_, [&](const auto& offer) { return offer.first.first == endpoint; });
  changed_.NotifyAll();
}

void Hub::Put(const std::string& from, const std::string& to, Offer offer) {
  absl::MutexLock lock(&mutex_);
  offers_.insert_or_assign({from, to}, std::move(offer));
  changed_.NotifyAll();
}

void Hub::Wake() {
  absl::MutexLock lock(&mutex_);
  changed_.NotifyAll();
}

absl::StatusOr<Hub::Offer> Hub::Take(const std::string& from, const std::string& to, Epoch epoch,
                                     absl::Time deadline, const ConnectGate& gate) {
  absl::MutexLock lock(&mutex_);
  const std::pair<std::string, std::string> key(from, to);
  const auto decided = [&] {
    mutex_.AssertReaderHeld();
    if (!gate.Check(epoch).ok()) return true;
    const auto offer = offers_.find(key);
    return offer != offers_.end() ? offer->second.hello.epoch >= epoch : present_.count(from) == 0;
  };
  if (!changed_.WaitUntil(mutex_, deadline, decided)) {
    return absl::DeadlineExceededError("it has not connected");
  }
  if (absl::Status status = gate.Check(epoch); !status.ok()) return status;
  const auto offer = offers_.find(key);
  if (offer == offers_.end()) return absl::UnavailableError("it is not there");
  if (offer->second.hello.epoch != epoch) {
    return absl::AbortedError(
        absl::StrCat("it connects epoch ", offer->second.hello.epoch.value()));
  }
  Offer taken = std::move(offer->second);
  offers_.erase(offer);
  return taken;
}

}  // namespace shoal
