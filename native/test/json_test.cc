// The strict JSON parser and the writer.
#include "io/json.h"
#include "test/check.h"

namespace rlhi::test {
namespace {

using io::Json;

Json parse(const std::string& text) { return Json::parse(text, "test.json"); }
std::string parse_string(const std::string& text) { return parse(text).as_string(); }

TEST("json: values of every kind, in the order of the text") {
  const Json json = parse(R"( {"b": [1, -2.5, true, null, "x"], "a": {"": 1e3}} )");
  EXPECT_EQ(json.members()[0].key, "b");
  EXPECT_EQ(json.members()[1].key, "a");
  const Json::Array& items = json.find("b")->items();
  EXPECT(items[0].is_integer() && items[0].as_int() == 1);
  EXPECT(!items[1].is_integer() && items[1].as_double() == -2.5);
  EXPECT(items[2].as_bool());
  EXPECT(items[3].is_null());
  EXPECT_EQ(items[4].as_string(), "x");
  EXPECT_EQ(json.find("a")->find("")->as_double(), 1000.0);
  EXPECT(json.find("absent") == nullptr);
}

TEST("json: integers are exact to the ends of int64; beyond, a double") {
  EXPECT_EQ(parse("9223372036854775807").as_int(), INT64_MAX);
  EXPECT_EQ(parse("-9223372036854775808").as_int(), INT64_MIN);
  EXPECT_EQ(parse("9007199254740993").as_int(), 9007199254740993);
  EXPECT(!parse("9223372036854775808").is_integer());
  EXPECT_EQ(parse("9223372036854775808").as_double(), 9223372036854775808.0);
  EXPECT(std::signbit(parse("-0").as_double()));
  EXPECT_ERROR(parse("1e400"), ErrorCode::invalid_file, "a number that a double can hold");
}

TEST("json: escapes, surrogate pairs and UTF-8") {
  EXPECT_EQ(parse_string(R"("\"\\\/\b\f\n\r\t")"), "\"\\/\b\f\n\r\t");
  EXPECT_EQ(parse_string(R"("\u0041\u00e9\u20ac\ud83d\ude00")"), "A\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80");
  EXPECT_EQ(parse_string("\"\xF0\x9F\x98\x80\""), "\xF0\x9F\x98\x80");
  EXPECT_EQ(parse_string(R"("\u0000")"), std::string(1, '\0'));
  for (const char* bad : {R"("\ud83d")", R"("\ud83dx")", R"("\ud83d\u0041")", R"("\ude00")", R"("\u12g4")", R"("\x")", "\"\xC0\x80\"",
                          "\"\xED\xA0\x80\"", "\"\xF4\x90\x80\x80\"", "\"\xE2\x82\"", "\"\x80\"", "\"a\nb\""}) {
    EXPECT_ERROR(parse(bad), ErrorCode::invalid_file, "test.json: not valid JSON at byte");
  }
}

TEST("json: what is not JSON is refused with its byte offset") {
  EXPECT_ERROR(parse(""), ErrorCode::invalid_file, "byte 0: expected a value, found the end of the text");
  EXPECT_ERROR(parse("[1, 2,]"), ErrorCode::invalid_file, "byte 6: expected a value, found ']'");
  EXPECT_ERROR(parse("{\"a\" 1}"), ErrorCode::invalid_file, "byte 5: expected ':', found '1'");
  EXPECT_ERROR(parse("{\"a\":1,\"a\":2}"), ErrorCode::invalid_file, "the key \"a\" stands twice");
  for (const char* bad : {"01",      "1.",      ".5",  "+1", "1e", "-",  "tru",      "nan", "Infinity", "[1 2]",         "{a:1}",
                          "{'a':1}", "// x\n1", "1 2", "[",  "{",  "\"", "{\"a\":}", "{,}", "[,]",      "\xEF\xBB\xBF{}"}) {
    EXPECT_ERROR(parse(bad), ErrorCode::invalid_file, "not valid JSON");
  }
}

TEST("json: nesting is limited, so that no file can exhaust the stack") {
  EXPECT_EQ(parse(std::string(100, '[') + std::string(100, ']')).items().size(), 1u);
  EXPECT_ERROR(parse(std::string(1000000, '[')), ErrorCode::invalid_file, "levels of nesting");
}

TEST("json: every prefix of a valid text is refused") {
  const std::string text = R"({"a": [1, 2.5e3, "x\u00e9\\", true, null], "b": {"c": -1}})";
  parse(text);
  for (size_t n = 0; n < text.size(); ++n) EXPECT_ERROR(parse(text.substr(0, n)), ErrorCode::invalid_file, "not valid JSON");
}

TEST("json: what is written reads back the same, reals recognisable as such") {
  Json json = Json::object();
  json.set("theta", Json::real(10000.0));
  json.set("eps", Json::real(1e-6));
  json.set("n", Json::integer(-3));
  json.set("text", Json::string("a\"\\\n\x01\xC3\xA9"));
  json.set("list", Json::array({Json::boolean(false), Json(), Json::array(), Json::object()}));
  json.set("n", Json::integer(4));  // replaced in place
  EXPECT_EQ(json.dump(),
            "{\"theta\": 10000.0, \"eps\": 1e-06, \"n\": 4, \"text\": \"a\\\"\\\\\\n\\u0001\xC3\xA9\", \"list\": [false, null, [], {}]}");
  EXPECT_EQ(parse(json.dump(2)).dump(), json.dump());
  EXPECT(!parse(json.dump()).find("theta")->is_integer());
  EXPECT_EQ(Json::real(100000).dump(), "100000.0");
  for (const double x : {0.0, 0.1, 1.0 / 3, 1e-4, 9e-5, 1e15, 1e16, 5e-324, 1.7976931348623157e308, -123456789.125})
    EXPECT_EQ(parse(Json::real(x).dump()).as_double(), x);
  EXPECT_ERROR(Json::real(std::numeric_limits<double>::infinity()), ErrorCode::invalid_argument, "JSON cannot hold");
}

TEST("json: a value of another kind is named") {
  EXPECT_ERROR(parse("1.5").as_int(), ErrorCode::invalid_file, "expected an integer, found a number");
  EXPECT_ERROR(parse("[]").as_string(), ErrorCode::invalid_file, "expected a string, found an array");
  EXPECT_ERROR(parse("null").members(), ErrorCode::invalid_file, "expected an object, found null");
}

}  // namespace
}  // namespace rlhi::test
