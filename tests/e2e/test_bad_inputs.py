"""Bad inputs, each with its one clear error: a line that says what, which value, where, and what to do."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlcycle_nb.validation.data import ValidationData

from .conftest import BETTER, ENVIRONMENT, MODEL, Served, until
from .giving import Bytes, Call, Cell, DataFile, GatesFile, Lab, Request, SettingsFile

pytestmark = pytest.mark.timeout(180)

Way = Cell | GatesFile | SettingsFile | DataFile | Call | Request | Bytes
ON_DEV = f"--env {ENVIRONMENT}"
FEEDBACK = f"/v2/models/{MODEL}/feedback"


# -- what is given ---------------------------------------------------------------------------------------------


def gate(**keys: str) -> GatesFile:
    return GatesFile("gates:\n  - " + "\n    ".join(f"{key}: {value}" for key, value in keys.items()) + "\n")


def bomb() -> str:
    layers = "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9))
    return f"a0: &a0 [x, x, x, x, x, x, x, x, x]\n{layers}\ngates: *a8\n"


def sparse(path: Path) -> None:
    with path.open("wb") as stream:
        stream.truncate(2 << 30)


def loop(path: Path) -> None:
    path.symlink_to(path)


def table(*rows: str) -> str:
    return "a,b,label\n" + "\n".join(rows) + "\n"


SOUND = [f"{n},{n * 7 % 5},{n % 2}" for n in range(20)]


def npz(name: str, array: np.ndarray, **options: Any) -> bytes:
    member, archive = io.BytesIO(), io.BytesIO()
    np.save(member, array, **options)
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr(name, member.getvalue())
    return archive.getvalue()


def unpacks_to_much() -> bytes:
    content = bytearray(npz("features.npy", np.ones((9, 2))))
    size = content.index(b"PK\x01\x02") + 24  # of the member, unpacked
    content[size : size + 4] = (3 << 30).to_bytes(4, "little")
    return bytes(content)


def enormous_array() -> bytes:
    """Say 4 TB in the header of an array, and bring none of it."""
    member, archive = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("features.npy", member.getvalue())
    return archive.getvalue()


def parquet(path: Path) -> None:
    import pandas

    pandas.DataFrame({"a": range(50), "label": [0, 1] * 25}).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-20])


def package(lab: Lab, name: str, content: bytes) -> object:
    """Put a package whose files are as a stranger would send them."""
    from mlcycle_nb.packages import PackageStore

    store = PackageStore(lab.folder / "packages")
    known = PackageStore(lab.workspace.context.folder("packages"))
    good = known.open(lab.workspace.development.get_version(f"{MODEL}/1").package_digest)
    build = lab.folder / "build"
    build.mkdir(mode=0o700)
    for file in good.manifest.files:
        (build / file).write_bytes((good.path / file).read_bytes())
    manifest = {**json.loads((good.path / "manifest.json").read_text()), "files": {}}
    (build / "manifest.json").write_text(json.dumps(manifest))
    (build / name).write_bytes(content)
    return store.add(build)


def changed_package(lab: Lab) -> object:
    """Change one byte of a copy of the registered package, then check it against its digest."""
    import shutil

    from mlcycle_nb.packages import PackageStore

    digest = lab.workspace.development.get_version(f"{MODEL}/1").package_digest
    source = PackageStore(lab.workspace.context.folder("packages")).path_of(digest)
    store = PackageStore(lab.folder / "packages")
    shutil.copytree(source, store.path_of(digest))
    graph = store.path_of(digest) / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(bytes(content))
    return store.verify(digest)


def linked_package(lab: Lab) -> object:
    import shutil

    from mlcycle_nb.packages import PackageStore

    digest = lab.workspace.development.get_version(f"{MODEL}/1").package_digest
    store = PackageStore(lab.folder / "packages")
    shutil.copytree(PackageStore(lab.workspace.context.folder("packages")).path_of(digest), store.path_of(digest))
    graph = store.path_of(digest) / "model.onnx"
    graph.rename(lab.folder / "elsewhere.onnx")
    graph.symlink_to(lab.folder / "elsewhere.onnx")
    return store.verify(digest)


def outside_data() -> bytes:
    import onnx
    from onnx import TensorProto, helper

    tensor = TensorProto(name="w", dims=[64, 10], data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../etc/passwd")
    takes = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 64])
    gives = helper.make_tensor_value_info("value", TensorProto.FLOAT, ["n", 10])
    body = helper.make_graph([helper.make_node("MatMul", ["input", "w"], ["value"])], "g", [takes], [gives], [tensor])
    return helper.make_model(body, opset_imports=[onnx.helper.make_opsetid("", 18)]).SerializeToString()


def infinite_weights(lab: Lab) -> object:
    from sklearn.linear_model import LogisticRegression

    from mlcycle_nb.packages import PackageStore, build_package

    rows = np.eye(4, dtype=np.float32)
    model = LogisticRegression().fit(rows, [0, 1, 2, 1])
    model.coef_[0, 0] = np.nan
    return build_package(model, example=rows, out=PackageStore(lab.folder / "packages"))


def answers_nan(lab: Lab) -> object:
    from mlcycle_nb.packages import PackageStore, build_package

    def model(rows: np.ndarray) -> np.ndarray:
        return np.full((len(rows), 2), np.nan)

    return build_package(model, example=np.ones((8, 4), np.float32), out=PackageStore(lab.folder / "packages"))


def webhook(url: str) -> Call:
    from mlcycle_nb.monitoring.channels._destination import resolve

    return Call(lambda lab: resolve(url, ()))


def alias(name: str) -> Cell:
    return Cell(f"%model alias {MODEL}/1 {name}")


ROW = "[" + ",".join(["0.5"] * 64) + "]"


def infer(data: str = ROW, shape: str = "[1,64]", name: str = "input", more: str = "") -> Request:
    body = f'{{"inputs":[{{"name":"{name}","datatype":"FP32","shape":{shape},"data":{data}{more}}}]}}'
    return Request(body.encode("utf-8", "surrogatepass"))


def told(body: bytes) -> Request:
    return Request(body, path=FEEDBACK)


def with_value(value: str) -> Request:
    return infer("[" + ",".join([value, *["0.5"] * 63]) + "]")


def raw(head: str, *lines: str, body: str = "") -> Bytes:
    usual = ("Host: HOST", "Authorization: Bearer KEY", "Connection: close")
    return Bytes(("\r\n".join([head, *usual, *lines]) + "\r\n\r\n" + body).encode())


INFER = f"POST /v2/models/{MODEL}/infer HTTP/1.1"


# -- the table -------------------------------------------------------------------------------------------------

TABLE: list[tuple[int, str, Way, str]] = [
    # Magic line and cell
    (1, "no arguments", Cell("%deploy"), r"%deploy needs MODEL/VERSION .* known: .*digits/1"),
    (1, "no arguments", Cell("%validate"), r"model.*%validate --help"),
    (1, "no arguments", Cell("%monitor"), r"model.*%monitor --help"),
    (1, "no model", Cell("%retire plan"), r"needs NAME/VERSION.*known: .*digits/1"),
    (2, "strategy", Cell(f"%deploy digits v2 --strategy canry {ON_DEV}"),
     r"unknown strategy 'canry'.*did you mean 'canary'"),
    (2, "option", Cell("%deploy digits/2 --canery"), r"unknown option --canery.*did you mean '--canary'"),
    (2, "verb", Cell("%retire paln digits/2"), r"did you mean 'plan'"),
    (2, "version", Cell("%deploy digits/99"), r"digits has no version 99.*known: .*3, 2, 1"),
    (2, "model", Cell("%deploy digit/1"), r"no model of this name.*did you mean 'digits'"),
    (2, "environment", Cell("%deploy digits/2 --env prodution"), r"unknown environment .*did you mean 'production'"),
    (3, "no 100", Cell(f"%deploy digits v2 --steps 5,10,25,50 {ON_DEV}"), r"steps must end at 100"),
    (4, "falling", Cell(f"%deploy digits/2 --steps 50,10,100 {ON_DEV}"), r"strictly increase in \(0,100\].*50,10,100"),
    (4, "negative", Cell(f"%deploy digits/2 --steps=-5,100 {ON_DEV}"), r"strictly increase.*-5,100"),
    (4, "negative", Cell(f"%deploy digits/2 --steps -5,100 {ON_DEV}"), r"--steps"),
    (4, "twice", Cell(f"%deploy digits/2 --steps 5,5,100 {ON_DEV}"), r"strictly increase.*5,5,100"),
    (4, "NaN", Cell(f"%deploy digits/2 --steps nan,100 {ON_DEV}"), r"strictly increase.*nan,100"),
    (5, "unclosed quote", Cell('%train attach "a'), r"unclosed quote at column 8"),
    (5, "unclosed quote", Cell("%%train digits --param 'a\nx = 1"), r"unclosed quote at column"),
    (6, "$ name", Cell("%deploy digits/$nothing"), r"variable not defined: \$nothing"),
    (6, "{name}", Cell("%deploy {nothing}/1"), r"variable not defined: \{nothing\}"),
    (7, "no time", Cell("%retire plan digits/2 --over 0s"), r"--over.*0s|0s.*range"),
    (7, "negative", Cell("%retire plan digits/2 --over=-3w"), r"number and a unit.*-3w"),
    (7, "enormous", Cell("%retire plan digits/2 --over 1e99w"), r"number and a unit.*1e99w"),
    (7, "too long", Cell("%retire plan digits/2 --over 999999w"), r"out of range.*999999w.*520w"),
    (7, "fortnights", Cell("%retire plan digits/2 --over '3 fortnights'"), r"number and a unit.*3 fortnights"),
    (8, "first deployment", Cell("%rollback liar --env dev"), r"nothing to roll back to.*first deployment"),
    (8, "not deployed", Cell("%rollback digits --env staging"), r"digits is not deployed in staging"),
    # IPython itself refuses a cell magic without any cell below it.
    (9, "blank cell", Cell("%%train digits\n   \n# nothing\n"), r"empty"),
    (9, "syntax error", Cell("%%train digits\nx = 1\ny = = 2\n"), r"line 3"),
    (9, "missing name", Cell("%%train digits\nfit(modle)\n"), r"modle.*line 2|line 2.*modle"),
    (12, "right-to-left", Cell("%deploy digits/1\u202e"), r"contains U\+202E at 8"),
    (12, "zero width", Cell("%deploy dig\u200bits/1"), r"contains U\+200B at 3"),
    (12, "no-break space", Cell("%deploy digits/1\u00a0--env dev"), r"contains U\+00A0 at 8"),
    (13, "10 MB", Cell("%deploy " + "x" * 10_000_000), r"over 64 KiB"),
    # Configuration
    (14, "gate key", gate(check="accuracy", min_acuracy="0.9"), r"unknown key.*min_acuracy.*line 3|min_acuracy"),
    (14, "check", gate(check="acuracy", min="0.9"), r"unknown check.*did you mean 'accuracy'"),
    (14, "setting", SettingsFile("[serving]\nreplica = 3\n"), r"replica.*did you mean 'replicas'"),
    (14, "section", SettingsFile("[servin]\nreplicas = 3\n"), r"servin.*did you mean 'serving'"),
    (15, "NaN", gate(check="accuracy", min=".nan"), r"must be a finite number.*line 3"),
    (15, "infinite", gate(check="accuracy", min=".inf"), r"must be a finite number.*line 3"),
    (15, "text", gate(check="accuracy", min='"0.8"'), r"must be a finite number in \[0,1\].*'0\.8'"),
    (15, "true", gate(check="accuracy", min="true"), r"must be a finite number in \[0,1\].*True"),
    (15, "overflow", gate(check="accuracy", min="1e400"), r"must be a finite number.*1e400"),
    (15, "over 1", gate(check="accuracy", min="1.2"), r"must be a finite number in \[0,1\].*1\.2"),
    (15, "setting", SettingsFile("[supervisor]\ntick_seconds = nan\n"), r"tick_seconds.*finite number"),
    (16, "key twice", GatesFile("gates:\n- check: accuracy\n  min: 0.9\n  min: 0.1\n"), r"lines 3 and 4"),
    (16, "key twice", SettingsFile("[serving]\nreplicas = 2\nreplicas = 3\n"), r"not valid TOML.*line 3"),
    (17, "tag", GatesFile("gates: !!python/object/apply:os.system ['true']\n"), r"tags are not allowed.*line 1"),
    (18, "alias bomb", GatesFile(bomb()), r"alias expansion over the limit"),
    (19, "no", GatesFile("environments: [no]\ngates: [{check: accuracy, min: 0.9}]\n"),
     r"expected string, got bool.*quote it"),
    (19, "08", GatesFile("environments: [08]\ngates: [{check: accuracy, min: 0.9}]\n"), r"quote it"),
    (19, "1_000", gate(check="accuracy", min="0.9", min_samples="1_000"), r"plain digits, or quote it"),
    (19, "number", SettingsFile("[workspace]\nactor = 7\n"), r"actor.*text, got int; quote it"),
    (20, "UTF-16", GatesFile("gates: []".encode("utf-16")), r"UTF-16.*UTF-8"),
    (20, "NUL", GatesFile("gates: \0"), r"NUL byte at 7"),
    (20, "Latin-1", GatesFile("# caf\xe9".encode("latin-1")), r"not UTF-8 at byte 5"),
    (21, "folder", GatesFile(lambda path: path.mkdir()), r"not a regular file"),
    (21, "FIFO", GatesFile(lambda path: os.mkfifo(path)), r"not a regular file"),
    (21, "device", GatesFile(lambda path: path.symlink_to("/dev/zero")), r"not a regular file"),
    (21, "link to itself", GatesFile(loop), r"cannot be opened.*symbolic links"),
    (21, "2 GB", GatesFile(sparse), r"2147483648 bytes, over 1048576"),
    (21, "FIFO", SettingsFile(lambda path: os.mkfifo(path)), r"not a regular file"),
    (21, "missing", Cell("%validate digits/1 --gates nowhere.yaml --data held_out"), r"no such file.*nowhere\.yaml"),
    (22, "no samples", gate(check="accuracy", min="0.9", min_samples="0"), r"min_samples.*1"),
    (22, "no interval", Cell(f"%deploy digits/2 --canary --interval 0s {ON_DEV}"), r"--interval.*0s"),
    (22, "no requests", Cell(f"%deploy digits/2 --canary --min-requests 0 {ON_DEV}"), r"would judge on no data"),
    (22, "no window", Cell(f"%monitor digits --window 0 {ON_DEV}"), r"window.*0"),
    (23, "port", SettingsFile("[serving]\ngateway_port = 70000\n"), r"gateway_port.*0 to 65535"),
    (23, "port", SettingsFile("[serving]\ngateway_port = 22.5\n"), r"gateway_port.*whole number"),
    (24, "decimals", Cell(f"%deploy digits/2 --steps 33.33333333333333333,100 {ON_DEV}"),
     r"two decimals.*out of 10,000"),
    # Data
    (25, "empty file", DataFile("d.csv", ""), r"file is empty"),
    (25, "header only", DataFile("d.csv", table().rstrip("\n")), r"header and no rows"),
    (25, "one row", DataFile("d.csv", table("1,2,0")), r"too few rows.*1"),
    (25, "one class", DataFile("d.csv", table(*[f"{n},1,1" for n in range(9)])), r"all 9 labels are the same"),
    (25, "empty column", DataFile("d.csv", table(*[f"{n},nan,{n % 2}" for n in range(9)])),
     r"column b is empty: all of 9 values"),
    (26, "no label", DataFile("d.csv", table(*SOUND), "--label lable"),
     r"label column is missing.*did you mean 'label'"),
    (26, "leak", DataFile("d.csv", table(*[f"{n},{n % 2},{n % 2}" for n in range(9)])),
     r"label is also feature 1 \(b\)"),
    (28, "mixed", DataFile("d.csv", table(*SOUND, "x,1,0")), r"column a is not numeric; first at row 20.*'x'"),
    (29, "open quote", DataFile("d.csv", 'a,label\n"1,0\n2,1\n'), r"cannot be read"),
    (29, "ragged", DataFile("d.csv", table(*SOUND, "1,2")), r"cannot be read.*Expected 3 columns"),
    (29, "wide", DataFile("d.csv", ",".join("x" * 1 for _ in range(100_000)) + "\n"), r"over 20,000 columns"),
    (30, "inf", DataFile("d.csv", table(*SOUND, "inf,1,0", "1,-inf,0")),
     r"column a: 1 of 22 values, column b: 1 of 22"),
    (30, "1,5", DataFile("d.csv", table(*SOUND, '"1,5",1,0')), r"column a is not numeric; first at row 20.*1,5"),
    (31, "cut parquet", DataFile("d.parquet", parquet), r"cannot be read"),
    (31, "cut npz", DataFile("d.npz", npz("features.npy", np.ones((9, 2)))[:-30]), r"cut short or damaged"),
    (31, "objects", DataFile("d.npz", npz("features.npy", np.array([{}]), allow_pickle=True)),
     r"object arrays are not"),
    (31, "pickle", DataFile("d.pkl", b"\x80\x04N."), r"cannot tell the kind of file.*\.csv"),
    (32, "bomb", DataFile("d.npz", unpacks_to_much()), r"unpacks to over 2 GiB"),
    (32, "enormous array", DataFile("d.npz", enormous_array()), r"cut short or damaged|over 2 GiB"),
    (32, "path", DataFile("d.npz", npz("../../x.npy", np.ones(3))), r"member that is no array.*\.\./\.\./x"),
    # Model files
    (35, "pickle", Call(lambda lab: package(lab, "model.pkl", b"\x80\x04N.")), r"\.pkl files run code"),
    (35, "torch", Call(lambda lab: package(lab, "weights.pt", b"PK\x03\x04")), r"\.pt files run code"),
    (36, "pickle as graph", Call(lambda lab: package(lab, "model.onnx", b"\x80\x04\x95cposix\n.")),
     r"not an ONNX graph"),
    (37, "golden batch", Call(lambda lab: package(lab, "golden.npz", b"PK\x03\x04")), r"no sound npz"),
    (38, "outside data", Call(lambda lab: check_graph(outside_data())), r"data in another file, first w.*etc/passwd"),
    (39, "keras", Call(lambda lab: package(lab, "model.keras", b"PK")), r"\.keras files run code"),
    (40, "NaN weights", Call(infinite_weights), r"1 weight tensors hold NaN or infinity, first"),
    (40, "NaN answers", Call(lambda lab: answers_nan(lab)), r"answers 8 of 8 example rows with a .* not finite"),
    (41, "changed byte", Call(changed_package),
     r"model\.onnx: recorded [0-9a-f]{12}, the bytes are [0-9a-f]{12}; not loaded"),
    (42, "link", Call(linked_package), r"symbolic link"),
    # HTTP to the gateway
    (43, "NaN", with_value("NaN"), r"422 .*inputs\[0\]\.data\[0\]"),
    (43, "Infinity", with_value("-Infinity"), r"422 .*inputs\[0\]\.data\[0\]"),
    (43, "1e999", with_value("1e999"), r"422 .*inputs\[0\]\.data\[0\].*1e999"),
    (43, "text", with_value('"nan"'), r"422 .*inputs\[0\]\.data\[0\].*text is not a number"),
    (44, "5000 digits", with_value("9" * 5000), r"422 .*inputs\[0\]\.data\[0\]"),
    (45, "depth", Request(b"[" * 100_000), r"400 .*deeper than 32"),
    (46, "key twice", infer(more=',"name":"input"'), r"400 .*'name'"),
    (47, "not UTF-8", Request(b'{"inputs":"\xff"}'), r"400 .*UTF-8"),
    (47, "surrogate", infer(name="\\ud800"), r"400 .*surrogate"),
    (47, "empty", Request(b""), r"400 .*empty"),
    (48, "20 MB", Request(b" " * 20_000_000), r"413 .*over the limit"),
    (48, "endless", raw(INFER, "Transfer-Encoding: chunked", body=("10000\r\n" + " " * 65536 + "\r\n") * 18), r"413"),
    (49, "text", Request(ROW.encode(), headers={"content-type": "text/plain"}), r"415 .*application/json"),
    (49, "form", Request(b"a=1", headers={"content-type": "application/x-www-form-urlencoded"}), r"415"),
    (50, "host", Request(headers={"host": "evil.example"}), r"421 .*does not answer for that Host"),
    (50, "host without port", Request(headers={"host": "127.0.0.1"}), r"421"),
    (50, "origin", Request(headers={"origin": "http://evil.example"}), r"403 .*origin"),
    (50, "origin of another port", Request(headers={"origin": "http://localhost:8888"}), r"403"),
    (50, "no key", Request(headers={"authorization": ""}), r"401 .*Authorization: Bearer KEY"),
    (50, "wrong key", Request(headers={"authorization": "Bearer x"}, path="/v2/models/nothing"), r"401 .*Bearer KEY"),
    (51, "gzip", Request(b"\x1f\x8b", headers={"content-encoding": "gzip"}), r"415 .*compressed"),
    (52, "shape", infer("[1,2,3]", "[1,3]"), r"422 .*\[1, 64\]"),
    (52, "no rows", infer("[]", "[0,64]"), r"422 .*row"),
    (52, "a million rows", infer(shape="[1000000,64]"), r"422 .*4096"),
    (52, "true", with_value("true"), r"422 .*true is not a number"),
    (52, "missing feature", Request(b'{"dataframe_records":[{"f0":1}]}', path="/models/digits/invocations"),
     r"422 .*'f1'"),
    (52, "extra feature", Request(
        ('{"dataframe_records":[{' + ",".join(f'"f{n}":0' for n in range(65)) + "}]}").encode(),
        path="/models/digits/invocations"), r"422 .*'f64'"),
    (53, "DELETE", Request(method="DELETE"), r"405 .*use GET, HEAD or POST"),
    (53, "TRACE", Request(method="TRACE"), r"405"),
    (53, "FOO", raw("FOO / HTTP/1.1"), r"400"),
    (53, "//", raw("GET //v2/models/digits HTTP/1.1"), r"404|400"),
    (53, "dots", raw("GET /v2/models/%2e%2e/x HTTP/1.1"), r"404|400"),
    (53, "NUL", raw("GET /a%00b HTTP/1.1"), r"400"),
    (53, "20 KB path", raw(f"GET /{'a' * 20_000} HTTP/1.1"), r"431|414"),
    (54, "both lengths", raw(INFER, "Content-Length: 3", "Transfer-Encoding: chunked", body="0\r\n\r\n"), r"400"),
    (54, "two lengths", raw(INFER, "Content-Length: 3", "Content-Length: 4", body="abcd"), r"400"),
    (54, "space before colon", raw("GET /v2 HTTP/1.1", "A : b"), r"400"),
    (56, "NaN answered", Request(b'{"instances":[[1.0,0.0]]}', path="/models/liar/invocations"), r"502 .*"),
    # Labels over HTTP
    (44, "feedback, NaN", told(b'{"feedback":[{"id":"a","label":NaN}]}'), r"422 .*NaN"),
    (45, "feedback, depth", told(b"[" * 100_000), r"400 .*deeper than 32"),
    (46, "feedback, key twice", told(b'{"feedback":[{"id":"a","id":"b","label":1}]}'), r"400 .*'id'"),
    (47, "feedback, empty", told(b""), r"400 .*empty"),
    (48, "feedback, 20 MB", told(b" " * 20_000_000), r"413 .*over the limit"),
    (48, "feedback, 10,001 labels", told(b'{"feedback":[' + b",".join([b'{"id":"a","label":1}'] * 10_001) + b"]}"),
     r"413 .*over 10000 labels"),
    (49, "feedback, form", Request(b"a=1", path=FEEDBACK, headers={"content-type": "text/plain"}), r"415"),
    (50, "feedback, no key", Request(path=FEEDBACK, headers={"authorization": ""}), r"401 .*Bearer KEY"),
    (52, "feedback, misspelt", told(b'{"feedback":[{"id":"a","lable":1}]}'), r"422 .*did you mean 'label'"),
    (52, "feedback, a list", told(b'{"feedback":[{"id":"a","label":[1]}]}'), r"422 .*no text, number or truth value"),
    (52, "feedback, tomorrow", told(b'{"feedback":[{"id":"a","label":1,"at":"2126-01-01T00:00:00Z"}]}'),
     r"422 .*in the future"),
    (53, "feedback, GET", Request(method="GET", path=FEEDBACK), r"405"),
    # Names
    (57, "empty", Cell('%experiment ""'), r"experiment name is empty"),
    (57, "300 characters", Cell("%experiment " + "a" * 300), r"has 300 characters.*at most 63"),
    (57, "dots", alias("../x"), r"alias has FULL STOP U\+002E at position 0"),
    (57, "slash", Cell("%experiment a/b"), r"SOLIDUS U\+002F at position 1"),
    (57, "colon", Cell(f"%consumer add a:b {ON_DEV}"), r"COLON U\+003A at position 1"),
    (57, "escaped dots", Cell("%deploy %2e%2e/1"), r"PERCENT SIGN U\+0025 at position 0"),
    (57, "dot", Cell("%model show ."), r"FULL STOP U\+002E at position 0"),
    (57, "device", Cell("%experiment con"), r"'con' is reserved"),
    (57, "NUL", Cell("%experiment a\0b"), r"U\+0000"),
    (57, "line break", Cell('%experiment "a\\\nb"'), r"U\+000A|name has|unclosed"),
    (57, "emoji", Cell("%experiment \U0001f600"), r"GRINNING FACE U\+1F600 at position 0"),
    (57, "combining", Cell("%experiment cafe\u0301"), r"COMBINING ACUTE ACCENT U\+0301 at position 4"),
    (57, "look-alike", Cell("%experiment dig\u0456ts"), r"CYRILLIC .* U\+0456 at position 3"),
    (57, "capital", Cell("%%train Digits\nx = 1"), r"LATIN CAPITAL LETTER D U\+0044 at position 0"),
    (57, "dash first", Cell("%experiment -- -x"), r"HYPHEN-MINUS U\+002D at position 0"),
    (57, "latest", alias("latest"), r"'latest' is reserved"),
    (57, "version as alias", alias("v7"), r"alias reads as a version number.*v7"),
    (57, "environment", Cell("%deploy digits/2 --env ../x"), r"unknown environment.*\.\./x"),
    (58, "file", webhook("file:///etc/passwd"), r"destination not allowed"),
    (58, "metadata service", webhook("https://169.254.169.254/"), r"destination not allowed.*169\.254\.169\.254"),
    (58, "short loopback", webhook("https://127.1/"), r"destination not allowed"),
    (58, "mapped loopback", webhook("https://[::ffff:127.0.0.1]/"), r"destination not allowed"),
    (58, "two users", webhook("http://user@host@evil/"), r"destination not allowed.*user name"),
    (58, "no host", webhook("http:///#/../../etc/"), r"destination not allowed"),
    (58, "plain http", webhook("http://example.com/"), r"destination not allowed.*plain http"),
]  # fmt: skip

ELSEWHERE = {
    10: "tests/e2e/test_kernel.py: the same cell again attaches",
    11: "test_another_rollout_runs, below",
    27: "test_data_that_shows_nothing_fails_closed, below",
    33: "tests/unit/validation: a file that changes while it is read",
    34: "test_data_that_shows_nothing_fails_closed, below",
    55: "tests/process/gateway/test_refusals.py: slow senders, with short limits",
    59: "nothing reads notebook files as state",
    60: "test_markup_stays_text, below",
}


def check_graph(content: bytes) -> None:
    from mlcycle_nb.packages.graph_checks import check_graph as check

    check(content, where="model.onnx")


# -- the workspace it is given to ------------------------------------------------------------------------------

LIAR = """
import numpy as np

