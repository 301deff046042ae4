"""The command line: one command a subparser; what they print and do is imported when one runs."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import json
import logging
import os
import select
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from rechub_ray import interrupt
from rechub_ray.commands.arguments import as_overrides, files, loaded, names
from rechub_ray.errors import ConfigError, RechubError, masked
from rechub_ray.interrupt import Interrupts

if TYPE_CHECKING:
    from rechub_ray.export.onnx import ExportReport

COMMANDS = ("demo", "init", "prepare", "train", "tune", "evaluate", "predict", "recommend", "export", "report",
            "compare", "validate", "list", "schema", "completion")  # fmt: skip
_NO_READER = 141  # what shells report of a command whose output nobody reads any more


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return the exit code: 0, 2 for an error that the user can mend, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    with Interrupts("rechub-ray: interrupted; the same command starts again") as interrupts:
        try:
            _run(arguments, interrupts)
        except BaseException as error:
            # an error after Ctrl-C is a consequence of it
            if not interrupts.is_hit and not isinstance(error, KeyboardInterrupt):
                text = _mendable(error)
                if text is None:
                    raise
                print(f"rechub-ray: {text}", file=sys.stderr)
                return 2
            interrupts.is_hit = True
        if interrupts.is_hit:
            interrupts.say()
            return interrupt.CODE
    return 0


def _run(arguments: Sequence[str], interrupts: Interrupts) -> None:
    options, rest = _parser().parse_known_args(arguments)
    options.overrides = [*getattr(options, "overrides", []), *as_overrides(rest, options.known)]
    options.interrupts = interrupts
    command: Callable[[argparse.Namespace], None] = options.run
    command(options)


def _mendable(error: BaseException) -> str | None:
    """Return the message of an error that the user can mend, or None for a bug."""
    if isinstance(error, RechubError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
        from rechub_ray.files import cannot_write

        return str(cannot_write(error.filename or "a file", error))
    return None


def shim() -> None:
    """Run train.py: `train.py CONFIG ...` trains, `train.py COMMAND ...` does anything else."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] not in (*COMMANDS, "-h", "--help", "--version"):
        arguments = ["train", *arguments]
    _end(main(arguments))


def entry() -> None:
    """Run the `rechub-ray` script."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        output = select.poll()
        output.register(sys.stdout, 0)
        if not output.poll(0):  # another pipe
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read it has enough, as `| head`
        code = _NO_READER
    _end(code)


def _end(code: int) -> None:
    """Exit; after Ctrl-C at once, because what libraries do at an ordinary exit may hang."""
    if code == interrupt.CODE:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        interrupt.leave(code)
    sys.exit(code)


class _Parser(argparse.ArgumentParser):
    """Raises ConfigError where argparse would print its usage and exit; keeps the names of its options."""

    def __init__(self, **settings: Any) -> None:
        self.options: list[str] = []
        super().__init__(**settings)

    def add_argument(self, *names: str, **settings: Any) -> Any:
        self.options += [name for name in names if name.startswith("--") and "_" not in name]
        return super().add_argument(*names, **settings)

    def error(self, message: str) -> Any:
        raise ConfigError(message, hint=f"`{self.prog} --help` shows what it takes.")


class _Version(argparse.Action):
    """Prints the version, which takes a while to look up, where it is asked for alone."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        import rechub_ray

        print(rechub_ray.__version__)
        parser.exit()


