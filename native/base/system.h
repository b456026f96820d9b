// What the operating system lets this process have.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

namespace rlhi {

// Calls `each` with the folder of this process's control group for `controller` ("memory", "cpu"), then of each of its
// ancestors up to the mounted root; with whether it is of version 2, whose files have other names.
void for_each_control_group(const std::string& controller, const std::function<void(const std::string& folder, bool version2)>& each);

// Bytes that can still be allocated without swapping: the machine's MemAvailable, or less where a control group (a
// container) limits this process. 0 where the system does not say.
int64_t available_memory_bytes();

// The machine's memory, or the tightest control-group limit where that is lower. 0 where the system does not say.
int64_t total_memory_bytes();

// Largest resident size this process ever had, in bytes.
int64_t peak_resident_bytes();

}  // namespace rlhi
