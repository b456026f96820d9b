// The strict JSON parser.
#include <charconv>
#include <unordered_set>

#include "base/error.h"
#include "io/json.h"

namespace rlhi::io {

class JsonParser {
 public:
  JsonParser(std::string_view text, const std::string& where) : text_(text), where_(where) {}

  Json document() {
    Json value = parse_value(0);
    skip_space();
    if (at_ != text_.size()) bad("the end of the text");
    return value;
  }

 private:
  static constexpr int kMaxDepth = 128;

  [[noreturn]] void bad(const std::string& expected) const {
    fail(ErrorCode::invalid_file, where_, ": not valid JSON at byte ", at_, ": expected ", expected, ", found ", found());
  }
  std::string found() const {
    if (at_ >= text_.size()) return "the end of the text";
    const unsigned char c = static_cast<unsigned char>(text_[at_]);
    if (c > 0x20 && c < 0x7f) return concat("'", text_[at_], "'");
    return concat("byte ", static_cast<int>(c));
  }

  void skip_space() {
    while (at_ < text_.size() && (text_[at_] == ' ' || text_[at_] == '\t' || text_[at_] == '\n' || text_[at_] == '\r')) ++at_;
  }
  bool take(char c) {
    if (at_ < text_.size() && text_[at_] == c) {
      ++at_;
      return true;
    }
    return false;
  }
  void word(std::string_view expected) {
    if (text_.substr(at_, expected.size()) != expected) bad(std::string(expected));
    at_ += expected.size();
  }

  Json parse_value(int depth) {
    skip_space();
    if (at_ >= text_.size()) bad("a value");
    if (depth > kMaxDepth) bad(concat("at most ", kMaxDepth, " levels of nesting"));
    switch (text_[at_]) {
      case '{': return parse_object(depth);
      case '[': return parse_array(depth);
      case '"': return Json::string(parse_string());
      case 't': word("true"); return Json::boolean(true);
      case 'f': word("false"); return Json::boolean(false);
      case 'n': word("null"); return Json();
      default: return parse_number();
    }
  }

  Json parse_array(int depth) {
    ++at_;
    Json::Array items;
    skip_space();
    if (take(']')) return Json::array();
    do {
      items.push_back(parse_value(depth + 1));
      skip_space();
    } while (take(','));
    if (!take(']')) bad("',' or ']'");
    return Json::array(std::move(items));
  }

  Json parse_object(int depth) {
    ++at_;
    Json result = Json::object();
    Json::Object& members = std::get<Json::Object>(result.value_);
    std::unordered_set<std::string> keys;
    skip_space();
    if (take('}')) return result;
    do {
      skip_space();
      if (at_ >= text_.size() || text_[at_] != '"') bad("a key in quotes");
      const size_t key_at = at_;
      std::string key = parse_string();
      if (!keys.insert(key).second) {
        fail(ErrorCode::invalid_file, where_, ": not valid JSON at byte ", key_at, ": the key \"", key, "\" stands twice in one object");
      }
      skip_space();
      if (!take(':')) bad("':'");
      Json value = parse_value(depth + 1);
      members.push_back({std::move(key), std::move(value)});
      skip_space();
    } while (take(','));
    if (!take('}')) bad("',' or '}'");
    return result;
  }

  // -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?
  Json parse_number() {
    const size_t begin = at_;
    take('-');
    if (take('0')) {
      // no digit may follow a leading zero; anything else is judged by the caller
      if (at_ < text_.size() && is_digit(text_[at_])) bad("no digit after a leading 0");
    } else {
      digits("a value");
    }
    bool exact = true;
    if (take('.')) {
      exact = false;
      digits("a digit");
    }
    if (take('e') || take('E')) {
      exact = false;
      if (!take('+')) take('-');
      digits("a digit");
    }
    const char* first = text_.data() + begin;
    const char* last = text_.data() + at_;
    if (exact) {
      int64_t integer = 0;
      const auto result = std::from_chars(first, last, integer);
      const bool negative_zero = integer == 0 && *first == '-';
      if (result.ec == std::errc() && !negative_zero) return Json::integer(integer);
    }
    double real = 0;
    const auto result = std::from_chars(first, last, real);
    if (result.ec != std::errc()) {
      at_ = begin;
      bad("a number that a double can hold");
    }
    return Json::real(real);
  }
  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  void digits(const char* expected) {
    if (at_ >= text_.size() || !is_digit(text_[at_])) bad(expected);
    while (at_ < text_.size() && is_digit(text_[at_])) ++at_;
  }

