"""PyTorch's matrix product c[m,n] = a[m,k] b[n,k]^T on given shapes: FLOP/s of the median.

usage: torch_gemm.py DTYPE REPEATS THREADS M,N,K ...   (prints one JSON line: {"M,N,K": FLOP/s})
"""
import json, sys, time
import torch

dtype, repeats, threads, *shapes = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
found = {}
for shape in shapes:
    m, n, k = map(int, shape.split(","))
    a, b = (torch.randn(rows, k).to(torch.float32 if dtype == "f32" else torch.bfloat16) for rows in (m, n))
    seconds = []
    for _ in range(int(repeats) + 2):
        begin = time.perf_counter()
        torch.nn.functional.linear(a, b)
        seconds.append(time.perf_counter() - begin)
    seconds = sorted(seconds[2:])
    found[shape] = 2 * m * n * k / seconds[len(seconds) // 2]
print(json.dumps(found))
