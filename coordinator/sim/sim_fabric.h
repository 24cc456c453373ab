// SPDX-License-Identifier: Apache-2.0
// The transport that simulated workers use: a Fabric and its Exchange over a Network, with the real
// message headers and checks.
#pragma once

#include <cstddef>
#include <memory>

#include "comm/fabric.h"

namespace shoal::sim {

class Network;
class Process;
struct Node;

// All of them must outlive it.
std::unique_ptr<Fabric> MakeSimFabric(Network& network, Process& process, Node& node,
                                      size_t max_message_bytes);

}  // namespace shoal::sim
