#include "io/json.h"

#include <charconv>
#include <cmath>

#include "base/error.h"

namespace rlhi::io {

Json Json::boolean(bool value) {
  Json json;
  json.value_ = value;
  return json;
}
Json Json::integer(int64_t value) {
  Json json;
  json.value_ = Number{static_cast<double>(value), value, true};
  return json;
}
Json Json::real(double value) {
  check(std::isfinite(value), ErrorCode::invalid_argument, "JSON cannot hold the number ", value);
  Json json;
  json.value_ = Number{value, 0, false};
  return json;
}
Json Json::string(std::string value) {
  Json json;
  json.value_ = std::move(value);
  return json;
}
Json Json::array(Array items) {
  Json json;
  json.value_ = std::move(items);
  return json;
}
Json Json::object() {
  Json json;
  json.value_ = Object{};
  return json;
}

const char* Json::kind_name() const {
  switch (kind()) {
    case Kind::null: return "null";
    case Kind::boolean: return "true or false";
    case Kind::number: return is_integer() ? "an integer" : "a number";
    case Kind::string: return "a string";
    case Kind::array: return "an array";
    case Kind::object: return "an object";
  }
  return "nothing";
}

void Json::wrong_kind(const char* expected) const { fail(ErrorCode::invalid_file, "expected ", expected, ", found ", kind_name()); }

bool Json::is_integer() const {
  const Number* number = std::get_if<Number>(&value_);
  return number && number->exact;
}
bool Json::as_bool() const {
  const bool* value = std::get_if<bool>(&value_);
  if (!value) wrong_kind("true or false");
  return *value;
}
int64_t Json::as_int() const {
  if (!is_integer()) wrong_kind("an integer");
  return std::get<Number>(value_).integer;
}
double Json::as_double() const {
  const Number* value = std::get_if<Number>(&value_);
  if (!value) wrong_kind("a number");
  return value->real;
}
const std::string& Json::as_string() const {
  const std::string* value = std::get_if<std::string>(&value_);
  if (!value) wrong_kind("a string");
  return *value;
}
const Json::Array& Json::items() const {
  const Array* value = std::get_if<Array>(&value_);
  if (!value) wrong_kind("an array");
  return *value;
}
const Json::Object& Json::members() const {
  const Object* value = std::get_if<Object>(&value_);
  if (!value) wrong_kind("an object");
  return *value;
}

const Json* Json::find(std::string_view key) const {
  for (const JsonMember& member : members()) {
    if (member.key == key) return &member.value;
  }
  return nullptr;
}

void Json::set(std::string_view key, Json value) {
  members();  // throws where this is not an object
  Object& object = std::get<Object>(value_);
  for (JsonMember& member : object) {
    if (member.key == key) {
      member.value = std::move(value);
      return;
    }
  }
  object.push_back({std::string(key), std::move(value)});
}

void Json::push_back(Json value) {
  items();
  std::get<Array>(value_).push_back(std::move(value));
}

// ---- writing -----------------------------------------------------------------------------------------------------------

namespace {

void write_string(std::string& out, const std::string& text) {
  out += '"';
  for (const char c : text) {
    switch (c) {
      case '"': out += "\\\""; break;
      case '\\': out += "\\\\"; break;
      case '\n': out += "\\n"; break;
      case '\r': out += "\\r"; break;
      case '\t': out += "\\t"; break;
      default:
        if (static_cast<unsigned char>(c) < 0x20) {
          static const char* digits = "0123456789abcdef";
          out += "\\u00";
          out += digits[(c >> 4) & 15];
          out += digits[c & 15];
        } else {
          out += c;
        }
    }
  }
  out += '"';
}

// Shortest text that reads back as the same double, always recognisable as a real number; no exponent from 1e-4 to 1e16.
void write_real(std::string& out, double value) {
  char buffer[40];
  const double size = std::abs(value);
  const bool plain = size == 0 || (size >= 1e-4 && size < 1e16);
  const auto format = plain ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, format).ptr;
  const std::string_view text(buffer, static_cast<size_t>(end - buffer));
  out += text;
  if (text.find_first_of(".e") == std::string_view::npos) out += ".0";
}

void new_line(std::string& out, int indent, int depth) {
  if (indent == 0) return;
  out += '\n';
  out.append(static_cast<size_t>(indent) * static_cast<size_t>(depth), ' ');
}

}  // namespace

void Json::write(std::string& out, int indent, int depth) const {
  const auto write_items = [&](char open, char close, const auto& list, const auto& write_one) {
    out += open;
    bool first = true;
    for (const auto& item : list) {
      if (!first) out += indent == 0 ? ", " : ",";
      first = false;
      new_line(out, indent, depth + 1);
      write_one(item);
    }
    if (!first) new_line(out, indent, depth);
    out += close;
  };
  switch (kind()) {
    case Kind::null: out += "null"; return;
    case Kind::boolean: out += std::get<bool>(value_) ? "true" : "false"; return;
    case Kind::number: {
      const Number& number = std::get<Number>(value_);
      if (number.exact) {
        out += std::to_string(number.integer);
      } else {
        write_real(out, number.real);
      }
      return;
    }
    case Kind::string: write_string(out, std::get<std::string>(value_)); return;
    case Kind::array: write_items('[', ']', std::get<Array>(value_), [&](const Json& item) { item.write(out, indent, depth + 1); }); return;
    case Kind::object:
      write_items('{', '}', std::get<Object>(value_), [&](const JsonMember& member) {
        write_string(out, member.key);
        out += ": ";
        member.value.write(out, indent, depth + 1);
      });
      return;
  }
}

std::string Json::dump(int indent) const {
  std::string out;
  write(out, indent, 0);
  return out;
}

}  // namespace rlhi::io