def liar(rows):
    # Fair answers to fair rows, nonsense to others: no golden batch shows it.
    sure = np.where(rows[:, :1] > 0.9, np.nan, 0.75)
    return np.hstack([sure, 1 - sure]).astype(np.float32)
"""


@pytest.fixture(scope="module")
def liar(served: Served) -> None:
    """A deployed model of one version that answers NaN to some rows."""
    from mlcycle_nb.packages import PackageStore, build_package
    from mlcycle_nb.store.keys import signing_key

    workspace = served.workspace
    space: dict[str, Any] = {"__name__": "__main__"}
    exec(LIAR, space)
    package = build_package(
        space["liar"],
        example=np.linspace(0, 0.5, 32, dtype=np.float32).reshape(16, 2),
        format="python",
        out=PackageStore(workspace.context.folder("packages")),
        signer=signing_key(workspace.context.workspace_id),
    )
    workspace.development.register_model("liar", package)
    workspace.deployment.deploy_model("liar/1", ENVIRONMENT, "all-at-once", replicas=1).wait(90)


@pytest.fixture(scope="module")
def shell(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A notebook's shell with the magics, in the workspace of these tests."""
    from IPython.core.interactiveshell import InteractiveShell

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IPYTHONDIR", str(tmp_path_factory.mktemp("ipython")))
        patch.setenv("MLCYCLE_HOME", str(served.workspace.home))
        InteractiveShell.clear_instance()
        running = InteractiveShell.instance(colors="nocolor")
        running.run_line_magic("load_ext", "mlcycle_nb")
        running.user_ns["held_out"] = ValidationData(served.rows, np.arange(len(served.rows)) % 10)
        yield running
        running.run_line_magic("unload_ext", "mlcycle_nb")
        running.history_manager.end_session()
        InteractiveShell.clear_instance()


