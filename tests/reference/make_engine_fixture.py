#!/usr/bin/env python3
"""Makes tests/worker/model/data/{engine,uneven}.safetensors: tiny random Llamas and what stock transformers
(with a mask written here, from the paper's definition) computes with them, as the oracle of
tests/worker/model. `uneven` has what the other has not: heads wider than hidden / heads, another rope_theta
and epsilon, an output head of its own.

    build/python/bin/python tests/reference/make_engine_fixture.py

Tensors: base/<name> (fp32 weights); adapter/<name> (LoRA on all seven linears, B not zero);
case/<case>/{logits,losses,loss} and case/<case>/grad/<name>, in the ORIGINAL neuron order.
Cases: {full,lora}-{dense,top,bottom,not_top} (uneven: top only), gradients of dense and top only; bfloat16 (engine only):
logits of the dense base in that type. int: ids [4, 10], targets [4, 10], labels [2, 36].
"""
import copy
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

EXPERTS, TOP_K, CONVERTED = 6, 2, (0, 2)
RANK, ALPHA = 2, 4.0
ROWS, LENGTH = 4, 10
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
OUT = pathlib.Path(__file__).parent.parent / "worker" / "model" / "data"
VARIANTS = {"engine": {"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True},
            "uneven": {"head_dim": 6, "rms_norm_eps": 1e-6, "rope_theta": 500000.0, "tie_word_embeddings": False}}


def tiny_llama(variant):
    torch.manual_seed(11)
    config = LlamaConfig(hidden_size=16, intermediate_size=36, num_hidden_layers=3, num_attention_heads=4,
                         num_key_value_heads=2, vocab_size=40, max_position_embeddings=64,
                         attn_implementation="eager", **VARIANTS[variant])
    model = LlamaForCausalLM(config).eval()
    for name, p in model.named_parameters():
        p.data.normal_(0.0, 0.15)
        if "norm" in name:
            p.data.add_(1.0)
    return model


class LowRank(torch.nn.Module):
    """y = W x + (alpha / r) B A x."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.A = torch.nn.Parameter(torch.randn(RANK, base.in_features) * 0.1)
        self.B = torch.nn.Parameter(torch.randn(base.out_features, RANK) * 0.1)

    def forward(self, x):
        return self.base(x) + ALPHA / RANK * F.linear(F.linear(x, self.A), self.B)


def expert_mask(gate, labels, selector):
    """0/1 per channel from the mean pre-activation of each expert; no gradient."""
    member = F.one_hot(labels, EXPERTS).float()  # [d, N]
    score = gate.detach() @ member / (len(labels) // EXPERTS)
    rank = score.argsort(dim=-1, descending=selector != "bottom", stable=True)
    used = torch.zeros_like(score)
    taken = rank[..., TOP_K:] if selector == "not_top" else rank[..., :TOP_K]
    used.scatter_(-1, taken, 1.0)
    return used @ member.T


def set_selector(model, labels, selector):
    for slot, index in enumerate(CONVERTED):
        mlp = model.model.layers[index].mlp

        def forward(x, mlp=mlp, slot=slot):
            gate = mlp.gate_proj(x)
            hidden = F.silu(gate) * mlp.up_proj(x)
            if selector != "dense":
                hidden = hidden * expert_mask(gate, labels[slot], selector)
            return mlp.down_proj(hidden)

        mlp.forward = forward


def run(model, ids, targets):
    logits = model(ids).logits
    losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-1, reduction="none")
    loss = losses.sum() / (targets >= 0).sum()
    model.zero_grad()
    loss.backward()
    return {"logits": logits.detach(), "losses": losses.detach().view_as(targets), "loss": loss.detach()}


def make(variant):
    selectors = ("dense", "top", "bottom", "not_top") if variant == "engine" else ("top",)
    model = tiny_llama(variant)
    ids = torch.randint(3, 40, (ROWS, LENGTH))
    lengths = torch.tensor([10, 6, 10, 8])
    place = torch.arange(LENGTH)
    ids[place >= lengths[:, None]] = 0
    targets = ids.roll(-1, dims=1)
    targets[(place < 3) | (place >= lengths[:, None] - 1)] = -1
    labels = torch.stack([torch.randperm(36) % EXPERTS for _ in CONVERTED])
    tensors = {"ids": ids, "targets": targets, "labels": labels}
    for name, p in model.named_parameters():
        tensors["base/" + name] = p.detach().clone()
    if variant == "engine":
        tensors["case/bfloat16/logits"] = copy.deepcopy(model).bfloat16()(ids).logits.detach().float()

    for selector in selectors:
        set_selector(model, labels, selector)
        case = f"case/full-{selector}/"
        tensors |= {case + key: value for key, value in run(model, ids, targets).items()}
        if selector in ("dense", "top"):
            tensors |= {f"{case}grad/{n}": p.grad.clone() for n, p in model.named_parameters()}

    model.requires_grad_(False)
    for index, layer in enumerate(model.model.layers):
        for name in LINEARS:
            parent = layer.self_attn if name in ("q_proj", "k_proj", "v_proj", "o_proj") else layer.mlp
            low_rank = LowRank(getattr(parent, name))
            setattr(parent, name, low_rank)
    adapters = {n: p for n, p in model.named_parameters() if n.endswith((".A", ".B"))}
    peft = lambda n: "base_model.model." + n[:-1] + f"lora_{n[-1]}.weight"
    tensors |= {"adapter/" + peft(n): p.detach().clone() for n, p in adapters.items()}
    for selector in selectors:
        set_selector(model, labels, selector)
        case = f"case/lora-{selector}/"
        tensors |= {case + key: value for key, value in run(model, ids, targets).items()}
        if selector in ("dense", "top"):
            tensors |= {f"{case}grad/{peft(n)}": p.grad.clone() for n, p in adapters.items()}
    out = OUT / f"{variant}.safetensors"
    save_file({k: v.contiguous() for k, v in tensors.items()}, out)
    print(out, out.stat().st_size, "bytes; losses",
          {k.split("/")[1]: round(float(v), 6) for k, v in tensors.items() if k.endswith("/loss")})
    assert all(math.isfinite(float(v)) for k, v in tensors.items() if k.endswith("/loss"))


if __name__ == "__main__":
    for name in VARIANTS:
        make(name)
