// What the operating system lets this process have.
#pragma once
#include <cstdint>

namespace rlhi {

// Bytes that can still be allocated without swapping: the machine's MemAvailable, or less where a control group (a
// container) limits this process. 0 where the system does not say.
int64_t available_memory_bytes();

// The machine's memory, or the tightest control-group limit where that is lower. 0 where the system does not say.
int64_t total_memory_bytes();

// Largest resident size this process ever had, in bytes.
int64_t peak_resident_bytes();

}  // namespace rlhi