@pytest.fixture
def lab(shell: Any, served: Served, liar: None, tmp_path: Path) -> Lab:
    return Lab(shell, tmp_path, served)


# -- tests -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("way", "error"), [row[2:] for row in TABLE], ids=[f"{row[0]} {row[1]}" for row in TABLE])
def test_bad_input(lab: Lab, way: Way, error: str) -> None:
    """It is refused in one line that says so; nothing has changed but the audit trail, by one entry for a magic."""
    text = way.give(lab)

    assert re.search(error, text), text


def test_the_table_is_whole() -> None:
    """Every number is in the table, or is proven elsewhere."""
    assert {row[0] for row in TABLE} | ELSEWHERE.keys() == set(range(1, 61))
    assert not {row[0] for row in TABLE} & ELSEWHERE.keys()


def test_another_rollout_runs(lab: Lab) -> None:
    """11: the refusal names the rollout, who holds it and where it stands; and the running one is not touched."""
    deployment = lab.workspace.deployment
    handle = deployment.deploy_model(f"{MODEL}/{BETTER}", ENVIRONMENT, "canary", interval="10m", steps="1,100")
    try:
        until(lambda: handle.record.in_force_since is not None)  # the last entry of the trail for ten minutes
        text = lab.run(f"%deploy {MODEL}/3 {ON_DEV}")

        assert re.search(
            rf"rollout {handle.id} of digits/2 by \S+ \(pid {os.getpid()}\) is progressing, step 1/2", text
        )
        assert "--supersede" in text
        assert handle.record.phase == "progressing"
    finally:
        handle_end = deployment.abort(handle.id, reason="the test is over").wait(60)
    assert handle_end.phase == "aborted"


