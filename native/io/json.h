// JSON (RFC 8259), strict: for config.json, safetensors headers and shard indexes.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace rlhi::io {

struct JsonMember;

class Json {
 public:
  enum class Kind { null, boolean, number, string, array, object };
  using Array = std::vector<Json>;
  using Object = std::vector<JsonMember>;  // in the order of the text

  Json() = default;
  static Json boolean(bool value);
  static Json integer(int64_t value);
  static Json real(double value);  // finite
  static Json string(std::string value);
  static Json array(Array items = {});
  static Json object();

  // Throws invalid_file with `where`, the byte offset and what was expected. Refuses: comments, trailing commas, duplicate
  // keys, invalid UTF-8, unpaired surrogates, numbers outside double, nesting deeper than 128, anything after the value.
  static Json parse(std::string_view text, const std::string& where);
  // indent 0: one line. Otherwise one member a line, `indent` spaces a level.
  std::string dump(int indent = 0) const;

  Kind kind() const { return static_cast<Kind>(value_.index()); }
  const char* kind_name() const;
  bool is_null() const { return kind() == Kind::null; }
  bool is_string() const { return kind() == Kind::string; }
  bool is_number() const { return kind() == Kind::number; }
  bool is_integer() const;  // a number without fraction or exponent that fits in int64
  bool is_array() const { return kind() == Kind::array; }
  bool is_object() const { return kind() == Kind::object; }

  // The value; throws invalid_file where it is of another kind.
  bool as_bool() const;
  int64_t as_int() const;
  double as_double() const;
  const std::string& as_string() const;
  const Array& items() const;
  const Object& members() const;

  // Of an object: the member, or nullptr where absent. Throws invalid_file for other kinds.
  const Json* find(std::string_view key) const;
  void set(std::string_view key, Json value);  // replaces in place or appends
  void push_back(Json value);

 private:
  struct Number {
    double real = 0;
    int64_t integer = 0;
    bool exact = false;  // `integer` is the value, written without fraction or exponent
  };
  [[noreturn]] void wrong_kind(const char* expected) const;
  void write(std::string& out, int indent, int depth) const;
  friend class JsonParser;

  std::variant<std::monostate, bool, Number, std::string, Array, Object> value_;
};

struct JsonMember {
  std::string key;
  Json value;
};

}  // namespace rlhi::io
