"""transformers: forward only, or greedy generation.

usage: transformers_speed.py forward DTYPE SEQUENCES TOKENS STEPS THREADS
       transformers_speed.py generate DTYPE SEQUENCES PROMPT NEW STEPS THREADS   (prints one JSON line)
"""
import json, resource, sys, time
import torch
from shape import DTYPES, VOCAB, random_model

what, dtype, *rest = sys.argv[1:]
sequences, length, *rest = map(int, rest)
torch.set_num_threads(rest[-1])
torch.manual_seed(0)
model = random_model(DTYPES[dtype]).eval()
model.generation_config.eos_token_id = None
ids = torch.randint(3, VOCAB, (sequences, length))


def run():
    with torch.no_grad():
        if what == "forward":
            model(ids, use_cache=False)
        else:
            model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=rest[0], min_new_tokens=rest[0], do_sample=False, pad_token_id=0)


def timed():
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


timed()
seconds = sorted(timed() for _ in range(rest[-2]))
tokens = sequences * (length if what == "forward" else rest[0])
print(json.dumps({"tokens_per_s": tokens / seconds[len(seconds) // 2], "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
