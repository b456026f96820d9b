// llama.cpp (node-llama-cpp's prebuilt binary): greedy decoding of N sequences at once, prompts included.
// usage: node llama_cpp.mjs MODEL.gguf SEQUENCES PROMPT NEW THREADS   (prints one JSON line)
import { getLlama } from "node-llama-cpp";

const [path, ...numbers] = process.argv.slice(2);
const [count, prompt, fresh, threads] = numbers.map(Number);
const llama = await getLlama({ build: "never", gpu: false, logLevel: "error", maxThreads: threads });
const model = await llama.loadModel({ modelPath: path });
const context = await model.createContext({ contextSize: Math.max(256, prompt + fresh + 8), sequences: count, threads, batchSize: 512 });
const sequences = Array.from({ length: count }, () => context.getSequence());

async function decode(sequence, seed) {
  const ids = Array.from({ length: prompt }, (_, at) => 1000 + (((at + seed * 131) * 7919) % 40000));
  let made = 0;
  for await (const _ of sequence.evaluate(ids, { temperature: 0, yieldEogToken: true })) {
    made += 1;
    if (made >= fresh) break;
  }
  return made;
}

await decode(sequences[0], 0);
await sequences[0].clearHistory();
const begin = performance.now();
const made = (await Promise.all(sequences.map(decode))).reduce((a, b) => a + b, 0);
console.log(JSON.stringify({ tokens_per_s: (made * 1000) / (performance.now() - begin), peak_memory_bytes: process.resourceUsage().maxRSS * 1024 }));
process.exit(0);