@functools.cache
def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="rechub-ray", description="Train recommender models at scale.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    commands = parser.add_subparsers(dest="command", required=True, parser_class=_Parser, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        sub.set_defaults(run=run, known=sub.options)
        return sub

    show = add("demo", _demo, "Train on embedded data whose best score is known, and export checked ONNX.")
    show.add_argument("overrides", nargs="*", default=[], metavar="path=value", help="as in scaling.num_workers=0")
    show.add_argument("--family", choices=("ranking", "multi_task", "retrieval"), default="ranking",
                      help="default: ranking, on 2 Ray workers; the others run in this process")  # fmt: skip
    show.add_argument("--out", metavar="DIR", default="demo", help="where data and run go; default: demo")

    start = add("init", _init, "Write a recipe, a configuration and a sweep to start from, by a look at a raw file.")
    start.add_argument("folder", help="where the files go; none is written over")
    start.add_argument("--data", required=True, metavar="FILE", help="CSV or parquet, compressed or not")
    start.add_argument("--label", metavar="COLUMN", help="default: guessed")

    prepare = add("prepare", _prepare, "Encode raw logs into parquet shards and a schema.")
    prepare.add_argument("recipe", nargs="?", help="YAML recipe, or builtin:NAME as in builtin:frappe")
    prepare.add_argument("overrides", nargs="*", default=[], metavar="path=value", help="as in source=DIR out=DIR")
    prepare.add_argument("--like", metavar="DIR", help="encode by the vocabularies of this data set, or of this run's")
    prepare.add_argument("--adopt", metavar="DIR", help="only add a fingerprint to a data set or run from before them")

    for name, run, text in (
        ("train", _train, "Train, evaluate and export one run."),
        ("validate", _validate, "Do only the checks of `train`: configuration, data, components, resources."),
    ):
        sub = add(name, run, text)
        sub.add_argument("config", help="YAML configuration, or builtin:NAME as in builtin:deepfm_frappe")
        sub.add_argument("overrides", nargs="*", default=[], metavar="path=value", help="as in optimizers.0.lr=0.002")
        sub.add_argument("--edit-config-json", "--edit_config_json", metavar="JSON",
                         help='{"path": value, ...}; EasyRec\'s keys are taken too (docs/easyrec.md)')  # fmt: skip
        sub.add_argument("--model-dir", "--model_dir", metavar="DIR", help="where checkpoints, logs and exports go")
        if name == "train":
            sub.add_argument("--resume", choices=("auto", "must", "never"), default="auto", help="default: auto")
            sub.add_argument(
                "--continue-train", "--continue_train", dest="resume", action="store_const", const="must",
                help="the same as --resume must",
            )  # fmt: skip

    for name, run, text in (
        ("evaluate", _evaluate, "Metrics of a checkpoint on a split."),
        ("predict", _predict, "Predictions of a checkpoint for prepared shards or raw files, as parquet."),
    ):
        sub = add(name, run, text)
        sub.add_argument("checkpoint", help="a run's folder (its best checkpoint) or one step_... folder")
        sub.add_argument(
            "overrides", nargs="*", default=[], metavar="path=value", help="as in data.root=DIR scaling.num_workers=2"
        )
        sub.add_argument("--split", help="train, valid, test, or a folder of shards; default: test")
        if name == "evaluate":
            sub.add_argument("--report", metavar="FILE", help="a page on the evaluation, as in --report test.html")
        if name == "predict":
            sub.add_argument(
                "--raw", nargs="+", action="extend", metavar="FILE",
                help="raw files in place of a split: paths, folders, globs; on_bad_rows=quarantine and other keys of a "
                "recipe that say how rows are read are overrides too",
            )  # fmt: skip
            sub.add_argument(
                "--keep", metavar="COLUMNS", help="columns to carry along, as in user,item; default: the row id"
            )
            sub.add_argument("--out", required=True, metavar="DIR", help="where the parquet files go")
            sub.add_argument("--logits", action="store_true", help="logits instead of probabilities")

    recommend = add("recommend", _recommend, "Items for users, from the files that export writes of a retriever.")
    recommend.add_argument(
        "run_folder", metavar="run", help="a run's folder, whose serving/ is read, or a folder with such files"
    )
    recommend.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="path=value",
        help="as in on_bad_rows=quarantine scaling.num_workers=2",
    )
    recommend.add_argument(
        "--users", nargs="+", action="extend", required=True, metavar="FILE",
        help="raw files of users with their history, or logs: paths, folders, globs; keys of a recipe that say how "
        "rows are read are overrides too",
    )  # fmt: skip
    recommend.add_argument("--k", type=int, default=100, help="items a user; default: 100")
    recommend.add_argument("--exclude", metavar="LIST", help="leave out the items of a list, as in --exclude history")
    recommend.add_argument("--keep", metavar="COLUMNS", help="columns to carry along; default: that of the user")
    recommend.add_argument(
        "--as", dest="form", choices=("lists", "rows"), default="lists", help="a row a user (default), or a row an item"
    )
    recommend.add_argument("--exact", action="store_true", help="compare users with all items, where there is an index")
    recommend.add_argument("--out", required=True, metavar="DIR", help="where the parquet files go")

    export = add("export", _export, "A checkpoint as ONNX, checked against PyTorch with onnxruntime.")
    export.add_argument("checkpoint", help="a run's folder (its best checkpoint) or one step_... folder")
    export.add_argument(
        "--out",
        metavar="FILE",
        help="default: model.onnx in the run's folder, STEP.onnx there for one step_... folder; of a model for "
        "retrieval the folder for both towers and the items' vectors, serving",
    )
    export.add_argument(
        "--index",
        metavar="NAME",
        help="of a model for retrieval: flat, hnsw or ivf, by faiss, or as in '{name: hnsw, m: 48}'; none; "
        "default: export.index of the run, else none, and users are compared with all items",
    )
    export.add_argument(
        "--index-threads",
        type=int,
        default=1,
        metavar="N",
        help="that make it; on 1 (default) it is the same every time",
    )
    export.add_argument("--part", choices=("user", "item"), help="of a model for retrieval one tower, as a file")
    export.add_argument(
        "--inputs", default="encoded", metavar="FORM", help="encoded (ids and scaled numbers; default), or raw values"
    )
    export.add_argument("--logits", action="store_true", help="logits instead of probabilities")
    export.add_argument(
        "--layout", choices=("triton",), help="a model repository of Triton Inference Server, by default in triton/"
    )

    report = add("report", _report, "A page on a run or a sweep, from the files in its folder.")
    report.add_argument("folder", help="a run's folder, or a sweep's")
    report.add_argument("--out", metavar="FILE", help="default: report.html in the folder")

    compare = add(
        "compare", _compare, "Runs side by side, what differs in their configuration first: a table, and a page."
    )
    compare.add_argument("folders", nargs="+", metavar="run", help="runs' folders, 2 to 8")
    compare.add_argument("--out", default="compare.html", metavar="FILE", help="the page; default: compare.html")

    sweep = add("tune", _tune, "Run a sweep; its best model lands in best/ of its folder.")
    sweep.add_argument("sweep", nargs="?", help="YAML sweep file, or builtin:NAME as in builtin:smoke")
    sweep.add_argument("overrides", nargs="*", metavar="path=value", help="as in trials=5 base.data.root=data/mine")
    sweep.add_argument("--resume", metavar="DIR", help="go on with the sweep in this folder")
    sweep.add_argument(
        "--serve", type=int, nargs="?", const=8642, metavar="PORT",
        help="show the sweep's page on 127.0.0.1 as long as it runs; default: 8642, 0: any port that is free",
    )  # fmt: skip
    sweep.add_argument("--sweep-dir", "--sweep_dir", metavar="DIR", help="where everything goes")

    listing = add("list", _list, "Components and their arguments, keys of configurations, files of the package.")
    listing.add_argument(
        "kind",
        nargs="?",
        help="models, losses, ...; keys of a section: data, train, ...; of a file: run, recipe, sweep; the package's "
        "configs, recipes, sweeps",
    )
    listing.add_argument("name", nargs="?", help="one component, with its documentation")

    schema = add("schema", _schema, "The JSON schema of a configuration, for editors (docs/editors.md).")
    schema.add_argument("kind", choices=("run", "sweep", "recipe"), help="of which kind of file")
    schema.add_argument(
        "--imports", nargs="+", default=[], metavar="MODULE", help="modules of your own components, to know them too"
    )

    completion = add("completion", _completion, "Print a script by which a shell completes commands and options.")
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="which shell")
    return parser


