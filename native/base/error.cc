#include "base/error.h"

namespace rlhi {

const char* error_code_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return "ERR_INVALID_ARGUMENT";
    case ErrorCode::invalid_file: return "ERR_INVALID_FILE";
    case ErrorCode::unsupported: return "ERR_UNSUPPORTED";
    case ErrorCode::out_of_memory: return "ERR_OUT_OF_MEMORY";
    case ErrorCode::io: return "ERR_IO";
    case ErrorCode::aborted: return "ERR_ABORTED";
    case ErrorCode::device_lost: return "ERR_DEVICE_LOST";
    case ErrorCode::internal: return "ERR_INTERNAL";
  }
  return "ERR_INTERNAL";
}

}  // namespace rlhi
