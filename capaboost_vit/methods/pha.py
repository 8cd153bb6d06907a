"""PHA: one hypernetwork makes the adapters of several tasks, and an example finds its task by a prototype."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from .. import core
from ..io.options import option
from .hooks import Counts, Pass, Stage
from .index import make_method, register
from .method import Method

if TYPE_CHECKING:
    from torch import Tensor, nn


@register
@dataclass(frozen=True)
class Pha(Method):
    """PHA: y = MLP(x) + B_t relu(A_t x + a_t) + b_t, all four made by a hypernetwork of prototype z_t and layer e_l.

    One task is that; a run on several data sets (`--data eurosat digits`) makes each of them a task, with rows of its
    own in the head. In training the task is known from the label, and the loss of a batch is

        sum over examples of  CE within the task's rows + ins_weight L_ins + pro_weight L_pro,

    the contrastive losses (`core.instance_contrast`, `core.prototype_contrast`) of queries r, an MLP of the mean over
    the tokens that the base, without adapters, gives out. In evaluation the prototype of the highest r.z_t is the task:
    its adapters are taken, and no row of another task can win. So a pass of the base stands in front of each.

    A run reports on val and test which share of the examples finds its task (`retrieved`), and the accuracy where it is
    told (`known`). An example of another task has `min z - 30` at its class, so that its loss is 30 at least.

    A new task starts from the file of others with `--initial-adapter FILE`: a run on it alone, with a prototype and a
    head of its own and the hypernetwork as it was trained, which `hypernetwork_lr_ratio` 0 freezes. That is our
    reading: published code for few shots was not found.

    With the task fixed its adapters are plain ones: `capaboost export RUN --format adapter --task NAME`. There are no
    masks, as none of these matrices is trained that could be masked. At step 0 the model is near the base, not it.

    Source: PHA (EMNLP 2023), arXiv 2310.11670, for texts and T5. Deviations: InfoNCE has the positive in its
    denominator, which is left out there; weights are made once for each task, not each example; all 12 layers are made
    (there the decoder's, beside plain adapters in the encoder). Our reading, as its code was not found for it: the
    query of an image, retrieval at test time, and relu. One task has no retriever, as there is nothing to retrieve.
    """

    name: ClassVar[str] = "pha"
    why_no_masks: ClassVar[str] = "no matrix is trained that could be masked"
    starts_as_base: ClassVar[bool] = False
    # not measured; published for texts: 3e-4; a step moves each number that is made by about 50 times the rate
    usual_lr: ClassVar[float] = 1e-3
    measures: ClassVar[tuple[str, ...]] = ("retrieved", "known")
    bottleneck: int = option(8, "width of the adapter", low=1)
    task_classes: tuple[int, ...] | None = option(
        None,
        "classes of each task, in the order of the head's rows; none: one task; a run takes those of its data",
        low=1,
    )
    ins_weight: float = option(0.1, "of the contrast between examples", low=0, compared=False)
    pro_weight: float = option(0.1, "of the contrast with prototypes", low=0, compared=False)
    temperature: float = option(0.1, "of both contrasts", above=0, compared=False)
    hypernetwork_lr_ratio: float = option(
        1.0, "learning rate of the hypernetwork over that of prototypes and layers; 0: frozen", low=0, compared=False
    )
    init_seed: int = option(0, "seed of the start values; in a run that of the run", compared=False)
    targets: tuple[str, ...] = option(
        ("mlp",), "roles or name patterns of sub-layers, or of whole blocks", compared=False
    )

    @classmethod
    def label(cls, record: Mapping[str, Any]) -> str:
        """With the number of tasks: `pha w8 3 tasks`."""
        tasks = record.get("task_classes") or ()
        return f"{super().label(record)} {len(tasks)} tasks" if len(tasks) > 1 else super().label(record)

    def for_tasks(self, classes: Sequence[int]) -> Method:
        """With the numbers of classes of the data's tasks.

        Raises ValueError where others were given.
        """
        if self.task_classes not in (None, tuple(classes)):
            raise ValueError(
                f"task_classes of method 'pha' is {self.task_classes}, and the data have {tuple(classes)}: leave it out"
            )
        return replace(self, task_classes=tuple(classes))

    def build(self, model: nn.Module, anatomy: core.Anatomy) -> Iterator[tuple[str, core.Wrapper]]:
        """A wrapper for each sub-layer; of several tasks one for the first block and one for the head, too.

        Layers of another width have a hypernetwork of their own. Raises ValueError for a target that matches nothing;
        of several tasks, for a model whose blocks or head are not known, or a head of another number of classes.
        """
        choice = core.TaskChoice(self.task_classes) if self.task_classes and len(self.task_classes) > 1 else None
        if choice is not None:
            self._check_tasks(model, anatomy)
        hypernetworks: dict[tuple[int, int], core.Hypernetwork] = {}
        for name, places in core.find_parts(model, self.targets, anatomy, use="parallel").items():
            base = core.get(model, name)
            in_features, out_features = core.features(base, name)
            device = core.device_and_dtype(base)
            fed_with = "residual" if places[0].site.only == "parallel" else "input"
            widths = (in_features if fed_with == "input" else out_features, out_features)
            if widths not in hypernetworks:
                hypernetworks[widths] = self._hypernetwork(widths, choice, model, anatomy).to(**device)
                if choice is not None and len(hypernetworks) > 1:
                    raise ValueError(
                        f"the targets of pha have several widths, {', '.join(map(str, hypernetworks))}: of several "
                        "tasks one hypernetwork makes all adapters, which are of one width"
                    )
            made = core.GeneratedAdapter(hypernetworks[widths], choice, init_seed=self.init_seed, path=name)
            yield name, core.Adapted(base, made.to(**device), fed_with)
        if choice is not None:
            yield from self._retrieval(model, anatomy, next(iter(hypernetworks.values())), choice)

    def _check_tasks(self, model: nn.Module, anatomy: core.Anatomy) -> None:
        """Raises ValueError for a model in which tasks cannot be retrieved, or whose head has other rows."""
        if anatomy.retrieving is None:
            raise ValueError(
                f"no retrieval of tasks is known for {type(model).__name__}: of several tasks pha takes ViTs of timm "
                "with plain blocks"
            )
        head = core.get(model, anatomy.head[0]) if len(anatomy.head) == 1 else None
        rows = core.shape_of(head)[0] if head is not None and core.is_linear(head) else None
        if rows != sum(self.task_classes or ()):
            classes = " + ".join(map(str, self.task_classes or ()))
            raise ValueError(
                f"pha has heads of {classes} classes in one linear layer, and the head of this {type(model).__name__} "
                f"has {rows or 'none'}: leave --num-classes out"
            )

    def _hypernetwork(
        self, widths: tuple[int, int], choice: core.TaskChoice | None, model: nn.Module, anatomy: core.Anatomy
    ) -> core.Hypernetwork:
        several = {}
        if choice is not None:
            several = {"tasks": choice.count, "features": core.shape_of(core.get(model, anatomy.head[0]))[1]}
        path = f"pha {widths}"
        return core.Hypernetwork(*widths, self.bottleneck, init_seed=self.init_seed, path=path, **several)

    def _retrieval(
        self, model: Any, anatomy: core.Anatomy, hypernetwork: core.Hypernetwork, choice: core.TaskChoice
    ) -> Iterator[tuple[str, core.Wrapper]]:
        """The wrappers of the first block and of the head."""
        assert anatomy.retrieving is not None
        first, *others = (place.name for place in core.find(model, "block", anatomy))
        base, head = core.get(model, first), core.get(model, anatomy.head[0])
        choice.to(core.device_and_dtype(base)["device"])
        behind = [*(core.get(model, name) for name in others), model.norm]
        yield first, anatomy.retrieving(base, behind, hypernetwork, choice)
        yield anatomy.head[0], core.TaskRows(head, choice)

    def alone(self, tensors: Mapping[str, Tensor], task: int) -> tuple[Method, dict[str, Tensor]]:
        """A plain adapter, of scale 1."""
        plain: dict[str, Tensor] = {}
        for slot, adapters in core.generated(tensors).items():
            down, down_bias, up, up_bias = (made[task].contiguous() for made in adapters)
            branch = {"down.weight": down, "down_bias": down_bias, "up.weight": up, "up_bias": up_bias}
            plain |= {f"{slot}.branch.{name}": tensor for name, tensor in branch.items()}
        options = {"bottleneck": self.bottleneck, "targets": self.targets, "scale": 1.0, "activation": "relu"}
        return make_method("adapter", **options, num_branches=1, density=1.0), plain

    def inherits(self, name: str) -> bool:
        """All but the prototypes, and the retriever that knows them: a new task has one of its own."""
        return not name.endswith(".prototypes") and ".retriever." not in name

    def learning_rates(self, model: nn.Module) -> Iterator[tuple[nn.Parameter, float]]:
        """What makes adapters of prototypes, at its ratio."""
        for module in model.modules() if self.hypernetwork_lr_ratio != 1 else ():
            if isinstance(module, core.Hypernetwork):
                for name, parameter in module.named_parameters():
                    if not name.startswith(("prototypes", "retriever.")):
                        yield parameter, self.hypernetwork_lr_ratio

    # of several tasks, in training

    def stages(self, job: Any) -> Sequence[Stage]:
        """None; refuses before it begins what several tasks do not go with.

        Raises ValueError for targets that are no single class.
        """
        if _choice_in(job.model) is not None:
            for name in ("smoothing", "mixup", "cutmix"):
                if getattr(job.config, name, 0):
                    raise ValueError(
                        f"--{name} spreads a target over the classes of all tasks, and pha trains the rows of one: "
                        "leave it out"
                    )
        return ()

    def knowing(self, model: nn.Module, targets: Tensor) -> AbstractContextManager[None]:
        """The model takes the task of each label."""
        choice = _choice_in(model)
        return nullcontext() if choice is None else choice.knowing(targets)

    def losses(self, forward: Pass, inputs: Any, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The contrasts of the queries."""
        import torch

        choice = _choice_in(forward.model)
        if choice is None:
            return None
        assert choice.pooled is not None
        assert choice.tasks is not None
        (hypernetwork,) = (module for module in forward.model.modules() if isinstance(module, core.Hypernetwork))
        assert hypernetwork.retriever is not None
        queries, tasks = hypernetwork.retriever(choice.pooled), torch.where(targets >= 0, choice.tasks, -1)
        between = core.instance_contrast(queries, tasks, temperature=self.temperature)
        towards = core.prototype_contrast(queries, hypernetwork.prototypes, tasks, temperature=self.temperature)
        return (self.ins_weight * between + self.pro_weight * towards).sum()

    def count(self, forward: Pass, inputs: Any, outputs: Tensor, targets: Tensor) -> Counts:
        """Examples whose task is found, and those that are right where it is known; in per cent."""
        choice, real = _choice_in(forward.model), targets >= 0
        number = int(real.sum())
        found, told = real, outputs
        if choice is not None:
            found = real & (choice.of_class[outputs.argmax(1)] == choice.of_class[targets.clamp(min=0)])
            with choice.knowing(targets):
                told = forward(inputs)
        right = real & (told.argmax(1) == targets)
        return {"retrieved": (100 * int(found.sum()), number), "known": (100 * int(right.sum()), number)}


def _choice_in(model: nn.Module) -> core.TaskChoice | None:
    return next((module for module in model.modules() if isinstance(module, core.TaskChoice)), None)
