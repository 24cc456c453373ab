// SPDX-License-Identifier: Apache-2.0
// How many threads can run at once here.
#pragma once

namespace shoal {

// Cores that this process may run on, or fewer if a control group grants less time than that. At
// least 1.
int UsableCores();

}  // namespace shoal