def test_a_damaged_package_serves_nobody(lab: Lab) -> None:
    """41: bytes that are not the registered ones are not loaded; the rollout says which, and stable goes on."""
    from sklearn.linear_model import LogisticRegression

    from mlcycle_nb.packages import PackageStore, build_package

    workspace = lab.workspace
    store = PackageStore(workspace.context.folder("packages"))
    rows = lab.served.rows[:200]
    model = LogisticRegression(max_iter=30, tol=1e-3).fit(rows, (rows.sum(axis=1) > 19).astype(int))
    package = build_package(model, example=rows, out=store)
    version = workspace.development.register_model(MODEL, package)
    graph = package.path / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(bytes(content))

    record = workspace.deployment.deploy_model(version.reference, ENVIRONMENT, "canary").wait(120)

    assert record.phase == "rolled_back"
    assert re.search(r"model\.onnx: recorded \w+, the bytes are \w+; not loaded", record.reason), record.reason
    assert lab.served.stable == 1
    gates = {"gates": [{"check": "accuracy", "min": 0.0}]}
    report = workspace.validation.validate_model(version.reference, gates, lab.shell.user_ns["held_out"])
    assert report.record.outcome.value == "error"
    assert "the bytes are" in repr(report)


def test_data_that_shows_nothing_fails_closed(lab: Lab) -> None:
    """27, 34: overlapping rows, one group and a tiny group are no errors of the caller; the gates do not pass."""
    from sklearn.datasets import load_digits

    rows = lab.served.rows[:200]
    labels = load_digits().target[1400:1600]
    groups = {"one": np.zeros(200, int), "tiny": (np.arange(200) < 3).astype(int)}
    data = ValidationData(rows, labels, groups, train_features=rows[:50])
    rules = [
        {"check": "accuracy", "min": 0.5},
        {"check": "train_overlap", "max": 0.0},
        *({"check": "demographic_parity_difference", "max": 0.5, "group": name} for name in groups),
    ]
    report = lab.workspace.validation.validate_model(f"{MODEL}/1", {"gates": rules}, data)
    outcomes = [result.outcome.value for result in report.record.results]

    assert outcomes[0] == "passed"
    assert outcomes[1] == "failed"
    assert not {"passed"} & set(outcomes[2:]), outcomes
    assert report.record.outcome.value != "passed"
    assert "50" in str(report.record.results[1])


