"""CRDs from the models: JSON schema of pydantic → the structural schema Kubernetes accepts.

Owns the translation only; `generate.py` writes the files. Invariants: no `$ref`, `anyOf` or `null` is left; a
class' RULES and a field's rules arrive as x-kubernetes-validations; `status` is a subresource.
"""

from typing import Any

import yaml

from api.cacheruntime_v1alpha1 import CacheRuntime
from api.cron_v1alpha1 import CronTrainingJob
from api.data_v1alpha1 import Dataset, DatasetGrant
from api.dataload_v1alpha1 import DataLoad
from api.model import KubeObject, Model
from api.nodecache_v1alpha1 import NodeCache
from api.podgroup import PodGroup
from api.training_v1alpha1 import Queue, TrainingJob

KINDS: tuple[type[KubeObject], ...] = (
    Dataset,
    CacheRuntime,
    DataLoad,
    DatasetGrant,
    NodeCache,
    TrainingJob,
    CronTrainingJob,
    Queue,
    PodGroup,
)
_DROPPED = ("title", "$defs", "additionalProperties", "propertyNames", "patternProperties", "const")


def _models_by_name(model: type[Model], found: dict[str, type[Model]]) -> dict[str, type[Model]]:
    def visit(annotation: Any) -> None:
        if isinstance(annotation, type) and issubclass(annotation, Model) and annotation.__name__ not in found:
            found[annotation.__name__] = annotation
            for field in annotation.model_fields.values():
                visit(field.annotation)
        for argument in getattr(annotation, "__args__", ()):
            visit(argument)

    visit(model)
    return found


class _Structural:
    """Turns one model's JSON schema into a structural one."""

    def __init__(self, model: type[Model]) -> None:
        self._schema = model.model_json_schema(by_alias=True)
        self._models = _models_by_name(model, {})

    def whole(self) -> dict[str, Any]:
        return self._convert(self._schema, self._schema.get("title", ""))

    def _convert(self, node: dict[str, Any], name: str = "") -> dict[str, Any]:
        if "$ref" in node:
            name = node["$ref"].rsplit("/", 1)[-1]
            node = {**self._schema["$defs"][name], **{key: value for key, value in node.items() if key != "$ref"}}
        if "allOf" in node and len(node["allOf"]) == 1:
            rest = {key: value for key, value in node.items() if key != "allOf"}
            return self._convert({**node["allOf"][0], **rest}, name)
        if node.get("x-kubernetes-int-or-string"):
            return {key: node[key] for key in ("description", "default") if key in node} | {
                "x-kubernetes-int-or-string": True
            }
        if "anyOf" in node:
            alternatives = [one for one in node["anyOf"] if one.get("type") != "null"]
            if len(alternatives) != 1:
                raise TypeError(f"{name or node}: a CRD field has one type")
            rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
            return self._convert({**alternatives[0], **rest})
        return self._plain(node, name)

    def _plain(self, node: dict[str, Any], name: str) -> dict[str, Any]:
        result = {key: value for key, value in node.items() if key not in (*_DROPPED, "properties")}
        if "const" in node:
            result["enum"] = [node["const"]]
        if result.get("default", 0) is None:
            del result["default"]
        if node.get("x-kubernetes-preserve-unknown-fields"):
            return result
        if "properties" in node:
            result["properties"] = {key: self._convert(value) for key, value in node["properties"].items()}
        else:
            # Map keys with a pattern: structural schemas know no patterns of keys, a CEL rule carries them.
            values = [*node.get("patternProperties", {}).values(), node.get("additionalProperties")]
            if isinstance(values[0], dict):
                result["additionalProperties"] = self._convert(values[0])
        if "items" in node:
            result["items"] = self._convert(node["items"])
        if node.get("type") == "integer":
            result["format"] = "int64"
        if node.get("type") == "number":
            result["format"] = "double"
        model = self._models.get(name)
        if model is not None and model.RULES:
            result["x-kubernetes-validations"] = [*result.get("x-kubernetes-validations", []), *model.RULES]
        if model is not None and model.IS_TEMPLATE:
            _drop_transition_rules(result)
        return result


def _drop_transition_rules(node: Any) -> None:
    """Take out, at any depth, the rules that compare with what was there before."""
    if isinstance(node, list):
        for one in node:
            _drop_transition_rules(one)
        return
    if not isinstance(node, dict):
        return
    for key, value in list(node.items()):
        if key == "x-kubernetes-validations":
            node[key] = [rule for rule in value if "oldSelf" not in rule["rule"]]
            if not node[key]:
                del node[key]
        else:
            _drop_transition_rules(value)


def crd(kind: type[KubeObject]) -> dict[str, Any]:
    """Return the CustomResourceDefinition of one kind."""
    schema = _Structural(kind).whole()
    properties = {
        "apiVersion": {"type": "string"},
        "kind": {"type": "string"},
        "metadata": {"type": "object"},
        **{key: value for key, value in schema["properties"].items() if key in ("spec", "status")},
    }
    required = [key for key in schema.get("required", []) if key == "spec"]
    top: dict[str, Any] = {"type": "object", "description": schema.get("description", ""), "properties": properties}
    if required:
        top["required"] = required
    annotations = (
        # *.k8s.io groups are protected; the one we share with scheduler-plugins was approved there.
        {"api-approved.kubernetes.io": "https://github.com/kubernetes-sigs/scheduler-plugins/pull/50"}
        if kind.GROUP.endswith(".k8s.io")
        else {}
    )
    subresources: dict[str, Any] = {"status": {}}
    if kind.SCALE is not None:
        paths = ("specReplicasPath", "statusReplicasPath", "labelSelectorPath")
        subresources["scale"] = dict(zip(paths, kind.SCALE, strict=True))
    version = {
        "name": kind.VERSION,
        "served": True,
        "storage": True,
        "subresources": subresources,
        "additionalPrinterColumns": [
            {"name": title, "type": type_, "jsonPath": path} for title, type_, path in kind.COLUMNS
        ],
        "schema": {"openAPIV3Schema": top},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.PLURAL}.{kind.GROUP}", "annotations": annotations},
        "spec": {
            "group": kind.GROUP,
            "scope": "Namespaced" if kind.NAMESPACED else "Cluster",
            "names": {
                "kind": kind.KIND,
                "listKind": f"{kind.KIND}List",
                "plural": kind.PLURAL,
                "singular": kind.KIND.lower(),
                **({"shortNames": list(kind.SHORT_NAMES)} if kind.SHORT_NAMES else {}),
                "categories": list(kind.CATEGORIES),
            },
            "versions": [version],
        },
    }


def all_crds() -> list[dict[str, Any]]:
    """Return every CRD of the project."""
    return [crd(kind) for kind in KINDS]


def render(document: dict[str, Any]) -> str:
    """Return one CRD as YAML with a line saying where it comes from."""
    header = "# Generated from api/ by `make generate`; do not edit.\n"
    return header + yaml.safe_dump(document, sort_keys=False, width=110)
