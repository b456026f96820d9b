"""What TRL's trainer is given when it is measured: a tokenizer, pairs of random words, and a clock for its steps."""
import random
import time

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import PreTrainedTokenizerFast, TrainerCallback


def word_tokenizer(vocab):
    """A word a token, so that lengths are exact."""
    words = {"<pad>": 0, "<bos>": 1, "<eos>": 2, **{f"w{i}": i for i in range(3, vocab)}}
    inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
    inner.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<pad>")


def random_pairs(count, prompt, answer, vocab):
    def text(length):
        return " ".join(f"w{random.randrange(3, vocab)}" for _ in range(length))

    # The end-of-text token that TRL adds is the answer's last.
    return [{"prompt": text(prompt), "chosen": " " + text(answer - 1), "rejected": " " + text(answer - 1)} for _ in range(count)]


class StepTimes(TrainerCallback):
    """Seconds of each optimizer step; `synchronize` waits for a device."""

    def __init__(self, synchronize=lambda: None):
        self.seconds, self.synchronize = [], synchronize

    def on_step_begin(self, *args, **kwargs):
        self.synchronize()
        self.begin = time.perf_counter()

    def on_step_end(self, *args, **kwargs):
        self.synchronize()
        self.seconds.append(time.perf_counter() - self.begin)

    def median(self, dropped):
        counted = sorted(self.seconds[dropped:])
        return counted[len(counted) // 2]
