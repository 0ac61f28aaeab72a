"""Makes the generated files: protobuf code from `api/proto`, CRD YAML from the models.

`python -m api.generate` writes them; `--check DIR` writes into DIR instead, for the test that compares.
The only module of this package that touches files.
"""

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_protobuf(target: Path) -> None:
    """Compile every .proto below `target`/api/gen; needs grpcio-tools and mypy-protobuf."""
    from grpc_tools import protoc

    out = target / "api" / "gen"
    out.mkdir(parents=True, exist_ok=True)
    source = ROOT / "api" / "proto"
    files = sorted(source.glob("*.proto"))
    plugins = Path(sys.executable).parent
    arguments = [
        "protoc",
        f"--proto_path=api/gen={source}",
        f"--plugin=protoc-gen-mypy={plugins / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={plugins / 'protoc-gen-mypy_grpc'}",
        f"--python_out={target}",
        f"--grpc_python_out={target}",
        f"--mypy_out={target}",
        f"--mypy_grpc_out={target}",
        *(f"api/gen/{file.name}" for file in files),
    ]
    if protoc.main(arguments) != 0:
        raise SystemExit("protoc failed")
    (out / "__init__.py").write_text('"""Generated from api/proto by `make generate`; never edited."""\n')


def write_crds(target: Path) -> None:
    """Write one YAML file a CRD into `target`/manifests/crds."""
    from api.crdgen import all_crds, render

    out = target / "manifests" / "crds"
    out.mkdir(parents=True, exist_ok=True)
    for crd in all_crds():
        (out / f"{crd['metadata']['name']}.yaml").write_text(render(crd))


def main() -> None:
    """Entry of `python -m api.generate`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", type=Path, metavar="DIR", help="write below DIR instead of the checkout")
    target: Path = parser.parse_args().check or ROOT
    write_protobuf(target)
    write_crds(target)


if __name__ == "__main__":
    main()
