"""`capaboost export` and `push`: a finished run as a file that runs without this package, and on the hub."""

from __future__ import annotations

from jsonargparse import Namespace

from .parser import ADAPTER_HELP, MODEL_HELP, WEIGHTS_HELP, Parser, add_option


def export_parser() -> Parser:
    """Which run, in what format, and where to."""
    parser = Parser(
        description="Writes a model on images as ONNX or torch.export program, and compares its logits with those of "
        "the model; or writes one task of a run on several data sets as a plain adapter file."
    )
    parser.add_argument("model", type=str, help=MODEL_HELP)
    parser.add_argument(
        "--output",
        type=str,
        required=True,
        help="file to write: .onnx, .pt2 for torch-export, or .safetensors for adapter",
    )
    text = "onnx (for onnxruntime and OpenVINO), torch-export (for torch.export.load) or adapter"
    parser.add_argument("--format", type=str, default="onnx", help=text, metavar="{onnx,torch-export,adapter}")
    add_option(parser, "--task", str | None, None, "with --format adapter: name of the task")
    text = (
        "pictures, and folders with pictures, to compare the logits on; by default eight of the run's test split, or "
        "random numbers where its data are missing"
    )
    parser.add_argument("--images", type=str, nargs="*", default=[], help=text)
    add_option(parser, "--initial-checkpoint", str | None, None, WEIGHTS_HELP)
    return parser


def export(arguments: Namespace) -> None:
    """Writes it, and says what was compared and where it is."""
    if arguments.task is not None and arguments.format != "adapter":
        raise ValueError(f"--task {arguments.task} is for --format adapter: say that, too")
    if arguments.format == "adapter":
        from ..methods.one_task import export_task
        from ..training.saved import open_source

        source = open_source(arguments.model)
        if source.adapter is None:
            raise ValueError(f"{source.path} is a timm model, without adapters: nothing to export as one")
        print(f"exported: {export_task(source.adapter, arguments.task, arguments.output)}")
        return
    from ..interop.export import export_run

    options = {name: arguments[name] for name in ("format", "images", "initial_checkpoint")}
    path = export_run(arguments.model, arguments.output, note=print, **options)
    print(f"exported: {path}, {path.with_suffix('.json').name} beside it")


def push_parser() -> Parser:
    """Which run, and where to."""
    parser = Parser(description="Uploads adapter file, model card, learning curve and configuration to the hub.")
    parser.add_argument("run", type=str, help=ADAPTER_HELP)
    parser.add_argument("repository", type=str, help="owner/name; created if it does not exist")
    add_option(parser, "--private", bool, False, "create a private repository")
    return parser


def push(arguments: Namespace) -> None:
    """Pushes it, and says where it is and how it is loaded."""
    from ..interop.hub import push_run

    print(f"pushed: {push_run(arguments.run, arguments.repository, private=arguments.private)}")
    print(f'load it: capaboost_vit.create_from_adapter("hf-hub:{arguments.repository.removeprefix("hf-hub:")}")')
