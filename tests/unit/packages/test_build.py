"""What `build_package` makes of a model, and that it answers as the original does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.datasets import load_breast_cancer, load_digits, load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from mlcycle_nb.errors import InvalidInput, Refused
from mlcycle_nb.packages import PackageStore, build_package, check_golden, load_runtime
from mlcycle_nb.packages.probe import probe
from mlcycle_nb.packages.signing import public_key_hex

IRIS, SPECIES = load_iris(return_X_y=True)


@pytest.fixture
def store(tmp_path: Path) -> PackageStore:
    return PackageStore(tmp_path / "packages")


def scaled_logistic(labels: Any = SPECIES) -> Any:
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(IRIS, labels)


class TestScikitLearn:
    """Estimators become ONNX, with class indices as labels."""

    @pytest.mark.parametrize(
        "names", [None, ["setosa", "versicolor", "virginica"], [3, 5, 9]], ids=["indices", "texts", "sparse-ints"]
    )
    def test_labels_are_indices_into_the_class_names(self, store: PackageStore, names: list[Any] | None) -> None:
        """Whatever the classes are called, the package answers their positions."""
        labels = SPECIES if names is None else np.asarray(names)[SPECIES]
        model = scaled_logistic(labels)

        package = build_package(model, example=IRIS, out=store)
        answer = load_runtime(package).predict({"input": IRIS.astype(np.float32)})

        assert package.format == "onnx"
        assert package.class_names == tuple(str(name) for name in (names or range(3)))
        np.testing.assert_array_equal(model.classes_[answer["label"]], model.predict(IRIS))
        np.testing.assert_allclose(answer["probabilities"], model.predict_proba(IRIS), atol=1e-4)

    def test_random_forest_and_linear_svc(self, store: PackageStore) -> None:
        """A forest gives probabilities; a model without them gives labels only."""
        cancer, target = load_breast_cancer(return_X_y=True)
        forest = build_package(
            RandomForestClassifier(20, random_state=0).fit(cancer, target), example=cancer, out=store
        )
        margin = build_package(LinearSVC().fit(IRIS, SPECIES), example=IRIS, out=store)

        assert forest.format == margin.format == "onnx"
        assert [spec.name for spec in forest.signature.outputs] == ["label", "probabilities"]
        assert [spec.name for spec in margin.signature.outputs] == ["label"]

    def test_regressor_gives_values(self, store: PackageStore) -> None:
        """One number a row, without a last dimension of one."""
        model = Ridge().fit(IRIS, SPECIES)
        package = build_package(model, example=IRIS, task="regression", out=store)
        answer = load_runtime(package).predict({"input": IRIS[:5].astype(np.float32)})

        assert package.signature.outputs[0].shape == (-1,)
        np.testing.assert_allclose(answer["value"], model.predict(IRIS[:5]), rtol=1e-4)

    def test_column_names_become_feature_names(self, store: PackageStore) -> None:
        """A frame brings its names; the reference window has a column for each."""
        frame, target = load_iris(return_X_y=True, as_frame=True)
        model = LogisticRegression(max_iter=500).fit(frame, target)
        package = build_package(model, example=frame, reference=frame, reference_labels=target.to_numpy(), out=store)
        window = package.reference()

        assert package.feature_names == tuple(frame.columns)
        assert window.column_names == [*frame.columns, "prediction", "label"]
        assert window.num_rows == 150
        np.testing.assert_array_equal(window["label"].to_numpy(), target)


class TestTorch:
    """Modules become ONNX with a dynamic batch."""

    @pytest.fixture
    def torch(self) -> Any:
        return pytest.importorskip("torch")

    def test_logits_become_labels_and_probabilities(self, store: PackageStore, torch: Any) -> None:
        """Softmax and argmax are part of the graph, and batch sizes it never saw are answered."""
        torch.manual_seed(0)
        pixels, _ = load_digits(return_X_y=True)
        rows = pixels.astype(np.float32)
        model = torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.Dropout(0.5), torch.nn.Linear(32, 10))
        model.train()
        package = build_package(model, example=rows[:100], out=store)
        answer = load_runtime(package).predict({"input": rows[:7]})
        model.eval()
        with torch.no_grad():
            wanted = torch.softmax(model(torch.from_numpy(rows[:7])), dim=1).numpy()

        np.testing.assert_allclose(answer["probabilities"], wanted, atol=1e-4)
        np.testing.assert_array_equal(answer["label"], wanted.argmax(axis=1))
        assert package.class_names == tuple(str(digit) for digit in range(10))

    def test_one_logit_is_two_classes(self, store: PackageStore, torch: Any) -> None:
        """A single logit goes through the sigmoid."""
        rows = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
        model = torch.nn.Linear(4, 1)
        package = build_package(model, example=rows, class_names=["no", "yes"], out=store)
        answer = load_runtime(package).predict({"input": rows})
        with torch.no_grad():
            wanted = torch.sigmoid(model(torch.from_numpy(rows))).numpy()[:, 0]

        np.testing.assert_allclose(answer["probabilities"][:, 1], wanted, atol=1e-5)

    def test_graph_tells_no_paths(self, store: PackageStore, torch: Any) -> None:
        """Stack traces of the exporting machine are stripped."""
        rows = np.zeros((4, 4), dtype=np.float32) + 1
        package = build_package(torch.nn.Linear(4, 3), example=rows, out=store)

        assert b".py" not in package.read("model.onnx")

    def test_same_weights_same_digest(self, store: PackageStore, torch: Any) -> None:
        """Building twice gives one package."""
        torch.manual_seed(1)
        model, rows = torch.nn.Linear(4, 3), np.ones((4, 4), dtype=np.float32)

        assert build_package(model, example=rows, out=store) == build_package(model, example=rows, out=store)
        assert len(store.digests()) == 1

    def test_module_with_nan_weights_is_refused(self, store: PackageStore, torch: Any) -> None:
        """A diverged model does not become a package."""
        model = torch.nn.Linear(4, 3)
        with torch.no_grad():
            model.weight[0, 0] = float("nan")

        with pytest.raises(Refused):
            build_package(model, example=np.ones((4, 4), dtype=np.float32), format="onnx", out=store)
        assert store.digests() == []


class TestPython:
    """What ONNX cannot express is code: signed, and loaded elsewhere only."""

    def test_falls_back_with_the_reason(self, store: PackageStore) -> None:
        """The manifest says why the package is Python, and a fresh interpreter answers the golden batch."""
        key = Ed25519PrivateKey.generate()
        model = HistGradientBoostingClassifier(max_iter=5).fit(IRIS, SPECIES)
        package = build_package(model, example=IRIS, out=store, signer=key)

        assert package.format == "python"
        assert "convert" in package.manifest.details["why_python"]
        assert probe(package, [public_key_hex(key)]) == ""

    def test_needs_a_signer(self, store: PackageStore) -> None:
        """Without a key there is no Python package."""
        with pytest.raises(Refused, match="must be signed"):
            build_package(lambda rows: np.asarray(rows)[:, :2], example=IRIS, out=store)

    def test_is_not_loaded_in_the_notebook(self, store: PackageStore) -> None:
        """Even a signed one: this process is no replica."""
        key = Ed25519PrivateKey.generate()
        package = build_package(lambda rows: np.ones((len(rows), 2)) / 2, example=IRIS, out=store, signer=key)

        with pytest.raises(Refused, match="replica process"):
            load_runtime(package, trusted_keys=[public_key_hex(key)])

    @pytest.mark.parametrize(
        ("change", "words"),
        [("unsigned", "nobody signed"), ("stranger", "another workspace"), ("forged", "does not fit")],
    )
    def test_signature_must_verify(self, store: PackageStore, change: str, words: str) -> None:
        """No signature, a stranger's, and one made for another digest are refused before a byte is unpickled."""
        key = Ed25519PrivateKey.generate()
        package = build_package(lambda rows: np.ones((len(rows), 2)) / 2, example=IRIS, out=store, signer=key)
        trusted = public_key_hex(key)
        path = package.path / "signature.json"
        if change == "unsigned":
            path.unlink()
        elif change == "stranger":
            trusted = public_key_hex(Ed25519PrivateKey.generate())
        else:
            from mlcycle_nb.packages.signing import sign_digest

            path.write_bytes(sign_digest(key, "sha256:" + "0" * 64))

        assert words in probe(package, [trusted])

    def test_model_that_dies_elsewhere_leaves_no_package(self, store: PackageStore) -> None:
        """What only works in this process is found by the probe."""
        import os

        parent = os.getpid()

        def homesick(rows: Any) -> Any:
            if os.getpid() != parent:
                raise RuntimeError("not at home")
            return np.ones((len(rows), 2)) / 2

        with pytest.raises(Refused, match=r"fresh interpreter.*not at home"):
            build_package(homesick, example=IRIS, out=store, signer=Ed25519PrivateKey.generate())
        assert store.digests() == []


