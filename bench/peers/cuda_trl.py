"""TRL's DPOTrainer on the same GPU, in bf16, the reference precomputed: pairs/s of the median step and peak memory.

usage: cuda_trl.py [--json FILE] [--train 135m,1b,8b]

Fused AdamW with states in bf16 (there is no master copy), Liger's kernels and fused loss where the package is installed (1.8 times as fast
as without, 135m on an H100), gradient checkpointing for 8b alone, which does not fit without. Attention is PyTorch's: flash-attn is not asked for.
"""
import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile

os.environ["HF_HUB_OFFLINE"] = "1"
WARM, STEPS = 2, 4
CASES = {"135m": (256, 64), "1b": (512, 16), "8b": (512, 4)}  # tokens of a part, pairs a step


def run(name, pairs, liger):
    import torch
    from datasets import Dataset
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer

    from cuda_shapes import SHAPES
    from trl_pairs import StepTimes, random_pairs, word_tokenizer

    random.seed(0)
    length, vocab = CASES[name][0], SHAPES[name]["vocab_size"]
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[name], max_position_embeddings=8192, attn_implementation="sdpa"))
    torch.set_default_dtype(torch.float32)
    times = StepTimes(torch.cuda.synchronize)
    with tempfile.TemporaryDirectory() as folder:
        config = DPOConfig(
            output_dir=folder, per_device_train_batch_size=pairs, max_steps=WARM + STEPS, learning_rate=5e-7, beta=0.1, max_length=2 * length, bf16=True,
            gradient_checkpointing=name == "8b", precompute_ref_log_probs=True, use_liger_kernel=liger, optim="adamw_torch_fused", save_strategy="no", report_to=[],
            logging_steps=100)
        rows = random_pairs(pairs * (WARM + STEPS), length, length, vocab)
        trainer = DPOTrainer(model=model, args=config, train_dataset=Dataset.from_list(rows), processing_class=word_tokenizer(vocab), callbacks=[times])
        trainer.train()
    step = times.median(WARM)
    return {"pairs_per_s": pairs / step, "step_ms": 1e3 * step, "pairs": pairs, "liger": liger, "memory_gib": torch.cuda.max_memory_allocated() / 2**30}


def measure(name, pairs, liger):
    """In a process of its own, which may run out of memory."""
    done = subprocess.run([sys.executable, __file__, "--one", name, str(pairs), str(int(liger))], capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    print(f"peers      TRL {name}, {pairs} pairs, liger {liger}: {(done.stderr.strip().splitlines() or ['no output'])[-1]}", flush=True)
    return None


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(run(sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1")))
        sys.exit()
    parser = argparse.ArgumentParser()
    parser.add_argument("--json")
    parser.add_argument("--train", default=",".join(CASES))
    options = parser.parse_args()
    has_liger = importlib.util.find_spec("liger_kernel") is not None
    for shape in options.train.split(","):
        length, pairs = CASES[shape]
        result = measure(shape, pairs, has_liger)
        if result is None:
            continue
        name = f"TRL DPO step {shape}, {length}+{length}+{length}"
        print(f"{'peers':10} {name:44}", *(f"{key} {value:.6g}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()), flush=True)
        if options.json:
            with open(options.json, "a") as out:
                out.write(json.dumps({"stage": "peers", "name": name, **result}) + "\n")
