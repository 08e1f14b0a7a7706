"""Settings: file, then environment, then argument; all that is wrong is named at once, and nothing is guessed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from mlcycle_nb.errors import InvalidInput, InvalidSettings
from mlcycle_nb.settings import SECTIONS, Settings, load_settings
from mlcycle_nb.supervisor.start import settings_environment


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "mlcycle.toml"


def refused(file: Path, text: str) -> str:
    file.write_text(text)
    with pytest.raises(InvalidSettings) as caught:
        load_settings(file, environ={})
    return str(caught.value)


class TestPriority:
    """File < environment < argument."""

    def test_defaults_without_anything(self, file: Path) -> None:
        """A missing file is no settings."""
        assert load_settings(file, environ={}) == Settings()

    def test_each_source_beats_the_one_before(self, file: Path) -> None:
        """Key by key."""
        file.write_text("[serving]\nreplicas = 3\nreplica_threads = 3\ngateway_threads = 3\n")
        environ = {"MLCYCLE_SERVING_REPLICA_THREADS": "4", "MLCYCLE_SERVING_GATEWAY_THREADS": "4"}
        serving = load_settings(file, environ=environ, overrides={"serving": {"gateway_threads": 5}}).serving

        assert (serving.replicas, serving.replica_threads, serving.gateway_threads) == (3, 4, 5)

    def test_short_names_in_the_environment(self) -> None:
        """Those that people set by hand."""
        environ = {
            "MLCYCLE_DATABASE_URL": "postgresql://x/y",
            "MLCYCLE_DETERMINISTIC": "yes",
            "MLCYCLE_CLOCK": "offset",
        }
        workspace = load_settings(environ=environ).workspace

        assert (workspace.database_url, workspace.deterministic, workspace.clock) == (
            "postgresql://x/y",
            True,
            "offset",
        )

    def test_lists_in_the_environment(self) -> None:
        """With commas; a comma alone is an empty list."""
        read = load_settings(environ={"MLCYCLE_DEPLOYMENT_ENVIRONMENTS": "a, b", "MLCYCLE_DEPLOYMENT_GATED": ","})

        assert (read.deployment.environments, read.deployment.gated) == (("a", "b"), ())

    def test_an_empty_variable_is_not_set(self) -> None:
        """As in a shell."""
        assert load_settings(environ={"MLCYCLE_SERVING_REPLICAS": ""}) == load_settings(environ={})

    @pytest.mark.parametrize(
        "overrides",
        [
            {},
            {"deployment": {"gated": []}, "serving": {"replicas": 7, "prediction_log_days": 0.5}},
            {"workspace": {"deterministic": True, "actor": "anna, bernd@host", "database_url": "postgresql://u@/d"}},
            {"monitoring": {"webhook_allowed_hosts": ["127.0.0.1", "localhost"]}},
        ],
    )
    def test_a_supervisor_gets_the_same_settings(self, overrides: dict[str, Any]) -> None:
        """What was given as an argument travels in the environment."""
        mine = load_settings(environ={}, overrides=overrides)

        assert load_settings(environ=settings_environment(mine)) == mine


class TestRefusals:
    """Bad inputs 14 to 21, as far as they concern settings."""

    def test_an_unknown_key_is_not_ignored(self, file: Path) -> None:
        """It is named with its place and the nearest known one."""
        assert "unknown key mlcycle.toml: serving.replicsa: did you mean 'replicas'?" in refused(
            file, "[serving]\nreplicsa = 3"
        )

    def test_an_unknown_section_is_not_ignored(self, file: Path) -> None:
        """Nor one that is no table."""
        assert "unknown section [servng] in mlcycle.toml: did you mean 'serving'?" in refused(file, "[servng]")
        assert "[serving] in mlcycle.toml must be a table" in refused(file, "serving = 3")

    def test_an_unknown_variable_of_a_section_is_not_ignored(self) -> None:
        """A misspelt variable would otherwise be silent."""
        with pytest.raises(InvalidSettings, match=r"environment: serving\.replicsa: did you mean 'replicas'"):
            load_settings(environ={"MLCYCLE_SERVING_REPLICSA": "3"})

    def test_everything_wrong_is_told_at_once(self, file: Path) -> None:
        """With its place, and nothing is changed."""
        line = refused(file, '[serving]\nreplicas = 0\nreplicsa = 1\n[supervisor]\nworkers = "8"\n')

        assert "serving.replicas must be from 1 to 64 (got 0)" in line
        assert "serving.replicsa" in line
        assert "supervisor.workers must be a finite number (got '8')" in line
        assert line.endswith("nothing was changed")

    @pytest.mark.parametrize("value", ["nan", "inf", "-inf", '"2"', "true", "1e400", "[2]", "{a=2}", "2020-01-01"])
    def test_numbers_are_finite_numbers(self, value: str, file: Path) -> None:
        """Neither text, truth values nor anything infinite counts as one."""
        line = refused(file, f"[serving]\nprediction_log_days = {value}")

        assert "serving.prediction_log_days must be a finite number" in line

    def test_a_number_beyond_all_floats(self, file: Path) -> None:
        """It is finite, and out of range."""
        line = refused(file, f"[serving]\nprediction_log_days = 1{'0' * 400}")

        assert "serving.prediction_log_days must be from 0.01 to 3650" in line

    @pytest.mark.parametrize("value", ["0", "65", "-1", "1.5", "2.0000001", "9" * 300])
    def test_whole_numbers_in_range(self, value: str, file: Path) -> None:
        """The bounds are told."""
        assert "serving.replicas must be" in refused(file, f"[serving]\nreplicas = {value}")

    @pytest.mark.parametrize("value", ["-1", "65536", "70000"])
    def test_ports(self, value: str, file: Path) -> None:
        """0 is a free one; what no port can be is refused."""
        assert "serving.gateway_port must be from 0 to 65535" in refused(file, f"[serving]\ngateway_port = {value}")

    @pytest.mark.parametrize("value", ["false", "1", "1.5", "[]"])
    def test_texts_are_texts(self, value: str, file: Path) -> None:
        """A value that is no text is not turned into one."""
        assert "workspace.actor must be text" in refused(file, f"[workspace]\nactor = {value}")

    @pytest.mark.parametrize("value", ["1", '"yes"', '"true"'])
    def test_truth_values_are_truth_values(self, value: str, file: Path) -> None:
        """In the file; the environment has only text and takes `yes`."""
        assert "workspace.deterministic must be true or false" in refused(file, f"[workspace]\ndeterministic = {value}")

    @pytest.mark.parametrize("value", ['"dev"', "[1]", '["a", 1]', "true"])
    def test_lists_are_lists_of_texts(self, value: str, file: Path) -> None:
        """One text is not a list of its letters."""
        assert "deployment.gated must be a list of texts" in refused(file, f"[deployment]\ngated = {value}")

    def test_choices(self, file: Path) -> None:
        """With the nearest one."""
        line = refused(file, '[workspace]\nclock = "ofset"')

        assert "must be one of system, offset; did you mean 'offset'?" in line

    @pytest.mark.parametrize("text", ["2", "maybe", "TRUE!"])
    def test_bad_values_in_the_environment(self, text: str) -> None:
        """They are named as the environment's."""
        with pytest.raises(InvalidSettings, match=r"environment: workspace\.deterministic must be true or false"):
            load_settings(environ={"MLCYCLE_DETERMINISTIC": text})
        with pytest.raises(InvalidSettings, match=r"environment: serving\.replicas must be"):
            load_settings(environ={"MLCYCLE_SERVING_REPLICAS": "nan"})

    def test_a_key_with_an_escape_sequence_is_inert(self, file: Path) -> None:
        """A settings file cannot colour the terminal that shows its error."""
        assert refused(file, '[serving]\n"\\u001b[31mx" = 1').isprintable()


