"""A plan refuses nonsense when it is made, so that nothing else has to ask again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlcycle_nb.errors import InvalidInput, InvalidName
from mlcycle_nb.serving.gateway import GatewayPlan, PinnedPlan, RevisionCluster, ServicePlan

KEY = "0123456789abcdef"
CLUSTERS = tuple(RevisionCluster(model="digits", version=v, sockets=(f"/run/{v}.sock",)) for v in (7, 8))


def plan(**fields):
    service = ServicePlan(model="digits", split=((7, 9000), (8, 1000)))
    return GatewayPlan(
        **{"fence": 1, "generation": 1, "services": (service,), "clusters": CLUSTERS, "consumers": {"a": KEY}, **fields}
    )


class TestWeights:
    @pytest.mark.parametrize(
        "split",
        [
            (),
            ((7, 9999),),
            ((7, 9000), (8, 1001)),
            ((7, 10_001), (8, -1)),
            ((7, 5000), (7, 5000)),
            ((7, 9999.0), (8, 1)),
            ((7, True), (8, 9999)),
            ((0, 10_000),),
            (("7", 10_000),),
            ((7, float("nan")), (8, 10_000)),
        ],
    )
    def test_refused(self, split):
        """Integers out of 10,000 that sum to 10,000, each version once."""
        with pytest.raises(InvalidInput):
            ServicePlan(model="digits", split=split)

    def test_rule_is_stated(self):
        """The error says the exact rule and what the sum was."""
        with pytest.raises(InvalidInput, match=r"out of 10,000 .* sum to 9,999"):
            ServicePlan(model="digits", split=((7, 9999),))

    def test_mirror_needs_no_sum(self):
        """Copies are in addition, so their weights stand alone."""
        assert ServicePlan(model="digits", split=((7, 10_000),), mirror=((8, 2500),)).versions() == {7, 8}


class TestReferences:
    def test_version_without_replicas(self):
        """A split, mirror or pinned address may not name a version without a cluster."""
        for service in (
            ServicePlan(model="digits", split=((9, 10_000),)),
            ServicePlan(model="digits", split=((7, 10_000),), mirror=((9, 1),)),
            ServicePlan(model="digits", split=((7, 10_000),), pinned=(PinnedPlan(version=6, split=((9, 10_000),)),)),
        ):
            with pytest.raises(InvalidInput, match=r"without replicas \(got \[9\]\) - digits"):
                plan(services=(service,))

    def test_version_of_another_model(self):
        """Replicas of one model do not serve another."""
        with pytest.raises(InvalidInput, match="without replicas"):
            plan(services=(ServicePlan(model="other", split=((7, 10_000),)),))

    def test_doubles(self):
        """A model, a version, a pinned version and a socket appear once."""
        service = ServicePlan(model="digits", split=((7, 10_000),))
        with pytest.raises(InvalidInput, match="two services"):
            plan(services=(service, service))
        with pytest.raises(InvalidInput, match="two clusters"):
            plan(clusters=(*CLUSTERS, CLUSTERS[0]))
        with pytest.raises(InvalidInput, match="serves two versions"):
            plan(clusters=(*CLUSTERS, replace(CLUSTERS[0], version=9)))
        with pytest.raises(InvalidInput, match="pinned twice"):
            replace(service, pinned=(PinnedPlan(version=3, gone=True), PinnedPlan(version=3, gone=True)))

    @pytest.mark.parametrize("model", ["", "Digits", "a/b", "a.b", "../x", "x" * 64, "a~b", "é"])
    def test_names(self, model):
        """Names go into file names, addresses and cluster names, so only the grammar passes."""
        with pytest.raises(InvalidName):
            RevisionCluster(model=model, version=1, sockets=())
        with pytest.raises(InvalidName):
            plan(consumers={model: KEY})

    @pytest.mark.parametrize("socket", ["relative.sock", "/" + "x" * 107, "/a\0b", ""])
    def test_sockets(self, socket):
        """A socket's path is absolute and fits the kernel's limit."""
        with pytest.raises(InvalidInput, match="107 bytes"):
            RevisionCluster(model="digits", version=1, sockets=(socket,))


class TestConsumers:
    @pytest.mark.parametrize(
        "key", ["", "short", "has space 0123456789", "line\n0123456789abcdef", "é" * 20, "x" * 513]
    )
    def test_keys(self, key):
        """A key is long and printable; a refused one is not shown."""
        with pytest.raises(InvalidInput, match="consumer alice") as error:
            plan(consumers={"alice": key})
        assert key == "" or key not in str(error.value)

    def test_same_key_twice(self):
        """One key cannot name two consumers; the key is not shown."""
        with pytest.raises(InvalidInput, match="same API key") as error:
            plan(consumers={"alice": KEY, "bob": KEY})
        assert KEY not in str(error.value)


class TestHeaders:
    @pytest.mark.parametrize(("name", "value"), [("a b", "x"), ("", "x"), ("a", "x\r\ny: z"), ("a", "é"), ("a:", "x")])
    def test_refused(self, name, value):
        """A header that would split the answer is refused."""
        with pytest.raises(InvalidInput, match="not an HTTP header"):
            PinnedPlan(version=1, split=((1, 10_000),), headers={name: value})


class TestNumbers:
    @pytest.mark.parametrize("number", [-1, 1.0, True, "1", None])
    def test_fence_and_generation(self, number):
        """Both are whole numbers; True is not 1."""
        with pytest.raises(InvalidInput):
            plan(fence=number)
        with pytest.raises(InvalidInput):
            plan(generation=number)


class TestDigest:
    def test_says_what_and_not_who(self):
        """Fence and generation do not change the digest; anything else does."""
        one = plan()
        assert one.digest() == replace(one, fence=9, generation=9).digest()
        assert one.digest() != replace(one, consumers={"b": KEY}).digest()
        assert one.digest() != replace(one, consumers={"a": KEY + "x"}).digest()
        assert one.digest() != replace(one, clusters=CLUSTERS[::-1]).digest()
