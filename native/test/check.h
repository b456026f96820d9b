// A test is a named function registered by TEST(name); EXPECT* throw with place and values. No framework: this program
// must build on any machine that has a compiler.
#pragma once
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/error.h"

namespace rlhi::test {

struct Case {
  std::string name;
  std::function<void()> run;
};
std::vector<Case>& cases();
struct Skip {                 // thrown by a test whose data or hardware is not here; printed, never silent
  std::string why;
};
[[noreturn]] inline void skip(const std::string& why) { throw Skip{why}; }
// RLHI_SHARED or ../shared when it exists there; tests that need it call skip() otherwise.
std::string shared_dir();     // "" where absent

struct Register {
  Register(const char* name, std::function<void()> run) { cases().push_back({name, std::move(run)}); }
};

inline void expect(bool ok, const char* text, const char* file, int line, const std::string& detail = "") {
  if (!ok) throw std::runtime_error(concat(file, ":", line, ": ", text, detail.empty() ? "" : ": ", detail));
}

}  // namespace rlhi::test

#define RLHI_CAT2(a, b) a##b
#define RLHI_CAT(a, b) RLHI_CAT2(a, b)
#define TEST(name)                                                                                   \
  static void RLHI_CAT(test_, __LINE__)();                                                            \
  static const ::rlhi::test::Register RLHI_CAT(reg_, __LINE__)(name, RLHI_CAT(test_, __LINE__));     \
  static void RLHI_CAT(test_, __LINE__)()
#define EXPECT(cond) ::rlhi::test::expect((cond), #cond, __FILE__, __LINE__)
#define EXPECT_EQ(a, b)                                                                              \
  do {                                                                                               \
    const auto va = (a); /* copies: a reference into a temporary would outlive it */                 \
    const auto vb = (b);                                                                             \
    ::rlhi::test::expect(va == vb, #a " == " #b, __FILE__, __LINE__, ::rlhi::concat(va, " against ", vb)); \
  } while (0)
#define EXPECT_NEAR(a, b, tol)                                                                       \
  do {                                                                                               \
    const double va = (a), vb = (b);                                                                 \
    ::rlhi::test::expect(std::abs(va - vb) <= (tol), #a " near " #b, __FILE__, __LINE__,             \
                         ::rlhi::concat(va, " against ", vb, ", tolerance ", (tol)));                \
  } while (0)
// EXPECT_ERROR(expression, ErrorCode::invalid_file, "part of the text")
#define EXPECT_ERROR(expr, error_code, part)                                                         \
  do {                                                                                               \
    bool thrown = false;                                                                             \
    try {                                                                                            \
      (void)(expr);                                                                                  \
    } catch (const ::rlhi::Error& e) {                                                               \
      thrown = true;                                                                                 \
      ::rlhi::test::expect(e.code() == (error_code), #expr " code", __FILE__, __LINE__, e.what());   \
      ::rlhi::test::expect(std::string(e.what()).find(part) != std::string::npos, #expr " text",     \
                           __FILE__, __LINE__, e.what());                                            \
    }                                                                                                \
    ::rlhi::test::expect(thrown, #expr " throws", __FILE__, __LINE__);                               \
  } while (0)