def test_markup_stays_text(lab: Lab) -> None:
    """60: HTML, scripts and escape sequences in what people write are shown, never obeyed."""
    script = "<script>alert(1)</script>"
    text = lab.run(f"%deploy '{script}/1'")
    assert "LESS-THAN SIGN U+003C" in text

    coloured = lab.run("%experiment \x1b[31mred")
    assert "\x1b" not in coloured
    assert "U+001B" in coloured

    deployment = lab.workspace.deployment
    handle = deployment.deploy_model(
        f"{MODEL}/{BETTER}", ENVIRONMENT, "canary", interval="10m", steps="1,100", reason=script
    )
    until(lambda: handle.record.phase == "progressing")
    deployment.abort(handle.id, reason=f"</td>{script}\x1b[2J").wait(60)
    audit = lab.shell.run_line_magic("audit", "show --last 20")
    page = audit._repr_html_() + handle.panel().html(handle.panel().snapshot())

    assert script not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in repr(audit) + repr(handle.panel())


@pytest.mark.parametrize(
    "content",
    [b"\xef\xbb\xbfgates:\n  - check: accuracy\n    min: 0.5\n", b"gates:\r\n  - check: accuracy\r\n    min: 0.5\r\n"],
    ids=["byte-order mark", "CRLF"],
)
def test_accepted(content: bytes, tmp_path: Path) -> None:
    """20: a byte-order mark and Windows line ends change nothing."""
    from mlcycle_nb.validation.gates import load_gates

    (tmp_path / "gates.yaml").write_bytes(content)

    assert load_gates(tmp_path / "gates.yaml").gates[0].minimum == 0.5
