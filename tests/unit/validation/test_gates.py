"""Gates files: read strictly, every problem named with its place and line."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mlcycle_nb.errors import InvalidInput
from mlcycle_nb.validation.gates import load_gates

GOOD = """\
# what a version must be shown to be
gates:
  - check: accuracy
    min: 0.9
    confidence: 0.99
    min_samples: 200
  - {check: log_loss, bound: "<= 0.5", required: false}
  - check: package_format
    allow: [onnx, python]
environments: [staging, production]
"""


def write(folder: Path, content: str | bytes) -> Path:
    path = folder / "gates.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refusal(folder: Path, content: str | bytes) -> str:
    with pytest.raises(InvalidInput) as refused:
        load_gates(write(folder, content))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def rule(line: str) -> str:
    return f"gates:\n  - check: accuracy\n    {line}\n"


class TestGoodFiles:
    def test_everything_is_read(self, tmp_path: Path) -> None:
        rules = load_gates(write(tmp_path, GOOD))

        accuracy, loss, form = rules.gates
        assert (accuracy.minimum, accuracy.confidence, accuracy.min_samples, accuracy.required) == (
            0.9,
            0.99,
            200,
            True,
        )
        assert (loss.maximum, loss.required, loss.bound) == (0.5, False, "<= 0.5")
        assert form.options == {"allow": ["onnx", "python"]}
        assert rules.environments == ("staging", "production")
        assert (rules.applies_to("production"), rules.applies_to("dev")) == (True, False)

    @pytest.mark.parametrize("change", [lambda t: b"\xef\xbb\xbf" + t, lambda t: t.replace(b"\n", b"\r\n")])
    def test_a_byte_order_mark_and_windows_lines_mean_the_same(self, tmp_path: Path, change: object) -> None:
        plain = load_gates(write(tmp_path, GOOD))

        assert load_gates(write(tmp_path, change(GOOD.encode()))).gates == plain.gates  # type: ignore[operator]

    def test_a_mapping_is_read_alike(self) -> None:
        rules = load_gates({"gates": [{"check": "accuracy", "min": 0.9}]})

        assert rules.gates[0].minimum == 0.9
        assert rules.digest.startswith("sha256:")

    def test_the_digest_is_of_the_content(self, tmp_path: Path) -> None:
        before = load_gates(write(tmp_path, GOOD)).digest

        assert load_gates(write(tmp_path, GOOD.replace("0.9\n", "0.8\n"))).digest != before

    def test_an_alias_is_allowed_within_bounds(self, tmp_path: Path) -> None:
        text = "gates:\n  - &base {check: accuracy, min: 0.9}\n  - *base\n"

        assert len(load_gates(write(tmp_path, text)).gates) == 2


class TestBadKeysAndValues:
    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("min_acuracy: 0.9", ["gates[0].min_acuracy (line 3)", "unknown key"]),
            ("mim: 0.9", ["did you mean 'min'?"]),
            ("min: .nan", ["must be a finite number", "line 3", "gates[0].min"]),
            ("min: .inf", ["must be a finite number", "line 3"]),
            ("min: 1e400", ["must be a finite number", "line 3"]),
            ('min: "0.8"', ["must be a finite number in [0,1]", "'0.8'", "gates[0].min (line 3)"]),
            ("min: true", ["must be a finite number in [0,1]", "True"]),
            ("min: 1.5", ["must be a finite number in [0,1]", "1.5"]),
            ("min: -0.1", ["must be a finite number in [0,1]"]),
            ("max: 0.9", ["accuracy is better when higher: use min"]),
            ("min: no", ["expected string, got bool", "quote it", "line 3"]),
            ("min: 1_000", ["in a way of its own", "1_000"]),
            ("min: 08", ["in a way of its own"]),
            ("min: 0x1", ["in a way of its own"]),
            ("min: 12:30", ["in a way of its own"]),
            ('bound: "> 0.9"', ["must be such as"]),
            ('bound: ">= 1e999"', ["must be a finite number in [0,1]"]),
            ("required: maybe", ["must be true or false"]),
            ("confidence: 95", ["must be a finite number in [0.5,0.9999]"]),
            ("min_samples: 0\n    min: 0.9", ["would judge on no data"]),
            ("min_samples: 2.5\n    min: 0.9", ["must be a whole number"]),
            ("required: true", ["accuracy needs a bound"]),
        ],
    )
    def test_each_is_named_with_its_place(self, tmp_path: Path, line: str, words: list[str]) -> None:
        message = refusal(tmp_path, rule(line))

        for word in words:
            assert word in message

    def test_all_problems_come_at_once(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, "gates:\n  - {check: acuracy}\n  - {check: f1, min: 2}\nenvironment: [x]\n")

        assert "3 problems" in message
        assert "did you mean 'accuracy'?" in message
        assert "gates[1].min (line 3)" in message
        assert "environment (line 4): unknown key; did you mean 'environments'?" in message

    @pytest.mark.parametrize("text", ["", "# nothing\n", "gates: []\n", "gates: {}\n", "- a\n", "gates:\n"])
    def test_no_rule_is_no_gates_file(self, tmp_path: Path, text: str) -> None:
        assert refusal(tmp_path, text)

    def test_only_optional_rules_mean_nothing(self, tmp_path: Path) -> None:
        assert "no gate is required" in refusal(tmp_path, rule("min: 0.9\n    required: false"))

    @pytest.mark.parametrize("name", ["no", "on", "Yes"])
    def test_an_environment_that_yaml_reads_as_a_boolean(self, tmp_path: Path, name: str) -> None:
        message = refusal(tmp_path, f"{rule('min: 0.9')}environments: [{name}]\n")

        assert "expected string, got bool" in message
        assert f'quote it ("{name}")' in message

    def test_an_environment_that_is_a_number(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, f"{rule('min: 0.9')}environments: [7]\n")

        assert "environments[0] (line 4): expected string, got int; quote it" in message

    def test_a_number_that_is_not_json_in_a_mapping(self) -> None:
        with pytest.raises(InvalidInput, match="JSON"):
            load_gates({"gates": [{"check": "accuracy", "min": float("nan")}]})


class TestBadDocuments:
    def test_a_key_given_twice_names_both_lines(self, tmp_path: Path) -> None:
        message = refusal(tmp_path, rule("min: 0.9\n    min: 0.1"))

        assert "given twice, in lines 3 and 4" in message

    @pytest.mark.parametrize("tag", ["!!python/object/apply:os.system [echo]", "!!str 0.9", "!own 1", "!!float 1"])
    def test_tags_are_refused(self, tmp_path: Path, tag: str) -> None:
        assert "tags are not allowed" in refusal(tmp_path, rule(f"min: {tag}"))

    def test_an_alias_bomb_is_refused_at_once(self, tmp_path: Path) -> None:
        lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
        lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
        start = time.process_time()

        message = refusal(tmp_path, "\n".join(lines))

        assert "alias expansion over the limit" in message
        assert time.process_time() - start < 5

    def test_an_alias_to_itself_is_refused(self, tmp_path: Path) -> None:
        assert "alias expansion over the limit" in refusal(tmp_path, "gates: &g [*g]")

    def test_depth_and_length_are_bounded(self, tmp_path: Path) -> None:
        assert "nested deeper than 32" in refusal(tmp_path, "[" * 100_000)
        assert "more than 20000 values" in refusal(tmp_path, "[" + "1," * 50_000 + "1]")

    def test_merge_keys_and_second_documents_are_refused(self, tmp_path: Path) -> None:
        assert "merge keys" in refusal(tmp_path, "a: &a {x: 1}\nb:\n  <<: *a\n")
        assert "second document" in refusal(tmp_path, GOOD + "---\n" + GOOD)

    def test_wrong_syntax_names_the_line(self, tmp_path: Path) -> None:
        assert "gates.yaml line 2" in refusal(tmp_path, "gates: [\n")

    def test_other_encodings_are_named(self, tmp_path: Path) -> None:
        assert "UTF-16" in refusal(tmp_path, GOOD.encode("utf-16"))
        assert "NUL byte" in refusal(tmp_path, GOOD.encode() + b"\x00")
        assert "not UTF-8" in refusal(tmp_path, b"gates: \xff\xff\n")

    def test_what_is_no_small_regular_file_is_refused_without_waiting(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        (tmp_path / "large").write_bytes(b"#" * 1_048_577)
        for name, words in [
            ("pipe", "regular file"),
            (".", "regular file"),
            ("loop", "cannot be opened"),
            ("large", "over 1048576"),
        ]:
            with pytest.raises(InvalidInput, match=words):
                load_gates(tmp_path / name)
        with pytest.raises(InvalidInput, match="regular file"):
            load_gates("/dev/zero")
        with pytest.raises(InvalidInput, match="no such file"):
            load_gates(tmp_path / "absent.yaml")
