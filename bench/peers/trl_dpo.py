"""TRL's DPOTrainer on random tokens, the reference precomputed: pairs/s of the median step (the first is dropped) and peak memory.

usage: trl_dpo.py DTYPE PAIRS PROMPT ANSWER STEPS THREADS   (prints one JSON line, the last of its output)
"""
import json, os, random, resource, sys, tempfile, time
os.environ["HF_HUB_OFFLINE"] = "1"
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, TrainerCallback
from trl import DPOConfig, DPOTrainer
from shape import DTYPES, VOCAB, random_model

dtype, pairs, prompt, answer, steps, threads = sys.argv[1], *map(int, sys.argv[2:])
torch.set_num_threads(threads)
torch.manual_seed(0)
random.seed(0)

# A word a token, so that lengths are exact.
words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
inner.pre_tokenizer = WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>")


def text(count):
    return " ".join(f"w{random.randrange(3, VOCAB)}" for _ in range(count))


class StepTimes(TrainerCallback):
    seconds = []

    def on_step_begin(self, *args, **kwargs):
        self.begin = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.seconds.append(time.perf_counter() - self.begin)


# The end-of-text token that TRL adds is the answer's last.
rows = [{"prompt": text(prompt), "chosen": " " + text(answer - 1), "rejected": " " + text(answer - 1)} for _ in range(pairs * (steps + 1))]
with tempfile.TemporaryDirectory() as folder:
    config = DPOConfig(
        output_dir=folder, per_device_train_batch_size=pairs, max_steps=steps + 1, learning_rate=5e-7, beta=0.1, max_length=prompt + answer,
        use_cpu=True, bf16=False, gradient_checkpointing=False, precompute_ref_log_probs=True, save_strategy="no", report_to=[], logging_steps=1)
    trainer = DPOTrainer(model=random_model(DTYPES[dtype]), args=config, train_dataset=Dataset.from_list(rows), processing_class=tokenizer, callbacks=[StepTimes()])
    trainer.train()
counted = sorted(StepTimes.seconds[1:])
step = counted[len(counted) // 2]
print(json.dumps({"pairs_per_s": pairs / step, "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
