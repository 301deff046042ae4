"""JSON schemas of configurations: editors complete, explain and check YAML files by them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pydantic
from pydantic.json_schema import GenerateJsonSchema

from rechub_ray.balancing import BALANCING
from rechub_ray.config import RunConfig
from rechub_ray.errors import ConfigError
from rechub_ray.export.index import INDEXES
from rechub_ray.losses import LOSSES
from rechub_ray.metrics import METRICS
from rechub_ray.models import MODELS
from rechub_ray.negatives import NEGATIVES
from rechub_ray.optimizers import OPTIMIZERS
from rechub_ray.preparation.recipe import Recipe
from rechub_ray.reference import component, sections
from rechub_ray.registry import Registry
from rechub_ray.schedules import SCHEDULES
from rechub_ray.sweeps.schedulers import SCHEDULERS
from rechub_ray.sweeps.sweep import Sweep
from rechub_ray.tracking import TRACKERS

Kind = Literal["run", "sweep", "recipe"]
Schema = dict[str, Any]

_COMPONENTS: dict[str, Registry[Any]] = {
    "model": MODELS,
    "loss": LOSSES,
    "balancing": BALANCING,
    "negatives": NEGATIVES,
    "metric": METRICS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "tracker": TRACKERS,
    "index": INDEXES,
}
# keys of RunConfig that hold components, alone or in a list
_ONE = {"model": "model", "balancing": "balancing"}
_SEVERAL = {
    "losses": "loss", "metrics": "metric", "negatives": "negatives", "optimizers": "optimizer", "trackers": "tracker",
}  # fmt: skip
_TEXTS: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
_NULL: Schema = {"type": "null"}


def json_schema(kind: Kind, *, imports: Sequence[str] = ()) -> Schema:
    """Return the JSON schema of a run's configuration, of a sweep file or of a recipe.

    It takes what the commands take, in every form that they take; what only the data can tell (names of columns and
    labels, whether parts fit) is for `rechub-ray validate`.

    Args:
        kind: `run`, `sweep` or `recipe`.
        imports: modules with components of one's own, whose names and arguments it then knows.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for module in imports:
        try:
            importlib.import_module(module)
        except Exception as error:
            raise ConfigError(f"cannot import '{module}'", got=f"{type(error).__name__}: {error}") from None
    made = {"run": _run, "sweep": _sweep, "recipe": _recipe}[kind]()
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"rechub_ray: {kind}", **made}


def _run() -> Schema:
    schema = _of(RunConfig)
    defs, keys = schema["$defs"], schema["properties"]
    defs |= {name: _component(name) for name in _COMPONENTS}
    for key, name in _ONE.items():
        keys[key] = {"description": keys[key]["description"], **_or_null(_ref(name), key != "model")}
    for key, name in _SEVERAL.items():
        several = {"anyOf": [_ref(name), {"type": "array", "items": _ref(name)}, _NULL]}
        keys[key] = {"description": keys[key]["description"], **several}
    _change(defs["ExportSection"], "index", _or_null(_ref("index")))
    _change(defs["TrainSection"], "freeze", _TEXTS)
    _change(defs["DataSection"], "train", _TEXTS)
    _change(schema, "init_resize", {"enum": ["error", "copy_overlap", "copy-overlap"]})
    return schema


def _sweep() -> Schema:
    schema, run = _of(Sweep), _run()
    defs = schema["$defs"]
    defs |= run.pop("$defs")
    run.pop("required")  # `overrides` may bring the model
    defs["run"] = run
    _change(schema, "base", {"anyOf": [{"type": "string"}, _ref("run")]})
    search = defs["Search"]["properties"]["name"]["enum"]
    _change(schema, "search", {"anyOf": [{"enum": search}, _ref("Search")]})
    for name, form in SCHEDULERS.items():
        _chosen_by(defs[form.__name__], "name", name)
    forms = [_ref(form.__name__) for form in SCHEDULERS.values()]
    _change(schema, "scheduler", {"anyOf": [{"enum": list(SCHEDULERS)}, *forms]})
    objective = {"anyOf": [{"type": "string"}, _ref("Objective")]}
    _change(schema, "objectives", {"type": "array", "items": objective})
    return schema


def _recipe() -> Schema:
    schema = _of(Recipe)
    defs = schema["$defs"]
    features = [part for part in sections(Recipe) if part.path == "features.N"]
    splits = [part for part in sections(Recipe) if part.path == "split"]
    for part in [*features, *splits]:
        key, value = part.variant.split(": ")
        _chosen_by(defs[part.form.__name__], key, value)
    for part in features:
        form = defs[part.form.__name__]
        name = form["properties"]["name"]
        form["properties"]["columns"] = {
            "type": "array", "items": {"type": name["type"]}, "description": "a feature for each of these columns"
        }  # fmt: skip
        form["required"] = [key for key in form["required"] if key != "name"]
        form["anyOf"] = [{"required": ["name"]}, {"required": ["columns"]}]
    one_of = {"anyOf": [_ref(part.form.__name__) for part in features]}
    for place in (schema, defs["Items"]):
        _change(place, "features", {"type": "array", "items": one_of})
    _change(schema, "split", {"anyOf": [*(_ref(part.form.__name__) for part in splits), _NULL]})
    file: Schema = {"anyOf": [{"type": "string"}, _ref("File")]}
    files: Schema = {"anyOf": [*file["anyOf"], {"type": "array", "items": file}]}
    _change(schema, "files", {"anyOf": [*files["anyOf"], {"type": "object", "additionalProperties": files}]})
    _change(schema, "time_format", _TEXTS)
    scalar: Schema = {"type": ["string", "number", "boolean"]}
    values = {"anyOf": [scalar, {"type": "array", "items": scalar}]}
    _change(defs["ByColumn"], "values", {"type": "object", "additionalProperties": values})
    _change(defs["ByTime"], "starts", {"type": ["object", "null"], "additionalProperties": scalar})
    return schema


