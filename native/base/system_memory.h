// How much memory this process may still take.
#pragma once
#include <cstddef>

namespace rlhi {

// Bytes that can be allocated without swapping: what the kernel calls available, or less where a control group (a
// container) sets a lower limit. 0 where the system does not say.
size_t available_memory_bytes();

}  // namespace rlhi
