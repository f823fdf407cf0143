#!/usr/bin/env python3
"""LoRA training steps of transformers + PEFT on a random Llama: the peer of bench/step_bench.

    build/python/bin/python bench/peer_step.py --dtype bfloat16 [--hidden 768 …] [--steps 3]

Prints one JSON line. The same shape, rows without padding, LoRA on q_proj and v_proj, dropout 0,
fused attention; a step is forward, backward, clipping and AdamW, as a training loop runs it.
"""
import argparse
import json
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("hidden", 768), ("ffn", 2048), ("layers", 12), ("heads", 12), ("kv-heads", 12),
                        ("vocab", 32000), ("rows", 4), ("length", 512), ("steps", 3), ("threads", 2), ("rank", 8)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    config = LlamaConfig(hidden_size=args.hidden, intermediate_size=args.ffn, num_hidden_layers=args.layers,
                         num_attention_heads=args.heads, num_key_value_heads=args.kv_heads, vocab_size=args.vocab,
                         tie_word_embeddings=True, attn_implementation="sdpa")
    model = LlamaForCausalLM(config).to(getattr(torch, args.dtype))
    model = get_peft_model(model, LoraConfig(r=args.rank, lora_alpha=16, lora_dropout=0.0,
                                             target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-4, weight_decay=0.0)
    ids = torch.randint(0, args.vocab, (args.rows, args.length))
    times = []
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss = loss.item()
        times.append(time.perf_counter() - start)
    best = min(times[1:])
    print(json.dumps({"program": "transformers + PEFT", "dtype": args.dtype, "threads": args.threads,
                      "step_seconds": round(best, 4), "tokens_per_second": round(args.rows * args.length / best, 1),
                      "loss": round(loss, 4)}))


if __name__ == "__main__":
    main()
