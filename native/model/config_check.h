// What config.json and GGUF metadata have in common: the checks and names of a configuration.
#pragma once
#include <string>

#include "model/config.h"

namespace rlhi {

const char* model_type(Architecture architecture);   // "llama", ...
const char* model_class(Architecture architecture);  // "LlamaForCausalLM", ...

// Throws invalid_file or unsupported, naming `where`, for sizes that contradict each other or are out of range.
void check_sizes(const ModelConfig& config, const std::string& where);
int32_t checked_window(int64_t window, const std::string& where);

}  // namespace rlhi
