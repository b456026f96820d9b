"""PyTorch's matrix products on given shapes: FLOP/s of the median.

nt: c[m,n] = a[m,k] b[n,k]^T; nn: a[m,k] b[k,n]; tn: a[k,m]^T b[k,n].
usage: torch_gemm.py DTYPE REPEATS THREADS FORM:M,N,K ...   (prints one JSON line: {"FORM:M,N,K": FLOP/s})
"""
import json, sys, time
import torch

dtype, repeats, threads, *products = sys.argv[1:]
torch.set_num_threads(int(threads))
torch.manual_seed(0)
WORK = {"nt": torch.nn.functional.linear, "nn": torch.mm, "tn": lambda a, b: torch.mm(a.t(), b)}


def matrix(rows, columns):
    return torch.randn(rows, columns).to(torch.float32 if dtype == "f32" else torch.bfloat16)


found = {}
for product in products:
    form, shape = product.split(":")
    m, n, k = map(int, shape.split(","))
    a = matrix(k, m) if form == "tn" else matrix(m, k)
    b = matrix(n, k) if form == "nt" else matrix(k, n)
    seconds = []
    for _ in range(int(repeats) + 2):
        begin = time.perf_counter()
        WORK[form](a, b)
        seconds.append(time.perf_counter() - begin)
    seconds = sorted(seconds[2:])
    found[product] = 2 * m * n * k / seconds[len(seconds) // 2]
print(json.dumps(found))