def _demo(options: argparse.Namespace) -> None:
    from rechub_ray.commands.demo import demo

    demo(options.family, options.out, options.overrides)


def _init(options: argparse.Namespace) -> None:
    _refuse_overrides(options)
    from rechub_ray.commands.init import init

    print("\n".join(init(options.folder, options.data, label=options.label)))


def _prepare(options: argparse.Namespace) -> None:
    from rechub_ray import config as config_module
    from rechub_ray.preparation import prepare, print_report

    if options.adopt is not None:
        from rechub_ray.runtime.adoption import adopt

        if options.recipe is not None or options.like is not None:
            raise ConfigError("--adopt stands alone", expected=f"rechub-ray prepare --adopt {options.adopt}")
        print(f"{masked(adopt(options.adopt))} has its fingerprint")
        return
    if options.recipe is None:
        raise ConfigError("the recipe is missing", expected="rechub-ray prepare RECIPE [path=value ...]")
    if options.like is not None:
        options.overrides.append(f"like={json.dumps(options.like)}")
    result = prepare(config_module.merge(config_module.read_yaml(options.recipe, what="recipe"), options.overrides))
    print_report(result.stats)
    print(f"\n{len(result.schema.features)} features -> {masked(result.out)}")


def _train(options: argparse.Namespace) -> None:
    same = "the same command" + (" without `--resume never`" if options.resume == "never" else "")
    options.interrupts.line = f"rechub-ray: interrupted; {same} goes on from the last checkpoint"
    config = loaded(options)
    from rechub_ray.runtime.launch import train
    from rechub_ray.runtime.summary import print_result

    print_result(train(config, resume=options.resume))


