"""PyTorch on the same GPU: a large product, a copy, scaled-dot-product attention, and a DPO step as trainers that pad do it.

usage: cuda_torch.py [--json FILE] [--train 135m,1b,8b]
"""
import argparse
import json
import statistics

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from cuda_shapes import SHAPES

parser = argparse.ArgumentParser()
parser.add_argument("--json")
parser.add_argument("--train", default="135m,1b,8b")
options = parser.parse_args()
torch.manual_seed(0)


def report(name, **figures):
    print(f"{'peers':10} {name:44}", *(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in figures.items()), flush=True)
    if options.json:
        with open(options.json, "a") as out:
            out.write(json.dumps({"stage": "peers", "name": name, **figures}) + "\n")


def milliseconds(work, repeats=20, warm=3):
    for _ in range(warm):
        work()
    times = []
    for _ in range(repeats):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def basics():
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    report("torch matmul 8192, bf16", tflops=2 * 8192**3 / milliseconds(lambda: a @ b.T) / 1e9)
    x, y = torch.randn(1 << 29, device="cuda"), torch.empty(1 << 29, device="cuda")
    report("torch copy, 2 GiB", gb_per_s=8 * (1 << 29) / milliseconds(lambda: y.copy_(x)) / 1e6)


def attention(length, dim, heads=32, kv_heads=8, tokens=16384):
    batch = tokens // length
    q = torch.randn(batch, heads, length, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    k, v = (torch.randn(batch, kv_heads, length, dim, device="cuda", dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    flops = 4 * batch * heads * dim * length * length / 2
    for name, backend in (("cudnn", SDPBackend.CUDNN_ATTENTION), ("flash", SDPBackend.FLASH_ATTENTION)):
        try:
            with sdpa_kernel(backend):
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
                dout = torch.randn_like(out)
                forward = milliseconds(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True))
                backward = milliseconds(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True))
            report(f"sdpa {name}, causal {length}, d {dim}, {heads}/{kv_heads} heads", forward_ms=forward, backward_ms=backward,
                   forward_tflops=flops / forward / 1e9, backward_tflops=2.5 * flops / backward / 1e9)
        except RuntimeError as error:
            print(f"peers      sdpa {name}, causal {length}, d {dim}: {str(error).splitlines()[0]}", flush=True)


def dpo_step(name, length, batch):
    """A pair is two padded rows of prompt and answer; reference log-probabilities are given; AdamW with states in bf16."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[name], max_position_embeddings=8192, attn_implementation="sdpa"))
    torch.set_default_dtype(torch.float32)
    if name == "8b":
        model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-7, fused=True)
    ids = torch.randint(0, SHAPES[name]["vocab_size"], (2 * batch, 2 * length), device="cuda")

    def step():
        logits = model(input_ids=ids, use_cache=False, logits_to_keep=length + 1).logits[:, :-1]
        logps = torch.stack([torch.log_softmax(row.float(), -1).gather(-1, target[:, None]).sum() for row, target in zip(logits, ids[:, length:])])
        loss = -F.logsigmoid(0.1 * (logps[:batch] - logps[batch:])).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    ms = milliseconds(step, repeats=5, warm=2)
    report(f"transformers DPO step {name}, {length}+{length}+{length}", pairs_per_s=batch / ms * 1e3, step_ms=ms, pairs=batch, memory_gib=torch.cuda.max_memory_allocated() / 2**30)


if __name__ == "__main__":
    basics()
    for length in (512, 2048, 4096, 8192):
        attention(length, 128)
    for length in (512, 2048, 4096):
        attention(length, 64)
    for shape, length, batch in (("135m", 256, 16), ("1b", 512, 8), ("8b", 512, 4)):
        if shape not in options.train.split(","):
            continue
        try:
            dpo_step(shape, length, batch)
        except Exception as error:  # one shape that does not run must not hide the others
            print(f"peers      transformers DPO step {shape}: {type(error).__name__}: {str(error).splitlines()[0]}", flush=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
