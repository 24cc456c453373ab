// SPDX-License-Identifier: Apache-2.0
// How a worker joins a unit: it opens its end of a transport, tells the coordinator the endpoint,
// and, once the roster is known, connects. What comes out is the engine's Exchange.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "engine/base/ids.h"
#include "engine/parallel/exchange.h"

namespace shoal {

struct TlsFiles {
  std::string certificate;  // PEM files; all empty: no TLS
  std::string key;
  std::string ca;  // peers must present a certificate signed by it (mutual TLS)
  bool enabled() const { return !certificate.empty(); }
};

struct FabricOptions {
  std::string transport;               // "inprocess", "shm", "grpc", "mpi"
  std::string cluster;                 // names the unit: peers of another name are refused
  std::string listen = "127.0.0.1:0";  // grpc: where to listen; port 0 picks a free one
  std::string advertise;  // grpc: the host by which peers reach us; empty: that of `listen`, or
                          // this host's name when that is a wildcard
  TlsFiles tls;           // grpc
  // grpc: a peer that answers no ping for so long is dead; a death itself shows at once. Not for
  // those who hang, which the coordinator's heartbeats find: for a network that swallows what two
  // ranks say to each other alone. Where nobody brings a rank back that only lost its core, longer.
  absl::Duration silence_timeout = absl::Seconds(4);
  size_t max_message_bytes =
      0;  // Model::MaxMessageBytes; the same on all ranks, checked when connecting
};

class Fabric {
 public:
  virtual ~Fabric() = default;

  // Errors: Unimplemented for a transport this build lacks; InvalidArgument; Unavailable with the
  // address when listening fails.
  static absl::StatusOr<std::unique_ptr<Fabric>> Create(const FabricOptions& options);

  virtual absl::string_view transport() const = 0;
  // Opaque to everybody but this transport; sent to the coordinator in the worker's hello.
  virtual std::string endpoint() const = 0;
  // The rank this transport insists on (MPI), else -1.
  virtual int fixed_rank() const { return -1; }
  // What stands in a roster for `rank` of the same job where no coordinator tells the ranks of each
  // other's endpoints. Empty if only that rank knows.
  virtual std::string EndpointOf(RankId) const { return ""; }

  // Connects to endpoints[r] of every rank r (size: world) for `epoch`, waiting for peers until
  // `deadline`, and installs the epoch. An empty endpoint: that rank is absent in this epoch (see
  // Exchange::Present). All present ranks call it with the same arguments but `rank`. The first
  // call makes the Exchange; later ones (same rank and world, a later epoch, also after an error)
  // connect the same object anew, to peers that may have been replaced, have gone or have come
  // back; what was in flight is forgotten. The Fabric owns it. Not concurrently with the engine's
  // calls on it. Errors name peer and endpoint: Unavailable for a peer that is not there,
  // DeadlineExceeded for one that did not connect in time, FailedPrecondition for one built or
  // configured otherwise, Aborted for one in another epoch, or after Abandon. They blame the peers
  // (BlamedPeers), whatever the code, which may be one that a peer sent. InvalidArgument that
  // blames nobody: this call itself cannot be.
  //
  // A peer that is left out of an epoch, and does not know it, can do no harm to it whatever it
  // still does and whenever it wakes up: see the README.
  virtual absl::StatusOr<Exchange*> Connect(Epoch epoch, RankId rank,
                                            absl::Span<const std::string> endpoints,
                                            absl::Time deadline) = 0;
  // Epoch `next` has been announced: a Connect of an earlier one, in progress or to come, returns
  // Aborted at once. Any thread.
  virtual void Abandon(Epoch next) = 0;
};

}  // namespace shoal
