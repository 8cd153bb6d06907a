"""Is a search better than random draws? Optuna's TPE and NOMAD beside draws of the same budget, on digits.

    python scripts/compare_searches.py runs/searches 10 48

for ten seeds and 48 candidates each; the same command goes on where it was stopped. A small ViT, pretrained on the
digits 0 to 4, learns the digits 5 to 9 from 200 images by CapaBoost-LoRA. Rank, alpha, dropout and learning rate are
searched, the variables of arXiv 2312.00949, and density and number of branches, for the accuracy on other images, val.
A seed is that of the search and of training. All engines begin with the same candidate, rank 8 at a rate of 1e-3.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from capaboost_vit.run import train
from capaboost_vit.study.config import StudyTuneConfig
from capaboost_vit.study.manifest import Study
from capaboost_vit.study.search import search
from capaboost_vit.study.trial import Trial
from capaboost_vit.study.work import work
from capaboost_vit.vision.config import TrainConfig
from capaboost_vit.vision.saved import merge_adapter

COMMON: dict[str, Any] = {
    "model": "vit_tiny_patch16_224",
    "model_kwargs": {"patch_size": 4, "embed_dim": 64, "depth": 6, "num_heads": 4},
    "img_size": 16,
    "batch_size": 32,
    "drop_path": 0.0,
    "crop_mode": "squash",
    "crop_pct": 1.0,
}
LORA = {"name": "lora", "rank": 8, "alpha": 8.0, "num_branches": 2, "density": 0.5, "pattern": "random"}
TASK = {"data": "digits:5-9", "train": "mixed(train)[:200]", "val": "mixed(train)[200:]+val"}
GRID = {
    "method.rank": {"low": 1, "high": 32},
    "method.alpha": {"low": 1.0, "high": 64.0, "log": True},
    "method.dropout": {"low": 0.0, "high": 0.5},
    "method.density": {"low": 0.25, "high": 1.0},
    "method.num_branches": {"low": 1, "high": 4},
    "lr": {"low": 1e-5, "high": 1.0, "log": True},
}
ENGINES = ("random", "optuna", "nomad")


def prepare(folder: Path) -> None:
    """Writes the base weights, the file of the method and that of the suite, unless they are there."""
    base = folder / "base.safetensors"
    if not base.exists():
        options = {"method": {"name": "full"}, "data": "digits:0-4", "epochs": 20, "lr": 2e-3, "overwrite": True}
        train(TrainConfig(**COMMON, **options, output=str(folder / "base")))
        merge_adapter(folder / "base", base)
    method = {**COMMON, "method": LORA, "lr": 1e-3, "epochs": 8, "val_interval": 8}
    method |= {"initial_checkpoint": str(base.resolve())}
    (folder / "lora.yaml").write_text(yaml.safe_dump(method))
    (folder / "digits.yaml").write_text(yaml.safe_dump({"tasks": {"digits": TASK}}))


def scores(folder: Path, engine: str, seed: int, budget: int) -> list[float]:
    """The accuracy on val of each candidate of one search, in their order."""
    config = StudyTuneConfig(
        suite=str(folder / "digits.yaml"),
        methods=(str(folder / "lora.yaml"),),
        grid=GRID,
        search=engine,
        budget=budget,
        batch=1,
        search_seed=seed,
        tune_seeds=(seed,),
        output=str(folder / f"seed{seed}"),  # engines share what they have both asked for
    )
    study = Study(config.output)

    def compute(trials: list[Trial]) -> list[Trial]:
        kept, _ = study.add(trials)
        work(study, config)
        return kept

    choices, missing = search(study, config, compute)
    if missing:
        sys.exit("\n".join(missing))
    (choice,) = choices.values()
    return [score for _, score in choice["tried"]]


folder, seeds, budget = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
folder.mkdir(parents=True, exist_ok=True)
prepare(folder)
best = {engine: np.zeros((seeds, budget)) for engine in ENGINES}  # behind so many candidates
for seed in range(seeds):
    for engine in ENGINES:
        found = np.maximum.accumulate(scores(folder, engine, seed, budget))
        best[engine][seed] = np.pad(found, (0, budget - len(found)), mode="edge")  # NOMAD may end before
for count in (budget // 2, budget):
    print(f"best val accuracy behind {count} candidates, mean of {seeds} seeds")
    for engine, values in best.items():
        reached, difference = values[:, count - 1], values[:, count - 1] - best["random"][:, count - 1]
        half = stats.t.ppf(0.975, seeds - 1) * stats.sem(difference)  # Student's, of paired differences
        mean = difference.mean()
        paired = "" if engine == "random" else f"  - random {mean:+.2f}, {mean - half:+.2f} to {mean + half:+.2f}"
        print(f"  {engine:8}{reached.mean():6.2f} ± {reached.std(ddof=1):.2f}{paired}")