class _Generator(GenerateJsonSchema):
    def handle_invalid_for_json_schema(self, schema: Any, error_info: str) -> Schema:
        return {}  # what a function checks may be anything here


def _of(form: type[pydantic.BaseModel]) -> Schema:
    """Return the schema of a pydantic model with the documentation of its keys."""
    schema: Schema = _cleaned(form.model_json_schema(schema_generator=_Generator))
    defs: dict[str, Schema] = schema.setdefault("$defs", {})
    for part in sections(form):
        node = schema if part.form is form else defs[part.form.__name__]
        node["description"] = part.summary
        for key in part.keys:
            node["properties"][key.name.rpartition(".")[2]]["description"] = key.meaning
    return schema


def _component(kind: str) -> Schema:
    """Return the schema of one component: its name, or a mapping of its name and arguments.

    A name with capitals, a dot or an @ is taken for one: names are compared in any case, `torch.optim.RAdam` and
    `recall@10` are names.
    """
    registry, known, rules = _COMPONENTS[kind], [], []
    for name in registry.names():
        names = [name, *registry.aliases(name)]
        form = _cleaned(registry.form(name).model_json_schema(schema_generator=_Generator))
        arguments = form.get("properties", {})
        described = component(registry, name)
        for key in described.arguments:
            if key.meaning:
                arguments[key.name]["description"] = key.meaning
        if kind == "metric" and f"{name}_at_k" in registry.names():  # `{name: recall, k: 10}`
            more = registry.form(f"{name}_at_k").model_json_schema(schema_generator=_Generator)
            arguments = {**_cleaned(more)["properties"], **arguments}
        stem = name.removesuffix("_at_k")
        if kind == "metric" and stem not in registry.names():
            names.append(stem)
        if kind == "model" and "hidden_units" in arguments:
            arguments |= {key: {"type": "object"} for key in ("mlp", "mlp_params") if key not in arguments}
        known += [one for one in names if one not in known]
        required = ["name", *form.get("required", [])]
        summary = described.parts[""].partition("\n")[0]
        keys = {"name": {"description": summary}, **_BESIDE.get(kind, {}), **arguments}
        rules.append(
            {
                "if": {"properties": {"name": {"enum": names}}, "required": ["name"]},
                "then": {"properties": keys, "required": required, "additionalProperties": False},
            }
        )
    name_of: Schema = {"anyOf": [{"enum": known}, {"type": "string", "pattern": "[A-Z.@]"}]}
    node = {"type": "object", "required": ["name"], "properties": {"name": name_of}, "allOf": rules}
    return {"anyOf": [*name_of["anyOf"], node]}


def _cleaned(node: Any, *, is_names: bool = False) -> Any:
    """Return a schema without pydantic's titles and discriminators, and with whole numbers for names of columns."""
    if isinstance(node, list):
        return [_cleaned(one) for one in node]
    if not isinstance(node, dict):
        return node
    kept = {
        key: _cleaned(value, is_names=key in ("properties", "$defs") and not is_names)
        for key, value in node.items()
        if is_names or key not in ("title", "discriminator")
    }
    if not is_names and kept.get("pattern") == _COLUMN and kept.get("type") == "string":
        kept["type"] = ["string", "integer"]
    return kept


_COLUMN = r"^[^/\\\x00]+$"


def _change(node: Schema, key: str, new: Schema) -> None:
    """Replace a property, but for its documentation and default."""
    old = node["properties"][key]
    kept = {name: old[name] for name in ("description", "default") if name in old}
    node["properties"][key] = {**new, **kept}


def _chosen_by(node: Schema, key: str, value: str) -> None:
    node["properties"][key] = {"const": value}
    node["required"] = [key, *(name for name in node.get("required", []) if name != key)]


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _or_null(node: Mapping[str, Any], nullable: bool = True) -> Schema:
    return {"anyOf": [node, _NULL]} if nullable else {"anyOf": [node]}


_LIMIT: Schema = {"type": ["number", "null"], "exclusiveMinimum": 0}
# keys of a component's node that are not its own
_BESIDE: dict[str, Schema] = {
    "optimizer": {
        "params": {**_TEXTS, "description": "patterns of the names of the parameters that it updates; the first wins"},
        "schedule": {**_or_null(_ref("schedule")), "description": "of its learning rate"},
        "clip_norm": {**_LIMIT, "description": "largest norm of its parameters' gradients together"},
        "clip_value": {**_LIMIT, "description": "largest absolute value of an entry of these"},
        "task_specific_lr": {
            "type": ["object", "null"], "additionalProperties": {"type": "number"},
            "description": "learning rates of what belongs to one label, by label",
        },
    }
}  # fmt: skip
