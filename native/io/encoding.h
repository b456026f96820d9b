// How a file stores a tensor's numbers, and their decoding to f32. The quantised blocks are ggml's: 32 numbers with a
// binary16 scale d (and minimum m): Q8_0 x = q d; Q4_0 x = (q - 8) d; Q4_1 x = q d + m.
#pragma once
#include <cstdint>

namespace rlhi::io {

enum class Encoding : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1 };

const char* encoding_name(Encoding encoding);      // "F32", "Q8_0", ...
int64_t encoding_block_elements(Encoding encoding);  // 1 or 32
int64_t encoding_block_bytes(Encoding encoding);

// to[i] = number i, for i < n; n is a multiple of the block's elements. `from` needs no alignment.
void decode(Encoding encoding, const uint8_t* from, int64_t n, float* to);

}  // namespace rlhi::io