  std::string parse_string() {
    ++at_;
    std::string out;
    while (true) {
      if (at_ >= text_.size()) bad("the closing '\"' of a string");
      const unsigned char c = static_cast<unsigned char>(text_[at_]);
      if (c == '"') {
        ++at_;
        return out;
      }
      if (c < 0x20) bad("no raw control character in a string");
      if (c == '\\') {
        ++at_;
        parse_escape(out);
      } else if (c < 0x80) {
        out += static_cast<char>(c);
        ++at_;
      } else {
        copy_utf8(out);
      }
    }
  }

  void parse_escape(std::string& out) {
    if (at_ >= text_.size()) bad("an escape");
    switch (text_[at_]) {
      case '"': out += '"'; break;
      case '\\': out += '\\'; break;
      case '/': out += '/'; break;
      case 'b': out += '\b'; break;
      case 'f': out += '\f'; break;
      case 'n': out += '\n'; break;
      case 'r': out += '\r'; break;
      case 't': out += '\t'; break;
      case 'u': parse_unicode(out); return;
      default: bad("one of \"\\/bfnrtu after a backslash");
    }
    ++at_;
  }

  uint32_t hex4() {
    ++at_;  // the 'u'
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++at_) {
      const char c = at_ < text_.size() ? text_[at_] : '\0';
      const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
      if (digit < 0) bad("four hexadecimal digits");
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }

  void parse_unicode(std::string& out) {
    uint32_t code = hex4();
    if (code >= 0xDC00 && code < 0xE000) bad("no low surrogate without a high one before it");
    if (code >= 0xD800 && code < 0xDC00) {
      if (text_.substr(at_, 2) != "\\u") bad("the low half of a surrogate pair");
      ++at_;
      const uint32_t low = hex4();
      if (low < 0xDC00 || low >= 0xE000) bad("the low half of a surrogate pair");
      code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    if (code < 0x80) {
      out += static_cast<char>(code);
    } else if (code < 0x800) {
      out += static_cast<char>(0xC0 | (code >> 6));
      out += static_cast<char>(0x80 | (code & 63));
    } else if (code < 0x10000) {
      out += static_cast<char>(0xE0 | (code >> 12));
      out += static_cast<char>(0x80 | ((code >> 6) & 63));
      out += static_cast<char>(0x80 | (code & 63));
    } else {
      out += static_cast<char>(0xF0 | (code >> 18));
      out += static_cast<char>(0x80 | ((code >> 12) & 63));
      out += static_cast<char>(0x80 | ((code >> 6) & 63));
      out += static_cast<char>(0x80 | (code & 63));
    }
  }

  // One well-formed sequence: no overlong form, no surrogate, nothing above U+10FFFF.
  void copy_utf8(std::string& out) {
    const unsigned char lead = static_cast<unsigned char>(text_[at_]);
    const size_t length = lead >= 0xC2 && lead < 0xE0 ? 2 : lead >= 0xE0 && lead < 0xF0 ? 3 : lead >= 0xF0 && lead < 0xF5 ? 4 : 0;
    if (length == 0 || at_ + length > text_.size()) bad("valid UTF-8");
    for (size_t i = 1; i < length; ++i) {
      const unsigned char c = static_cast<unsigned char>(text_[at_ + i]);
      const unsigned char low = i == 1 && lead == 0xE0 ? 0xA0 : i == 1 && lead == 0xF0 ? 0x90 : 0x80;
      const unsigned char high = i == 1 && lead == 0xED ? 0x9F : i == 1 && lead == 0xF4 ? 0x8F : 0xBF;
      if (c < low || c > high) bad("valid UTF-8");
    }
    out += text_.substr(at_, length);
    at_ += length;
  }

  std::string_view text_;
  const std::string& where_;
  size_t at_ = 0;
};

Json Json::parse(std::string_view text, const std::string& where) { return JsonParser(text, where).document(); }

}  // namespace rlhi::io
