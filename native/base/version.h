#pragma once
namespace rlhi { inline constexpr const char* kVersion = "0.1.0"; }
