"""Trains a CapaBoost adapter for a causal language model with PEFT and the Trainer of transformers.

    python scripts/peft_llm.py --text corpus.txt --model FOLDER_OR_HUB_ID --output adapter
    python scripts/peft_llm.py --text corpus.txt --smoke  # a small random model that reads bytes, seconds on a CPU

The text is cut into blocks of --length tokens; each tenth block is held out. `--method lora` trains PEFT's own LoRA of
the same rank instead, which has as many parameters as sign masks without coefficients. The adapter is loaded again at
the end, and has to give the same loss.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import peft
import torch
import transformers

from capaboost_vit.peft import CapaBoostConfig


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, required=True, help="a text file, or .jsonl with a `text` in each line")
    parser.add_argument("--model", help="a folder or hub id of transformers; none: a small random Llama, on bytes")
    parser.add_argument("--output", type=Path, default=Path("adapter"), help="the folder of the adapter")
    parser.add_argument("--method", choices=("capaboost", "lora"), default="capaboost")
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--branches", type=int, default=2)
    parser.add_argument("--length", type=int, default=256, help="tokens of an example")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="10 steps of 64 tokens an example, to see that it works")
    options = parser.parse_args()
    if not options.text.is_file():
        parser.error(f"--text {options.text}: there is no such file")
    if options.smoke:
        options.steps, options.length = 10, 64
    return options


def read(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    return "\n".join(json.loads(line)["text"] for line in text.splitlines()) if path.suffix == ".jsonl" else text


def blocks(text: str, model: str | None, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Examples to train on and held-out ones, (examples, length)."""
    if model is None:
        ids = list(text.encode())
    else:
        ids = transformers.AutoTokenizer.from_pretrained(model)(text, verbose=False)["input_ids"]
    examples = torch.tensor(ids[: len(ids) // length * length]).reshape(-1, length)
    held_out = torch.arange(len(examples)) % 10 == 9
    if not held_out.any():
        raise SystemExit(f"the text makes {len(examples)} examples of {length} tokens, and 10 are the least")
    return examples[~held_out], examples[held_out]


def build(model: str | None, seed: int) -> Any:
    if model is not None:
        return transformers.AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(seed)
    size = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=256, **size))


def configuration(options: argparse.Namespace) -> peft.PeftConfig:
    same: Any = {"r": options.rank, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    if options.method == "lora":
        return peft.LoraConfig(**same)
    return CapaBoostConfig(num_branches=options.branches, pattern="sign", **same)


def main() -> None:
    options = parse()
    training, held_out = blocks(read(options.text), options.model, options.length)
    model = peft.get_peft_model(build(options.model, options.seed), configuration(options))
    model.print_trainable_parameters()
    arguments = transformers.TrainingArguments(
        output_dir=str(options.output),
        max_steps=options.steps,
        learning_rate=options.lr,
        per_device_train_batch_size=options.batch_size,
        per_device_eval_batch_size=options.batch_size,
        lr_scheduler_type="cosine",
        logging_steps=max(1, options.steps // 10),
        save_strategy="no",
        dataloader_pin_memory=torch.cuda.is_available(),
        report_to=[],
        seed=options.seed,
    )

    def trainer(model: Any) -> transformers.Trainer:
        data = [[{"input_ids": ids, "labels": ids} for ids in part] for part in (training, held_out)]
        return transformers.Trainer(model=model, args=arguments, train_dataset=data[0], eval_dataset=data[1])

    first = trainer(model)
    before = first.evaluate()["eval_loss"]
    first.train()
    after = first.evaluate()["eval_loss"]
    model.save_pretrained(options.output)
    again = peft.PeftModel.from_pretrained(build(options.model, options.seed), options.output)
    loaded = trainer(again).evaluate()["eval_loss"]
    print(f"held-out loss {before:.4f} -> {after:.4f} ({options.method}), loaded again {loaded:.4f}")
    if not math.isclose(after, loaded, rel_tol=1e-4):
        raise SystemExit("the stored adapter does not compute what was trained")


if __name__ == "__main__":
    main()