class TestFiles:
    """What is no settings file is named, never half read and never waited for."""

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[serving]\nreplicas = 2\nreplicas = 3\n", "not valid TOML: Cannot overwrite a value (at line 3"),
            ("[serving]\n[serving]", "not valid TOML: Cannot declare"),
            ("[serving\nreplicas = 2", "not valid TOML"),
            ("[serving]\nreplicas = 08", "not valid TOML"),
            ("[serving]\nreplicas = no", "not valid TOML"),
            ("[serving]\nreplicas = " + "9" * 5000, "not valid TOML"),
            ("x = " + "[" * 50_000, "not valid TOML"),
            ("[serving]\nreplicas = 2\rx", "not valid TOML"),
        ],
    )
    def test_not_toml(self, text: str, words: str, file: Path) -> None:
        """Duplicate keys, other languages' words, endless numbers and brackets."""
        file.write_bytes(text.encode())
        with pytest.raises(InvalidSettings) as caught:
            load_settings(file, environ={})

        assert words in str(caught.value)

    @pytest.mark.parametrize("prefix", [b"", b"\xef\xbb\xbf"])
    def test_a_byte_order_mark_and_line_ends_of_windows(self, prefix: bytes, file: Path) -> None:
        """Editors write them: they are accepted."""
        file.write_bytes(prefix + b"[serving]\r\nreplicas = 3\r\n")

        assert load_settings(file, environ={}).serving.replicas == 3

    @pytest.mark.parametrize(
        ("content", "words"),
        [
            ("[serving]\nreplicas = 3".encode("utf-16"), "is UTF-16 text"),
            (b"[serving]\nreplicas = 3\x00", "has a NUL byte at 22"),
            (b"[serving]\n# \xff\xfe", "is not UTF-8 at byte 12"),
            (b"#" * 1_048_577, "has 1048577 bytes, over 1048576"),
        ],
    )
    def test_not_text(self, content: bytes, words: str, file: Path) -> None:
        """The encoding, the byte or the size is named."""
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=words):
            load_settings(file, environ={})

    @pytest.mark.timeout(10)
    @pytest.mark.parametrize(
        ("make", "words"),
        [
            ("mkdir {}", "is not a regular file"),
            ("mkfifo {}", "is not a regular file"),
            ("ln -s /dev/zero {}", "is not a regular file"),
            ("ln -s {} {}", "cannot be opened: Too many levels of symbolic links"),
            ("ln -s nowhere {}", "there is no such file"),
            ("truncate -s 2G {}", "has 2147483648 bytes, over 1048576"),
        ],
    )
    def test_not_a_file(self, make: str, words: str, file: Path) -> None:
        """A pipe is not waited for, a device not read, a broken link not taken for an absent file."""
        subprocess.run(make.replace("{}", str(file)).split(), check=True)
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(InvalidInput, match=words):
            load_settings(file, environ={})

        assert len(os.listdir("/proc/self/fd")) == before


def test_no_section_is_the_beginning_of_another_variable() -> None:
    """Variables that are no settings must not be taken for some."""
    others = ("MLCYCLE_HOME", "MLCYCLE_KEYS", "MLCYCLE_CRASH_AT", "MLCYCLE_LIVE", "MLCYCLE_ENVOY", "MLCYCLE_PROCESS")

    assert not [o for o in others for s in SECTIONS if o.startswith(f"MLCYCLE_{s}_".upper())]
