"""P11: 52,000 rows of Alpaca's lengths read, rendered, tokenised and packed, over the time that the `tokenizers` library takes
for their texts alone; and back to text."""
import tempfile

from measure import BIN, PYTHON, ROOT, row, run_json

ROWS, TINY_ROWS = 52000, 50
GOAL = 1.5
PEER = [PYTHON, ROOT / "bench" / "peer_text.py"]
SECONDS = 40  # kept for it


def bench_text(args):
    rows = []
    threads = {"RAYON_NUM_THREADS": str(args.threads), "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as folder:
        run_json([*PEER, "make", folder, TINY_ROWS if args.tiny else ROWS], args, args.threads)
        for kind, like in (("bytes", "Llama 3"), ("characters", "Llama 2")):
            model = f"{folder}/{kind}"
            ours = run_json([BIN / "text_bench", "--model", model, "--data", f"{folder}/rows.jsonl", "--threads", args.threads, "--rounds", 1],
                            args, args.threads)
            peer = run_json([*PEER, "time", model, 1], args, args.threads, environment=threads)
            assert peer["tokens"] >= ours["tokens"] > 0.9 * peer["tokens"], (kind, ours, peer)  # ours are cut to 512
            rows += [row(f"P11.{kind}", f"time of the tokenizers library over ours with reading, targets and packing, a tokenizer.json as "
                         f"{like}'s", peer["seconds"] / ours["seconds"], "higher", GOAL),
                     row(f"P11.{kind}.seconds", f"{TINY_ROWS if args.tiny else ROWS} rows prepared", ours["seconds"], "lower", None, "s"),
                     row(f"P11.{kind}.decode", "time of its decoding over ours", peer["decode_seconds"] / ours["decode_seconds"],
                         "higher", 1.0)]
    for each in rows:
        print(f"{each['what']}: {each['value']:.2f} {each['unit']}", flush=True)
    return rows
