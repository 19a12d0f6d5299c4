"""Writes docs/reference.md from the code: `make docs`.

Keys, commands, exit codes, metrics and tags come from the code. What they mean is written here, and tests compare the
names here with the code's.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple
from pathlib import Path

import click
from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from pipeline.__main__ import commands
from pipeline.config.axes import AXES
from pipeline.config.params import Params, load
from pipeline.errors import STOPPED
from pipeline.metrics import COST, METRICS, Metric
from pipeline.system.kernels import DEFAULTS, PINS
from pipeline.tracking.runs import HIDDEN, MACHINERY
from pipeline.tracking.seals import TAGS as SEALED
from pipeline.tracking.tracker import INPUT_WRONG, STORE_LOST

REPOSITORY = Path(__file__).parent.parent
PAGE = REPOSITORY / "docs/reference.md"
WIDTH = 110  # of the commands' help
RANGES = "; or ranges"  # how the text about ranges and samples begins, which docs/sweeps.md has in full
WORDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}

KEYS = {
    "data.source": "the table",
    "data.features": "the columns that predict",
    "data.target": "the column that they predict",
    "data.split.method": "how rows are held out for testing",
    "data.split.folds": "kfold: the number of folds; as many as rows is leave-one-out",
    "data.split.test_fraction": "holdout: the fraction of the rows held out for testing",
    "data.split.seed": "decides which rows go where",
    "data.split.final_test": "the fraction of the rows that only champions are measured on; 0 sets none aside",
    "data.standardize": "scales each feature by the mean and standard deviation of its training rows",
    "data.exact": "refuses numbers that float32 changes, such as 16777217",
    "variants": "the models to train: files in pipeline/variants",
    "train.epochs": "passes over the training rows",
    "train.init": "initial parameters: zeros, or nn.Linear's own, drawn from the run's seed",
    "train.device": "where runs train",
    "train.optimizer": "how a gradient becomes a step",
    "train.momentum": "momentum and nesterov: the share of the last step that is added to the next",
    "train.betas": "adam and adamw: the decay of the averages of the gradient and of its square",
    "train.eps": "adam and adamw: added to the denominator",
    "train.weight_decay": "adamw decays the weights themselves, the others add it to the gradient",
    "train.schedule": "how lr changes over the epochs",
    "train.step_every": "step: the number of epochs after which lr is multiplied by step_factor",
    "train.step_factor": "step: the factor",
    "train.loss": "what training minimizes; the curve is the mean squared error in any case",
    "train.huber_delta": "huber: the error from which the loss grows linearly",
    "train.stop.patience": "ends a fit whose curve has not fallen by more than min_delta for so many epochs; 0: never",
    "train.stop.min_delta": "the fall that counts",
    "train.nested": "estimates what choosing the best costs, by nested cross-validation",
    "sweep.batch_size": "axis: the rows of a minibatch; full takes all training rows",
    "sweep.lr": "axis: the learning rate",
    "sweep.seed": "axis: the seed of initial parameters and of the order of rows",
    **{f"sweep.{axis.name}": f"axis; empty: train.{axis.name}" for axis in AXES if axis.default is not None},
    "sweep.only": "keeps only the runs that match one of these rules",
    "sweep.skip": "drops the runs that match one of these rules",
    "sweep.search.method": "how configurations are proposed; none trains all combinations",
    "sweep.search.trials": "how many configurations are proposed",
    "sweep.search.rounds": "in how many rounds they are proposed; halving: at how many rungs the worse half stops",
    "sweep.search.metric": "what scores a configuration",
    "sweep.search.seed": "the seed of the proposals",
    "evaluate.metric": "what ranks configurations and chooses the champion",
    "evaluate.choose": "one_se takes the least trained configuration within one standard error of the best",
    "track.experiment": "the MLflow experiment that runs are stored in",
    "track.points": "the most points of a stored curve",
}

VARIABLES = {
    "PIPELINE_ENGINE": "where stacks train: `here` (in the stage's process), `workers` (in processes) or `ray` (on a "
    "cluster). Unset: workers, if the work is large enough",
    "PIPELINE_WORKERS": "how many worker processes train, 1 to 1024. Unset: the number of cores, or of stacks "
    "if there are fewer",
    "PIPELINE_KERNELS": "`native` leaves the choice of kernels to the libraries; `default` pins the path without AVX2. "
    "Unset: the path with AVX2, where the processor has it. [Machines](machines.md#the-same-bits)",
    "PIPELINE_RETRAIN": "`1` trains every run again, also those whose records DVC's cache has",
    "PIPELINE_OPTUNA_STORAGE": "where a search stores a copy of its study, such as `sqlite:////home/me/studies.db`",
    "PIPELINE_SUMMARY": "`no` ends the stage evaluate without printing the leaderboard; `make repro` sets it, "
    "because it prints the leaderboard itself",
    "PIPELINE_UI": "the address that links to MLflow's pages start with. Unset: the tracking server, or "
    "`http://127.0.0.1:5000`",
    "MLFLOW_TRACKING_URI": "the store. Unset: `mlflow.db` in the repository. "
    "[Records](records.md#where-runs-are-stored)",
    "MLFLOW_TRACKING_USERNAME": "the user name for a server that asks for one",
    "MLFLOW_TRACKING_PASSWORD": "the password for that user",
    "MLFLOW_TRACKING_TOKEN": "the token for a server that asks for one",
    "MLFLOW_REGISTRY_URI": "where models are registered, if not in the store",
    "MLFLOW_RUN_ID": "must not be set: MLflow's fluent calls would write into that run. `pipeline doctor` warns",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "how many seconds a stage waits for a server",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "how often MLflow repeats a request; the pipeline repeats it as well",
    "MLFLOW_DISABLE_TELEMETRY": "MLflow sends no usage data",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "MLflow's own progress bars",
    "MLFLOW_LOGGING_LEVEL": "how much MLflow logs",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "MLflow prints no links of its own",
    "MLFLOW_AUTH_CONFIG_PATH": "MLflow's authentication, which `pipeline ui --host` needs: the path of basic_auth.ini",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "MLflow's authentication: a long random text",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "MLflow's authentication: the administrator's password, for the first start",
    "MLFLOW_BACKEND_STORE_URI": "set by `pipeline ui` for the server that it starts; your own value has no effect",
    "DVC_ROOT": "set by DVC for its stages: the repository, also in an experiment's copy",
    "DVC_STAGE": "set by DVC for its stages: the stage's name",
    "DVC_EXP_NAME": "set by DVC in experiments: the experiment's name",
    "DVC_EXP_BASELINE_REV": "set by DVC in experiments: the commit that the experiment started from",
    "RAY_ADDRESS": "the Ray cluster to train on, HOST:PORT. Unset: one on this machine that ends with the stage",
    "RAY_USAGE_STATS_ENABLED": "Ray's usage statistics. Unset: 0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "set to 0, which is Ray's coming default, to silence a warning",
}

STAGES = (
    (0, "the stage is done"),
    (1, "the input is wrong, a file cannot be read or written (a message says which), or an unexpected error occurred"),
    (2, "`python -m pipeline.train` was started without the name of a variant"),
    (STOPPED, "the stage was stopped, by Ctrl-C, SIGTERM, or because its DVC is gone"),
)
COMMANDS = (
    (0, "done"),
    (1, "the input is wrong, or the store fails; `reproduce`: a run differs; `doctor`: something is wrong"),
    (2, "unknown commands, options or values"),
    (STOPPED, "stopped by Ctrl-C"),
)
STORING = (
    (0, "everything is stored"),
    (STORE_LOST, "the store fails; training goes on, and `pipeline sync` stores the runs later"),
    (INPUT_WRONG, "the input is wrong; the stage ends with 1"),
)

# How a metric is measured on other rows than the tested ones; its formula stays.
ELSEWHERE = {
    "final": "the final rows, predicted by the champion's first fits; mean over the seeds",
    "nested": "the tested rows, each predicted by the configuration that was chosen without its fold; mean over the "
    "seeds",
}
OVER = " over "
COSTS = "how much worse nested/X is than the champion's cv/X, where cv/X is evaluate.metric"
OF_SWEEPS = {
    "sweep/runs": "the number of runs",
    "sweep/diverged": "the number of runs that diverged",
    "champion/runs": "the number of the champion's runs, one for each seed",
}

# tag -> the runs that carry it, meaning
TAGS = {
    "role": ("all", "`run`, or `sweep` for the parent of a sweep's runs"),
    "fingerprint": ("run", "hash of the run's data, configuration and code; it joins the run to DVC's outs"),
    "sweep": ("all", "the sweep's id: hash of its runs' fingerprints or, for a search, of its specification"),
    "mlflow.parentRunId": ("run", "the run of the sweep"),
    "data": (
        "sweep",
        "the label of the data: the table's name and a hash of content, target and split; runs have it as a param",
    ),
    "data_md5": ("all", "md5 of the prepared data, as in dvc.lock"),
    "source_md5": ("all", "md5 of the table"),
    "weights_md5": ("run", "md5 of the weights file"),
    "record_format": ("run", "the format of the record"),
    "architecture": ("run", "the processor's architecture; a restored run lacks it"),
    "kernels": ("run", "the kernels that the run was computed with: avx2, default or native; a restored run lacks it"),
    "torch": ("run", "the version of torch; a restored run lacks it"),
    "git_commit": ("all", "the commit of the code"),
    "git_dirty": ("all", "whether the working tree differed from the commit"),
    "git_changes": ("all", "if it did: the artifact of the sweep that holds the difference"),
    "dvc_stage": ("all", "DVC's stage"),
    "dvc_experiment": ("all", "DVC's experiment, if it was one"),
    "dvc_baseline": ("all", "the commit that the experiment started from"),
    "dvc_grid": ("all", "the keys of params.yaml that this experiment changes, and the commit that it starts from"),
    "diverged": ("run", "which fit diverged, and in which epoch"),
    "left": ("run", "which fits ended early, why and when"),
    "went_wrong": ("all", "what view *What went wrong* lists: diverged, failed, killed, or contradicts another run"),
    "error": ("all", "why the run was ended before it was complete"),
    "contradicts": ("run", "the run that has the same fingerprint and another result"),
    "restored": ("all", "when the run was stored from DVC's outs, not by the stage that trained it"),
    "confirmed": ("run", "how many repeats gave the same bits"),
    "confirmed_at": ("run", "when the last of them did"),
    "confirmed_within_rounding": ("run", "how many repeats on other machines agreed within rounding"),
    "confirmed_within_rounding_at": ("run", "when the last of them did"),
    "champion": ("sweep", "the best configuration"),
    "seal": ("all", "hash of status, times, params, last metrics, datasets and the sealed tags"),
    "seal_files": ("all", "run: hash of its curve and weights; sweep: hash of the list of its runs"),
    "seal_confirmed": ("run", "hash of the tags that count repeats"),
    "host": ("all", "the machine of the process that writes the run"),
    "pid": ("all", "that process"),
    "pid_started": ("all", "when that process started, in seconds since 1970"),
    "heartbeat": ("all", "when that process was last alive, in seconds since 1970"),
    "attempt": ("all", "the request that created the run, so that a repeated request creates no second run"),
    "note_md5": ("sweep", "md5 of the description as the pipeline wrote it; one that a person changed is left alone"),
    "mlflow.runName": ("all", "the name on MLflow's pages"),
    "mlflow.note.content": ("all", "the description on MLflow's pages"),
    "mlflow.user": ("all", "the user who ran the stage"),
    "mlflow.source.name": ("all", "DVC's stage, for MLflow's pages"),
    "mlflow.source.type": ("all", "LOCAL"),
    "mlflow.source.git.commit": ("all", "the commit, for MLflow's pages"),
}


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


def page() -> str:
    """Return the reference, in Markdown."""
    sections = {
        "Keys of params.yaml": keys(),
        "Commands": helps(),
        "Variables": variables(),
        "Exit codes": exit_codes(),
        "Metrics": metrics(),
        "Tags": tags(),
    }
    contents = [f"- [{title}](#{title.lower().replace(' ', '-').replace('.', '')})" for title in sections]
    head = ["# Reference", "[Documentation](README.md)", "", "Written by `make docs` from the code.", "", *contents]
    body = [line for title, lines in sections.items() for line in ("", f"## {title}", *lines)]
    return "\n".join([*head, *body, ""])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out rows as a table."""
    cells = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def keys() -> Iterator[str]:
    """List the keys of params.yaml: what each means and takes."""
    yield "A key without a default must be in the file. A key that is not listed here is refused. An axis is one of the"
    yield "things that a [sweep](sweeps.md#axes) varies."
    yield ""
    shipped = load(REPOSITORY / "params.yaml")
    rows = [
        (f"`{key}`", KEYS[key], takes(field), default(field), f"`{written(value(shipped, key))}`")
        for key, field in fields(Params)
    ]
    yield from table(["key", "meaning", "takes", "default", "in params.yaml"], rows)


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """List a model's keys with those of its blocks, joined by dots."""
    for name, field in model.model_fields.items():
        block = field.annotation
        if isinstance(block, type) and issubclass(block, BaseModel):
            yield from fields(block, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", field


def takes(field: FieldInfo) -> str:
    """Describe what a key takes, with the bounds that the description leaves out."""
    text, ranges, _ = (field.description or "").partition(RANGES)
    bounds = [(WORDS[type(one)], *astuple(one)) for one in field.metadata if type(one) in WORDS]
    more = [f"{words} {written(bound)}" for words, bound in bounds if not is_named(words, bound, text)]
    return "".join(
        [text, *(f", {one}" for one in more), "; [ranges and samples](sweeps.md#ranges-and-samples)" * bool(ranges)]
    )


def is_named(words: str, bound: float, text: str) -> bool:
    """Check whether a description names a bound; a whole number below 2**32 is one up to 4294967295."""
    said = {written(bound), written(bound - 1)} if words == "below" and isinstance(bound, int) else {written(bound)}
    return any(one in text for one in said)


def default(field: FieldInfo) -> str:
    """Return a key's default as it is written in params.yaml."""
    return "" if field.is_required() else f"`{written(field.get_default())}`"


def value(params: Params, key: str) -> object:
    """Return the value of a key."""
    found: object = params
    for name in key.split("."):
        found = getattr(found, name)
    return found


def written(value: object) -> str:
    """Write a value as params.yaml does, on one line."""
    if isinstance(value, list):
        return f"[{', '.join(map(written, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return re.sub(r"e\+?(-?)0*", r"e\1", str(value)) if isinstance(value, float) else str(value)


def helps() -> Iterator[str]:
    """Print each command's help."""
    yield "What a person runs besides DVC; each command works in any folder of the repository."
    context = click.Context(commands, info_name="pipeline", help_option_names=["-h", "--help"])
    for name in commands.list_commands(context):
        command = commands.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context, terminal_width=WIDTH)
        yield from ("", f"### pipeline {name}", "```text", command.get_help(own), "```")


