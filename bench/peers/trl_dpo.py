"""TRL's DPOTrainer on random tokens, the reference precomputed: pairs/s of the median step (the first is dropped) and peak memory.

usage: trl_dpo.py DTYPE PAIRS PROMPT ANSWER STEPS THREADS   (prints one JSON line, the last of its output)
"""
import json, os, random, resource, sys, tempfile
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer
from shape import DTYPES, VOCAB, random_model
from trl_pairs import StepTimes, random_pairs, word_tokenizer

dtype, pairs, prompt, answer, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)
random.seed(0)

rows = random_pairs(pairs * (steps + 1), prompt, answer, VOCAB)
times = StepTimes()
with tempfile.TemporaryDirectory() as folder:
    config = DPOConfig(
        output_dir=folder, per_device_train_batch_size=pairs, max_steps=steps + 1, learning_rate=5e-7, beta=0.1, max_length=prompt + answer,
        use_cpu=True, bf16=False, gradient_checkpointing=False, precompute_ref_log_probs=True, save_strategy="no", report_to=[], logging_steps=1)
    trainer = DPOTrainer(model=random_model(DTYPES[dtype]), args=config, train_dataset=Dataset.from_list(rows), processing_class=word_tokenizer(VOCAB), callbacks=[times])
    trainer.train()
print(json.dumps({"pairs_per_s": pairs / times.median(1), "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
