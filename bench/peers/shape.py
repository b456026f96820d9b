"""A Llama-style model of SmolLM2-135M's shape with random weights: what every Python peer is timed on."""
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCAB = 49152


def random_model(dtype: torch.dtype) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3,
        max_position_embeddings=8192, tie_word_embeddings=True, rope_theta=100000.0, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    return LlamaForCausalLM(config).to(dtype)


DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}