def variables() -> Iterator[str]:
    """List the environment's variables."""
    yield "Variables that the pipeline reads, names in a message, or sets if you have not set them."
    yield ""
    rows = [
        (f"`{name}`", meaning, f"`{DEFAULTS[name]}`" if name in DEFAULTS else "") for name, meaning in VARIABLES.items()
    ]
    rows += [("`OMP_NUM_THREADS`", "the number of threads of native kernels", f"`{DEFAULTS['OMP_NUM_THREADS']}`")]
    yield from table(["variable", "meaning", "set to, if unset"], rows)
    yield ""
    pinned = ", ".join(f"`{name}`" for name in PINS["avx2"])
    yield f"The pipeline sets {pinned} to pin its kernels, whatever their values are, unless `PIPELINE_KERNELS=native`."
    yield ""
    yield "The top of the `Makefile` describes its own variables."


def exit_codes() -> Iterator[str]:
    """List the exit codes of stages, commands and the storing process."""
    yield "`dvc repro` itself ends with 255 if a stage ends with another code than 0, and prints that code."
    for title, codes in (
        ("A stage", STAGES),
        ("A command", COMMANDS),
        ("The storing process, which a stage starts", STORING),
    ):
        yield from ("", f"### {title}", *table(["code", "meaning"], [(str(code), meaning) for code, meaning in codes]))