class TestGolden:
    """The golden batch decides."""

    def test_wrong_answer_is_found(self, store: PackageStore) -> None:
        """A runtime that permutes the labels does not pass."""
        package = build_package(scaled_logistic(), example=IRIS, out=store)
        runtime = load_runtime(package)

        class Permuted:
            thread_bound = False

            def predict(self, inputs: Any) -> Any:
                answer = runtime.predict(inputs)
                return {**answer, "label": (answer["label"] + 1) % 3}

        assert check_golden(package, runtime) < 1e-4
        with pytest.raises(Exception, match="answered wrongly: row 0"):
            check_golden(package, Permuted())

    def test_golden_arrays_are_plain(self, store: PackageStore) -> None:
        """At most 32 rows, inputs and the original's outputs."""
        inputs, outputs = build_package(scaled_logistic(), example=IRIS, out=store).golden()

        assert inputs["input"].shape == (32, 4)
        assert set(outputs) == {"label", "probabilities"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"example": IRIS[0]}, "rows and columns"),
        ({"example": IRIS[:0]}, "rows and columns"),
        ({"example": np.asarray([["a", "b"]])}, "must be numbers"),
        ({"example": np.where(IRIS > 7.5, np.nan, IRIS)}, "not finite"),
        ({"example": IRIS, "feature_names": ["a"]}, "1 feature names for rows of 4"),
        ({"example": IRIS, "feature_names": ["a", "a", "b", "c"]}, "same name"),
        ({"example": IRIS, "feature_names": ["a", "prediction", "b", "c"]}, "may not have this name"),
        ({"example": IRIS, "class_names": ["x"]}, "1 class names for a model with 3"),
        ({"example": IRIS, "reference": IRIS[:, :2]}, "reference rows have shape"),
        ({"example": IRIS, "reference_labels": SPECIES[:10]}, "reference_labels"),
    ],
)
def test_bad_arguments_are_named(store: PackageStore, arguments: dict[str, Any], words: str) -> None:
    """Each wrong argument gives its own error, and no package."""
    with pytest.raises(InvalidInput, match=words):
        build_package(scaled_logistic(), out=store, **arguments)
    assert store.digests() == []


def test_model_that_drops_rows(store: PackageStore) -> None:
    """One answer a row, or no package."""
    with pytest.raises(InvalidInput, match="1 rows of label for 32 rows"):
        build_package(lambda rows: np.ones((1, 2)) / 2, example=IRIS, out=store)


def test_not_a_model(store: PackageStore) -> None:
    """A thing that cannot predict is refused by its type."""
    with pytest.raises(InvalidInput, match="dict"):
        build_package({"weights": 1}, example=IRIS, out=store)