def _tune(options: argparse.Namespace) -> None:
    from rechub_ray.sweeps import print_sweep, tune

    overrides = list(options.overrides)
    if options.resume is not None and options.sweep is not None:
        overrides.insert(0, options.sweep)  # --resume names the sweep, so the first argument is an override
    if options.sweep_dir is not None:
        overrides.append(f"sweep_dir={options.sweep_dir}")
    source = options.sweep if options.resume is None else None
    directory = options.resume
    if source is not None:
        from rechub_ray.sweeps.sweep import load

        directory = load(source, overrides).directory()
    options.interrupts.line = (
        f"rechub-ray: interrupted; `rechub-ray tune --resume {directory}` goes on from the last checkpoints"
    )
    result = tune(source, overrides, resume=options.resume, verbose=True, serve=options.serve)
    print_sweep(result)
    if not result.is_finished:
        raise KeyboardInterrupt


def _validate(options: argparse.Namespace) -> None:
    config = loaded(options)
    from rechub_ray.runtime.launch import validate

    print(validate(config))


def _evaluate(options: argparse.Namespace) -> None:
    from rechub_ray.runtime.inference import evaluate
    from rechub_ray.runtime.summary import print_metrics

    split = options.split or "test"
    found = evaluate(options.checkpoint, split=split, overrides=options.overrides, report=options.report)
    print_metrics(found, split)
    if options.report is not None:
        print(f"\nreport {masked(options.report)}")


def _predict(options: argparse.Namespace) -> None:
    from rechub_ray.runtime.inference import predict

    raw = None
    if options.raw is not None:
        if options.split is not None:
            raise ConfigError("--raw and --split name two kinds of rows", expected="one of them")
        raw = files(options, options.raw)
    rows = predict(
        options.checkpoint,
        options.out,
        split=options.split or "test",
        raw=raw,
        keep=names(options.keep),
        probabilities=not options.logits,
        overrides=options.overrides,
    )
    print(f"{rows} rows -> {masked(options.out)}")


def _recommend(options: argparse.Namespace) -> None:
    from rechub_ray.runtime.recommend import recommend

    rows = recommend(
        options.run_folder,
        options.out,
        users=files(options, options.users),
        k=options.k,
        keep=names(options.keep),
        exclude=options.exclude,
        form=options.form,
        exact=options.exact,
        overrides=options.overrides,
    )
    print(f"{rows} rows -> {masked(options.out)}")


