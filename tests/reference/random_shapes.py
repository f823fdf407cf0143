"""The checks of shapes.py on shapes that nobody chose: widths, heads, layers, windows and rotary positions by dice.

EMOE_DICE=N (default 1) throws others.
"""
import os
import random

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

import shapes
from shapes import models  # noqa: F401

MODELS = 8
dice = random.Random(int(os.environ.get("EMOE_DICE", "1")))


def rotary():
    theta = dice.choice([1e4, 5e5, 1e6])
    return dice.choice([{"rope_type": "default", "rope_theta": theta}, shapes.LLAMA3,
                        {"rope_type": "linear", "factor": dice.choice([1.5, 4.0]), "rope_theta": theta}])


def flip(odds=0.5):
    return dice.random() < odds


def throw():
    """As an entry of SHAPES. Initial values shrink with the width, so that logits do not amplify rounding."""
    kind = dice.choice([LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config])
    key_heads, group, size = dice.choice([1, 1, 2, 3]), dice.choice([1, 2, 3, 5, 7]), dice.choice([2, 4, 6, 8, 10, 12, 16, 18, 34])
    heads = key_heads * group
    windows = {"use_sliding_window": True, "sliding_window": dice.choice([2, 4, 9, 50]), "max_window_layers": dice.choice([0, 1])}
    hidden = dice.choice([9, 11, 16, 23, 30, 40, 48, 64, 100])
    keys = {"head_dim": size}
    if kind is LlamaConfig:
        hidden = heads * dice.choice([2, 3, 4, 5, 7])  # transformers wants a multiple
        keys |= {"attention_bias": flip(), "mlp_bias": flip()}
    elif kind is MistralConfig:
        keys["sliding_window"] = dice.choice([None, 2, 5, 33, 400])
    elif kind is Qwen2Config:
        hidden, keys = heads * size, windows if flip() else {}
    else:
        keys |= {"attention_bias": flip()} | (windows if flip(0.3) else {})
    keys |= {"hidden_size": hidden, "num_attention_heads": heads, "num_key_value_heads": key_heads, "rope_parameters": rotary(),
             "num_hidden_layers": dice.choice([2, 3]), "tie_word_embeddings": flip(), "initializer_range": min(0.25, 1.1 / hidden ** 0.5)}
    return kind, keys, flip()


THROWN = {f"{number}-{kind.model_type}": (kind, keys, older) for number, (kind, keys, older) in enumerate(throw() for _ in range(MODELS))}
RUNS = [(name, method, flip()) for name in THROWN for method in ("lora", "full")]


@pytest.fixture(scope="module", autouse=True)
def thrown():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shapes, "SHAPES", THROWN)
        yield


@pytest.mark.parametrize("name", THROWN)
def test_logits(models, tmp_path, name):  # noqa: F811
    print(THROWN[name])
    shapes.test_logits(models, tmp_path, name)


@pytest.mark.parametrize("name,method,experts", RUNS)
def test_ten_steps_and_the_export(models, tmp_path, name, method, experts):  # noqa: F811
    shapes.test_ten_steps_and_the_export(models, tmp_path, name, method, experts)
