#!/usr/bin/env python3
"""LoRA training steps of transformers + PEFT on a random Llama: the peer of bench/step_bench.

    build/python/bin/python bench/peer_step.py --dtype bfloat16 [--hidden 768 …] [--steps 3] [--lengths 33:20:40,…]

Prints one JSON line; step_bytes is the growth of the process from before its first step to its peak. The same shape, rows without padding (with --lengths padded to the longest, as its collators do, and
prompts without a loss), LoRA on q_proj and v_proj, dropout 0,
fused attention; a step is forward, backward, clipping and AdamW, as a training loop runs it.
"""
import argparse
import json
import pathlib
import resource
import time

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM


def whole(args):
    ids = torch.randint(0, args.vocab, (args.rows, args.length))
    return {"input_ids": ids, "labels": ids}


def padded(args):
    rows = [[int(part) for part in row.split(":")] for row in args.lengths.split(",")]
    longest = max(map(sum, rows))
    batch = {"input_ids": torch.zeros(len(rows), longest, dtype=torch.long),
             "attention_mask": torch.zeros(len(rows), longest, dtype=torch.long),
             "labels": torch.full((len(rows), longest), -100)}
    for r, (template, prompt, answer) in enumerate(rows):
        length = template + prompt + answer
        batch["input_ids"][r, :length] = torch.randint(0, args.vocab, (length,))
        batch["attention_mask"][r, :length] = 1
        batch["labels"][r, template + prompt:length] = batch["input_ids"][r, template + prompt:length]
    return batch


def resident_bytes():
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("hidden", 768), ("ffn", 2048), ("layers", 12), ("heads", 12), ("kv-heads", 12),
                        ("vocab", 32000), ("rows", 4), ("length", 512), ("steps", 3), ("threads", 2), ("rank", 8)):
        parser.add_argument("--" + name, type=int, default=value)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--lengths", help="tokens of each row: template:prompt:answer,…")
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
    batch = padded(args) if args.lengths else whole(args)
    tokens = int(batch["attention_mask"].sum()) if args.lengths else args.rows * args.length
    times, resident = [], resident_bytes()
    for _ in range(args.steps + 1):
        start = time.perf_counter()
        optimizer.zero_grad()
        loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        loss = loss.item()
        times.append(time.perf_counter() - start)
    best = min(times[1:])
    print(json.dumps({"program": "transformers + PEFT", "dtype": args.dtype, "threads": args.threads,
                      "step_seconds": round(best, 4), "tokens_per_second": round(tokens / best, 1),
                      "step_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - resident,
                      "loss": round(loss, 4)}))


if __name__ == "__main__":
    main()
