"""Damaged, hostile and foreign packages: each is refused with its own words, before anything is loaded."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

from mlcycle_nb.errors import IntegrityError, InvalidInput, MLCycleError, NotFound, Refused, UnknownPlugin
from mlcycle_nb.packages import Package, PackageStore, build_package, load_runtime
from mlcycle_nb.packages import golden as golden_batch
from mlcycle_nb.packages.graph_checks import NODE_LIMIT, check_graph

IRIS, SPECIES = load_iris(return_X_y=True)


@pytest.fixture
def store(tmp_path: Path) -> PackageStore:
    return PackageStore(tmp_path / "packages")


@pytest.fixture
def package(store: PackageStore) -> Package:
    return build_package(LogisticRegression(max_iter=500).fit(IRIS, SPECIES), example=IRIS, out=store)


def change_byte(package: Package) -> None:
    path = package.path / "model.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def change_manifest(package: Package) -> None:
    path = package.path / "manifest.json"
    path.write_text(path.read_text().replace('"atol":0.0001', '"atol":1000.0'))


def reorder_manifest(package: Package) -> None:
    path = package.path / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()), indent=1))


def symbolic_link(package: Package) -> None:
    path = package.path / "model.onnx"
    path.rename(package.path.parent / "elsewhere.onnx")
    path.symlink_to(package.path.parent / "elsewhere.onnx")


def hard_link(package: Package) -> None:
    os.link(package.path / "model.onnx", package.path.parent / "twin.onnx")


def writable_by_others(package: Package) -> None:
    (package.path / "model.onnx").chmod(0o666)


def fifo(package: Package) -> None:
    (package.path / "model.onnx").unlink()
    os.mkfifo(package.path / "model.onnx", 0o600)


def extra_file(package: Package) -> None:
    (package.path / "model.pkl").write_bytes(b"\x80\x04N.")


def missing_file(package: Package) -> None:
    (package.path / "golden.npz").unlink()


def other_owner(package: Package) -> None:
    os.chown(package.path / "model.onnx", 65534, -1)


@pytest.mark.parametrize(
    ("damage", "kind", "words"),
    [
        (change_byte, IntegrityError, "model.onnx: recorded .* the bytes are"),
        (change_manifest, IntegrityError, "package manifest: recorded"),
        (reorder_manifest, IntegrityError, "package manifest: recorded"),
        (symbolic_link, Refused, "symbolic link"),
        (hard_link, Refused, "2 hard links"),
        (writable_by_others, Refused, "written by other users"),
        (fifo, Refused, "not a regular file"),
        (extra_file, IntegrityError, "model.pkl is not in the manifest"),
        (missing_file, IntegrityError, "golden.npz is missing"),
        pytest.param(
            other_owner, Refused, "belongs to user 65534",
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root"),
        ),
    ],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_damaged_package(
    store: PackageStore, package: Package, damage: Callable[[Package], None], kind: type[MLCycleError], words: str
) -> None:
    """Opening or verifying names what is wrong, and loading does not go around it."""
    damage(package)

    with pytest.raises(kind, match=words):
        store.verify(package.digest)
    if damage not in (missing_file, extra_file):
        with pytest.raises(kind, match=words):
            load_runtime(store.open(package.digest))


def test_package_folder_as_link(store: PackageStore, package: Package) -> None:
    """The folder itself may not be a link either."""
    moved = package.path.rename(package.path.parent / "moved")
    package.path.symlink_to(moved)

    with pytest.raises(Refused, match="plain folder"):
        store.open(package.digest)


def rebuilt(store: PackageStore, package: Package, tmp_path: Path, **changes: Any) -> Package:
    """Add the package again with some files or manifest members changed, its hashes computed anew."""
    folder = tmp_path / "build"
    folder.mkdir(mode=0o700)
    manifest = json.loads((package.path / "manifest.json").read_text())
    manifest["files"] = {}
    manifest.update(changes.pop("manifest", {}))
    files = {name: package.read(name) for name in package.manifest.files} | changes
    for name, content in {**files, "manifest.json": json.dumps(manifest).encode()}.items():
        path = folder / name.replace("__", ".")
        path.touch(mode=0o600)
        path.write_bytes(content)
    return store.add(folder)


@pytest.mark.parametrize("suffix", ["pt", "pkl", "bin", "joblib", "keras", "h5"])
def test_files_that_run_code(store: PackageStore, package: Package, tmp_path: Path, suffix: str) -> None:
    """A pickle beside the graph is refused for what it is."""
    with pytest.raises(Refused, match=rf"\.{suffix} files run code"):
        rebuilt(store, package, tmp_path, **{f"weights__{suffix}": b"\x80\x04N."})


def test_pickle_named_as_graph(store: PackageStore, package: Package, tmp_path: Path) -> None:
    """The name does not make a pickle a graph."""
    with pytest.raises(Refused, match="not an ONNX graph"):
        rebuilt(store, package, tmp_path, model__onnx=b"\x80\x04\x95cposix\nsystem\n.")
    assert [item.name for item in store.root.iterdir()] == [package.path.name]


@pytest.mark.parametrize(
    ("members", "kind", "words"),
    [
        ({"format": "keras"}, UnknownPlugin, "package format"),
        ({"schema": 99}, InvalidInput, "schema 99"),
        ({"task": "ranking"}, InvalidInput, "unknown task"),
        ({"surprise": 1}, InvalidInput, "unknown manifest key"),
        ({"files": {"../x": {"sha256": "0" * 64, "size_bytes": 1}}}, InvalidInput, "not a file name"),
        ({"files": {"model.onnx": {"sha256": "0" * 64, "size_bytes": 1}}}, IntegrityError, "differs from the manifest"),
        ({"signature": {"inputs": [{"name": "x", "datatype": "FP33", "shape": [-1, 4]}], "outputs": []}}, InvalidInput,
         "datatype"),
        ({"signature": {"inputs": [{"name": "input", "datatype": "FP32", "shape": [7, 4]}], "outputs": []}},
         InvalidInput, "-1"),
    ],
)  # fmt: skip
def test_foreign_manifest(
    store: PackageStore, package: Package, tmp_path: Path, members: dict[str, Any], kind: type[MLCycleError], words: str
) -> None:
    """Unknown formats, versions, keys and names are refused, and nothing stays behind."""
    with pytest.raises(kind, match=words):
        rebuilt(store, package, tmp_path, manifest=members)
    assert len(list(store.root.iterdir())) == 1


def test_signature_and_graph_must_agree(store: PackageStore, package: Package, tmp_path: Path) -> None:
    """A graph with other tensors than the manifest says is not loaded."""
    signature = package.signature.to_json()
    signature["inputs"][0]["name"] = "pixels"
    liar = rebuilt(store, package, tmp_path, manifest={"signature": signature})

    with pytest.raises(Refused, match="input input: the signature says nothing"):
        load_runtime(liar)


@pytest.mark.parametrize("digest", ["", "latest", "sha256:../../x", "sha256:" + "G" * 64])
def test_digest_grammar(store: PackageStore, digest: str) -> None:
    """Only a digest is a digest."""
    with pytest.raises(InvalidInput, match="not a package digest"):
        store.open(digest)


def test_unknown_digest(store: PackageStore) -> None:
    """A digest that is not there is not found."""
    with pytest.raises(NotFound, match="no package of this digest"):
        store.open("sha256:" + "0" * 64)


# Graphs


def graph(nodes: list[Any], initializers: list[Any], **options: Any) -> onnx.ModelProto:
    takes = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4])
    gives = helper.make_tensor_value_info("value", TensorProto.FLOAT, ["batch", 3])
    body = helper.make_graph(nodes, "g", [takes], [gives], initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 18), *options.pop("domains", ())], **options)


def weights(value: float | None = None) -> Any:
    array = np.arange(12, dtype=np.float32).reshape(4, 3) + 1
    if value is not None:
        array[1, 1] = value
    return numpy_helper.from_array(array, "w")


MATMUL = helper.make_node("MatMul", ["input", "w"], ["value"])


def external() -> onnx.ModelProto:
    tensor = weights()
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    return graph([MATMUL], [tensor])


def custom_operator() -> onnx.ModelProto:
    node = helper.make_node("Shell", ["input"], ["value"], domain="evil.ops")
    return graph([node], [], domains=[helper.make_opsetid("evil.ops", 1)])


def custom_domain_only() -> onnx.ModelProto:
    return graph([MATMUL], [weights()], domains=[helper.make_opsetid("com.microsoft", 1)])


def hidden_custom_operator() -> onnx.ModelProto:
    inner = helper.make_graph(
        [helper.make_node("Shell", ["input"], ["value"], domain="evil.ops")], "then", [],
        [helper.make_tensor_value_info("value", TensorProto.FLOAT, None)],
    )  # fmt: skip
    node = helper.make_node("If", ["yes"], ["value"], then_branch=inner, else_branch=inner)
    return graph([node], [numpy_helper.from_array(np.asarray(True), "yes")])


def oversized() -> onnx.ModelProto:
    return graph([helper.make_node("Identity", ["input"], ["value"])] * (NODE_LIMIT + 1), [])


def endless() -> onnx.ModelProto:
    body = helper.make_graph([], "body", [], [])
    return graph([helper.make_node("Loop", ["", "yes"], ["value"], body=body)], [])


def own_functions() -> onnx.ModelProto:
    function = helper.make_function("evil.ops", "F", ["x"], ["y"], [helper.make_node("Identity", ["x"], ["y"])], [])
    return graph([MATMUL], [weights()], functions=[function])


def zero_weights() -> onnx.ModelProto:
    return graph([MATMUL], [numpy_helper.from_array(np.zeros((4, 3), dtype=np.float32), "w")])


def lying_shape() -> onnx.ModelProto:
    tensor = weights()
    tensor.dims[0] = 1 << 40
    return graph([MATMUL], [tensor])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (external, r"1 tensors keep their data in another file, first w \(got '../../etc/passwd'\)"),
        (custom_operator, "1 nodes use custom operators, first evil.ops::Shell"),
        (hidden_custom_operator, "2 nodes use custom operators, first evil.ops::Shell"),
        (custom_domain_only, "custom operator domain 'com.microsoft'"),
        (oversized, f"over {NODE_LIMIT} nodes"),
        (endless, "loop without a bound, first Loop"),
        (own_functions, "1 functions of its own"),
        (lambda: graph([MATMUL], [weights(float("nan"))]), "1 weight tensors hold NaN or infinity, first w"),
        (lambda: graph([MATMUL], [weights(float("inf"))]), "1 weight tensors hold NaN or infinity, first w"),
        (zero_weights, "1 weight tensors are all zero, first w"),
        (lying_shape, "other bytes than its shape"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_hostile_graph(model: Callable[[], onnx.ModelProto], words: str) -> None:
    """Each kind of graph that no exporter of ours writes is named."""
    with pytest.raises(Refused, match=words):
        check_graph(model().SerializeToString(), where="model.onnx")


def test_sound_graph_passes() -> None:
    """The checks do not refuse a plain graph, zero biases or an attention mask."""
    mask = numpy_helper.from_array(np.asarray([[0, -np.inf]], dtype=np.float32), "mask")
    bias = numpy_helper.from_array(np.zeros(3, dtype=np.float32), "b")

    check_graph(graph([MATMUL], [weights(), mask, bias]).SerializeToString(), where="model.onnx")


# Golden batches


def npz(name: str = "in.input.npy", content: bytes | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    member = io.BytesIO()
    np.save(member, np.ones((2, 4), dtype=np.float32))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, content if content is not None else member.getvalue())
        archive.writestr("out.label.npy", member.getvalue())
    return buffer.getvalue()


def object_array() -> bytes:
    member = io.BytesIO()
    np.save(member, np.asarray([{"a": 1}], dtype=object), allow_pickle=True)
    return npz(content=member.getvalue())


def patched(offset_from: bytes, change: Callable[[bytearray, int], None]) -> bytes:
    content = bytearray(npz())
    change(content, content.index(offset_from))
    return bytes(content)


def set_flag(content: bytearray, at: int) -> None:
    content[at + 8] |= 0x1


def rename_central(content: bytearray, at: int) -> None:
    content[at + 46] = ord("X")


def break_data(content: bytearray, at: int) -> None:
    content[content.index(b"\x00\x00\x80?", at)] ^= 0xFF


def huge_header() -> bytes:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(  # type: ignore[no-untyped-call]
        member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)}
    )
    return npz(content=member.getvalue())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no sound npz"),
        (b"PK\x03\x04 not a zip", "no sound npz"),
        (npz()[: len(npz()) // 2], "no sound npz"),
        (npz("../../x.npy"), "no member of a golden batch"),
        (npz("in./etc/passwd.npy"), "no member of a golden batch"),
        (npz(method=zipfile.ZIP_DEFLATED), "compressed"),
        (npz(content=b"\x80\x04N."), "no plain array"),
        (object_array(), "object arrays are not allowed"),
        (huge_header(), "claims 4398046511104 bytes"),
        (patched(b"PK\x01\x02", set_flag), "zip flags 0x1"),
        (patched(b"PK\x01\x02", rename_central), "no member|no sound npz"),
        (patched(b"PK\x03\x04", break_data), "no sound npz"),
    ],
)
def test_hostile_golden_batch(content: bytes, words: str) -> None:
    """A golden batch is stored, plain arrays under known names, or it is refused."""
    with pytest.raises(Refused, match=words):
        golden_batch.unpack(content, where="golden.npz")
