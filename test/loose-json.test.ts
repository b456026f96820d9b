import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { seededRandom } from "../lib/random.js";
import { parseJsonLoosely } from "../lib/text/json.js";

describe("JSON as models write it", () => {
  const cases: [string, unknown][] = [
    ['{"a": 1}', { a: 1 }], ['text {"a": [1, 2.5, -3e2, true, false, null]} text', { a: [1, 2.5, -300, true, false, null] }], ["{'a': 'it''s', b: 'don\\'t'}", { a: "it''s", b: "don't" }],
    ['{"a": "x\\n\\u00e9\\"y"', { a: 'x\né"y' }], ['{"a": {"b": {"c": 1', { a: { b: { c: 1 } } }], ['{"a": [1, 2', { a: [1, 2] }], ['{"a" 1, "b": 2}', { b: 2 }], ['{"a": }', { a: null }], ["[1 2]", ["1 2"]],
    ['{"a": "x" "b": "y"}', { a: "x", b: "y" }], ["{“a”: “b”}", { "“a”": "b" }], ["", undefined], ["none", undefined], ["{", {}], ["[", []], ['{"a"', {}],
  ];
  for (const [text, value] of cases) it(`is read: ${text}`, () => assert.deepEqual(parseJsonLoosely(text), value));

  it("ends for any text, however broken", () => {
    const random = seededRandom(1);
    const pieces = ["{", "}", "[", "]", ":", ",", '"', "'", "\\", "\\u00", "a", "1", " ", "\n", "true", "“", "”"];
    for (let i = 0; i < 3000; i++) parseJsonLoosely(`{${Array.from({ length: 30 }, () => pieces[Math.floor(random() * pieces.length)]).join("")}`);
    assert.doesNotThrow(() => parseJsonLoosely("[".repeat(100_000)));
    assert.doesNotThrow(() => parseJsonLoosely('{"a":'.repeat(100_000)));
  });
});