def _export(options: argparse.Namespace) -> None:
    from rechub_ray.checkpoint import read
    from rechub_ray.defaults import retrieves
    from rechub_ray.export.onnx import default_path, export_onnx

    _refuse_overrides(options)
    if options.layout == "triton":
        _export_triton(options)
        return
    config = read(options.checkpoint, weights=False).config
    if options.part is None and retrieves(config):
        from rechub_ray.export.towers import default_folder, export_towers

        towers = export_towers(
            options.checkpoint,
            options.out or default_folder(options.checkpoint),
            inputs=options.inputs,
            index=config.export.index if options.index is None else _index(options.index),
            index_threads=options.index_threads,
        )
        for tower in towers.towers:
            _print_export(tower)
        print(f"{masked(towers.items)}: vectors of {towers.rows:,} items")
        if towers.index is not None:
            made = towers.index
            print(
                f"{masked(made.path)}: {made.settings['name']}, recall@{made.top} {made.recall:.4f} of {made.queries} "
                f"against all items, made in {made.seconds:.1f} s on {made.threads} thread(s)"
            )
        return
    if options.index is not None:
        raise ConfigError("--index is for a whole export of a model for retrieval, without --part")
    out = options.out or default_path(options.checkpoint, options.inputs, options.part)
    _print_export(
        export_onnx(options.checkpoint, out, inputs=options.inputs, part=options.part, probabilities=not options.logits)
    )


def _export_triton(options: argparse.Namespace) -> None:
    from rechub_ray.export.towers import default_folder
    from rechub_ray.export.triton import FOLDER, export_triton

    for name in ("index", "part"):
        if getattr(options, name) is not None:
            raise ConfigError(
                f"--{name} does not go with --layout triton", hint="Both towers are written, and no items."
            )
    out = options.out or default_folder(options.checkpoint, FOLDER)
    for report in export_triton(options.checkpoint, out, inputs=options.inputs, probabilities=not options.logits):
        _print_export(report)
    print(f"{masked(out)}: a model repository, as in tritonserver --model-repository={masked(out)}")


def _index(text: str) -> Any:
    """Return the index that `--index` names; None for `none`."""
    from rechub_ray.config import parse_override

    value = parse_override(f"index={text}")[1]
    return None if value is None or value == "none" else value


def _print_export(report: ExportReport) -> None:
    print(f"{masked(report.path)}: largest difference from PyTorch {report.max_abs_difference:.2g}")


def _report(options: argparse.Namespace) -> None:
    _refuse_overrides(options)
    from rechub_ray.reports import write_report, write_run_report

    is_sweep = os.path.isfile(os.path.join(options.folder, "sweep.yaml"))
    path = (write_report if is_sweep else write_run_report)(options.folder, options.out)
    print(f"report {masked(str(path))}")


def _compare(options: argparse.Namespace) -> None:
    _refuse_overrides(options)
    from rechub_ray.reports import compare, print_comparison, write_comparison

    found = compare(options.folders)
    path = write_comparison(found, options.out)
    print_comparison(found)
    print(f"\nreport {masked(path)}")


def _list(options: argparse.Namespace) -> None:
    _refuse_overrides(options)
    from rechub_ray.commands.listing import print_listing

    print_listing(options.kind, options.name)


def _schema(options: argparse.Namespace) -> None:
    _refuse_overrides(options)
    from rechub_ray.json_schema import json_schema

    print(json.dumps(json_schema(options.kind, imports=options.imports), indent=1))


def _completion(options: argparse.Namespace) -> None:
    _refuse_overrides(options)
    from rechub_ray.commands.completion import script

    print(script(_parser(), options.shell))


def _refuse_overrides(options: argparse.Namespace) -> None:
    if options.overrides:
        raise ConfigError(f"{options.command} takes no overrides", got=" ".join(options.overrides))


if __name__ == "__main__":
    entry()
