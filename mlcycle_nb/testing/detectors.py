"""The contract of drift detectors, for built-in ones and for those of other packages.

@pytest.mark.parametrize("name", DETECTORS.names())
def test_contract(name):
    check_detector(DETECTORS.load(name))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlcycle_nb.monitoring.detectors._contract import Detector, Floats

REFERENCE, WINDOW = 1000, 200


def check_detector(detector: Detector, *, repetitions: int = 300) -> None:
    """Raise AssertionError, naming the promise, when the detector breaks one."""
    from mlcycle_nb.monitoring.detectors._contract import parts_of

    for part in parts_of(detector):
        check_level(part, repetitions)
        check_power(part)
        check_power_rate(part, max(repetitions // 4, 5))
        check_order(part)
        check_scale(part)


def check_level(detector: Detector, repetitions: int, level: float = 0.05) -> None:
    """On equal distributions a p-value of at most `level` comes with a chance of about `level`, or less."""
    import numpy as np
    from scipy import stats

    rng = np.random.default_rng(20_260_101)
    small = 0
    for _ in range(repetitions):
        prepared = detector.prepare(draw(detector, rng, REFERENCE))
        result = detector.compare(prepared, draw(detector, rng, WINDOW))
        assert np.isfinite(result.p_value), "a p-value is finite"
        assert np.isfinite(result.effect), "an effect is finite"
        small += result.p_value <= level
    # A detector exactly at its level passes this with a chance of 0.999.
    most = int(stats.binom.ppf(0.999, repetitions, level))
    assert small <= most, f"level: {small} of {repetitions} equal windows have p <= {level}, over {most}"


def check_power(detector: Detector) -> None:
    """A shift by half a standard deviation, or of a fifth of the rows' category, is found and has an effect.

    A detector of streams looks at a few dozen rows at a time: it is asked for a shift by one and a half of them.
    """
    import numpy as np

    rng = np.random.default_rng(1)
    prepared = detector.prepare(draw(detector, rng, REFERENCE))
    more = 1.0 if getattr(detector, "ordered", False) else 0.0
    result = detector.compare(prepared, draw(detector, rng, 1000, shifted=True) + more)
    assert result.p_value < 1e-6, f"power: p is {result.p_value} for a clear shift"
    assert result.effect >= detector.effect_bound, f"power: effect {result.effect} is under the bound"


def check_power_rate(detector: Detector, repetitions: int, level: float = 0.05, power: float = 0.9) -> None:
    """The same shift is found at `level` in windows of 200 rows with a chance of at least `power`."""
    import numpy as np
    from scipy import stats

    rng = np.random.default_rng(4)
    prepared = detector.prepare(draw(detector, rng, REFERENCE))
    found = sum(
        detector.compare(prepared, draw(detector, rng, WINDOW, shifted=True)).p_value <= level
        for _ in range(repetitions)
    )
    # A detector exactly of this power passes this with a chance of 0.999.
    least = int(stats.binom.ppf(0.001, repetitions, power))
    assert found >= least, f"power: {found} of {repetitions} shifted windows have p <= {level}, under {least}"


def check_order(detector: Detector) -> None:
    """The order of rows, on either side, changes nothing; of a detector of streams, that of the reference."""
    import numpy as np

    rng = np.random.default_rng(2)
    reference, window = draw(detector, rng, REFERENCE), draw(detector, rng, WINDOW, shifted=True)
    first = detector.compare(detector.prepare(reference), window)
    moved = window if getattr(detector, "ordered", False) else rng.permutation(window)
    second = detector.compare(detector.prepare(rng.permutation(reference)), moved)
    assert np.isclose(first.effect, second.effect, rtol=1e-6), "order: the effect depends on the order of rows"
    assert np.isclose(first.p_value, second.p_value, rtol=1e-3), "order: the p-value depends on the order of rows"


def check_scale(detector: Detector) -> None:
    """Other units of the same numbers change nothing."""
    import numpy as np

    rng = np.random.default_rng(3)
    reference, window = draw(detector, rng, REFERENCE), draw(detector, rng, WINDOW, shifted=True)
    first = detector.compare(detector.prepare(reference), window)
    second = detector.compare(detector.prepare(reference * 8), window * 8)
    assert np.isclose(first.effect, second.effect, rtol=1e-3), "scale: the effect depends on the unit"
    assert np.isclose(first.p_value, second.p_value, rtol=1e-2, atol=1e-9), "scale: the p-value depends on the unit"


def draw(detector: Detector, rng: Any, rows: int, *, shifted: bool = False) -> Floats:
    """Return a sample of the detector's kind."""
    import numpy as np

    if detector.kind == "categorical":
        shares = [0.2, 0.3, 0.2, 0.3] if shifted else [0.4, 0.3, 0.2, 0.1]
        return np.asarray(rng.choice(4, rows, p=shares), dtype=np.float64)
    shape = (rows, 4) if detector.kind == "joint" else (rows,)
    return np.asarray(rng.normal(0.5 if shifted else 0.0, 1.0, shape), dtype=np.float64)