def metrics() -> Iterator[str]:
    """List the metrics."""
    yield "ŷ is a prediction, and y the target. The stage evaluate computes metrics in float64 from a run's weights;"
    yield "train/mse is the last value of its curve. A run's first fit trains on all rows that are not set aside, and"
    yield "each of the others on all but one fold."
    yield ""
    yield from table(["metric", "better", "unit", "formula"], [(f"`{key}`", *rest) for key, rest in figures().items()])
    yield ""
    yield "The standard error (`se`) of `cv/mse` and `cv/mae` is √(Σ_k n_k (e_k − ē)² ÷ (m (K − 1))) over the K folds."
    yield "Fold k has n_k of the m tested rows, and e_k is its mean error, averaged over the seeds first. With a single"
    yield "split, each row counts as a fold. The standard error of `cv/r2` is that of `cv/mse` divided by y's variance."
    yield ""
    yield "The run of a sweep has its champion's metrics, as `champion/METRIC`, the mean over the seeds, and"
    yield "`champion/METRIC std`, their standard deviation; and:"
    yield ""
    yield from table(["metric", "meaning"], [(f"`{key}`", meaning) for key, meaning in OF_SWEEPS.items()])


def figures() -> dict[str, tuple[str, str, str]]:
    """List what is computed: the key, which values are better, the unit (y is the target's), and the formula."""
    found = {metric.key: described(metric) for metric in METRICS}
    for split, rows in ELSEWHERE.items():
        for metric in filter(lambda one: one.of_rows, METRICS):
            better, unit, formula = described(metric)
            found[metric.on(split)] = better, unit, f"{formula.partition(OVER)[0]}{OVER}{rows}"
    return found | {COST: ("lower", "", COSTS)}


def described(metric: Metric) -> tuple[str, str, str]:
    """Say which values of a metric are better, its unit, and its formula, which is its function's docstring."""
    formula = next(filter(None, (metric.of_rows, metric.of_run))).__doc__ or ""
    formula = formula.rstrip(".").replace("y_pred", "ŷ")
    over = f"{OVER}the tested rows, each predicted by the fit that did not train on it" if metric.of_rows else ""
    return "higher" if metric.higher_is_better else "lower", metric.unit.format(target="y"), formula + over


def tags() -> Iterator[str]:
    """List the tags of runs in MLflow."""
    yield f"Tags whose name begins with `{HIDDEN}` are not shown on MLflow's pages. Sealed tags are covered by the"
    yield "[seal](records.md#seals)."
    yield ""
    rows = [
        (
            f"`{HIDDEN if tag in MACHINERY else ''}{tag}`",
            {"all": "run, sweep"}.get(of, of),
            "yes" if tag in SEALED else "",
            meaning,
        )
        for tag, (of, meaning) in TAGS.items()
    ]
    yield from table(["tag", "of", "sealed", "meaning"], rows)


if __name__ == "__main__":
    main()
