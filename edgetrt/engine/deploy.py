"""From a network to an engine that serves, straight down.

    inspect -> place -> rewrite -> precision -> build -> verify -> bench -> cache -> activate

The same order on the same machine is found in the cache by its fingerprint, which is made of what goes in:
the network, the recipe, the frames, the toolchain and the device.
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from edgetrt.engine import report as reports
from edgetrt.engine import variants
from edgetrt.engine.accuracy import Gate, Scorer, Verdict, answer
from edgetrt.engine.fingerprint import Fingerprint, Toolchain, digest_network, fingerprint
from edgetrt.engine.fitting import place
from edgetrt.engine.report import Report
from edgetrt.engine.spec import BuildSpec

if TYPE_CHECKING:
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.cache import Cache
    from edgetrt.engine.fitting import Fitted, Order
    from edgetrt.engine.variants import Choice
    from edgetrt.model.frames import Frames
    from edgetrt.model.placement import Placement
    from edgetrt.model.quantize import Style
    from edgetrt.ports import Session
    from edgetrt.types import DeviceIdentity

Say = Callable[[str, str], None]
"""Told the step and what it is doing."""

NETWORK = "model.onnx"
"""Name of the network in a cache entry: its metadata say how the engine's tensors are read."""

JUDGED = 32
"""Frames that the gate compares at most; all of them calibrate."""


@dataclass(frozen=True)
class Product:
    """A built engine.

    Attributes:
        path: the file that a backend loads.
        network: the network it was made from; the same file where nothing is compiled ahead.
        warnings: what the builder said.
    """

    path: Path
    network: Path
    warnings: tuple[str, ...] = ()


class Shop(Protocol):
    """What the flow asks of the rim; one for each backend, made in `app`."""

    backend: str
    toolchain: Toolchain
    device: DeviceIdentity
    style: Style

    def frames_digest(self) -> str:
        """Name the user's frames; empty when there are none."""

    def frames(self, folder: Path) -> Frames | None:
        """Preprocess the user's frames and keep them in `folder`."""

    def gate(self) -> Gate:
        """How the task is judged."""

    def time_ms(self, network: Path) -> float | None:
        """Median time of one inference of a network here; None where only a built engine runs."""

    def build(
        self, spec: BuildSpec, plain: Path, folder: Path, say: Callable[[str], None]
    ) -> Product:
        """Make the engine; `plain` is the network before any precision was written into it."""

    def load(self, engine: Path) -> Session | None:
        """Load it; None where engines can be built and not run."""

    def figures(self, session: Session) -> Figures:
        """Measure it."""

    def waterfall_ms(self, load: Callable[[], Session]) -> dict[str, float]:
        """Median time of each stage of a frame from the user's source, with a session that `load` gives."""


def name_engine(order: Order, shop: Shop) -> Fingerprint:
    """Name the engine that an order leads to, before any of the work."""
    recipe = order.recipe.config
    asked = msgspec.json.encode(
        [order.target, order.trt, order.rewrite, recipe, shop.frames_digest()], order="sorted"
    )
    spec = BuildSpec(
        onnx=order.recipe.model,
        precision="fp32" if recipe.precision == "auto" else recipe.precision,
        dla=recipe.dla,
        strict=recipe.strict,
    )
    return fingerprint(
        digest_network(order.recipe.model),
        spec,
        shop.toolchain,
        shop.device,
        hashlib.sha256(asked).hexdigest(),
    )


def deploy(order: Order, shop: Shop, cache: Cache, say: Say) -> Report:
    """Make the engine, or find it in the cache; nothing is activated here.

    Raises:
        ModelError: the network, or its accuracy, will not do.
        BackendError: building or running it failed.
    """
    name = name_engine(order, shop)
    with cache.lock(name.digest, lambda why: say("cache", why)):
        known = cache.get(name.digest)
        if known is not None and "report" in known.info:
            stored = msgspec.convert(known.info["report"], Report)
            return msgspec.structs.replace(stored, name=order.name, cache="hit")
        with tempfile.TemporaryDirectory(prefix="edgetrt-") as folder:
            work = Work(order, shop, Path(folder), say)
            report, product = work.run(name)
            cache.put(
                name.digest,
                {product.path.name: product.path, NETWORK: product.network},
                product.path.name,
                name.fields,
                {"model": order.recipe.model.name, "report": msgspec.to_builtins(report)},
            )
    return report


@dataclass
class Work:
    """One deployment under way."""

    order: Order
    shop: Shop
    folder: Path
    say: Say
    steps_s: dict[str, float] = field(default_factory=dict)

    def run(self, name: Fingerprint) -> tuple[Report, Product]:
        """Do every step; each reads what the ones before it made."""
        order, shop = self.order, self.shop
        started = time.monotonic()
        with self._step("place"):
            network = place(order, self.folder)
        with self._step("frames"):
            frames = shop.frames(self.folder)
        with self._step("precision"):
            choice = self._choose(network.path, frames)
        with self._step("build"):
            product = self._build(choice, network)
        with self._step("verify"):
            verdict = self._verify(product, choice, frames)
        with self._step("bench"):
            figures, waterfall = self._bench(product)
        report = Report(
            name=order.name,
            model=str(order.recipe.model),
            engine=name.digest,
            cache="miss",
            backend=shop.backend,
            toolchain=f"{shop.toolchain.flavour} {shop.toolchain.version}",
            device=shop.device.model,
            precision=choice.taken.precision,
            reason=choice.reason,
            tried=[reports.tried(v, taken=v is choice.taken) for v in choice.tried],
            placement=reports.placed(network.placement) if network.placement else None,
            rewrites=list(network.changes),
            accuracy=reports.accuracy(verdict, min(JUDGED, len(frames)) if frames else 0),
            latency_ms=msgspec.to_builtins(figures.latency_ms) if figures else None,
            throughput_qps=figures.throughput_qps if figures else None,
            waterfall_ms=waterfall,
            bytes=product.path.stat().st_size,
            build_s=round(time.monotonic() - started, 2),
            steps_s=self.steps_s,
            advice=_advice(choice, network.placement, frames),
            warnings=[*product.warnings, *(figures.warnings if figures else ())],
        )
        return report, product

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.say(name, "")
        start = time.monotonic()
        yield
        self.steps_s[name] = round(time.monotonic() - start, 3)

    def _choose(self, network: Path, frames: Frames | None) -> Choice:
        """Pick the precision; the original network stays the reference, whatever was rewritten."""
        scorer = None
        if frames is not None:
            scorer = Scorer(self.shop.gate(), self.order.recipe.model, frames.spread(JUDGED))
        bench = variants.Bench(
            model=network,
            folder=self.folder,
            frames=frames,
            scorer=scorer,
            style=self.shop.style,
            time_ms=self.shop.time_ms,
            say=lambda what: self.say("precision", what),
        )
        return variants.choose(self.order.recipe.config.precision, bench)

    def _build(self, choice: Choice, network: Fitted) -> Product:
        recipe = self.order.recipe.config
        spec = BuildSpec(
            onnx=choice.taken.path,
            precision=choice.taken.precision,
            typed=choice.taken.precision != "fp32",
            dla=recipe.dla,
            gpu_layers=network.gpu_layers,
            strict=recipe.strict,
        )
        return self.shop.build(
            spec, network.path, self.folder, lambda what: self.say("build", what)
        )

    def _verify(self, product: Product, choice: Choice, frames: Frames | None) -> Verdict | None:
        """Hold the finished engine against the reference; the network passed, the engine must too.

        Raises:
            AccuracyError: it loses more than the limit.
        """
        if frames is None:
            return None
        session = self.shop.load(product.path)
        if session is None:
            return choice.taken.verdict
        judged = frames.spread(JUDGED)
        try:
            found = [answer(session, feed) for feed in judged]
        finally:
            session.close()
        scorer = Scorer(self.shop.gate(), self.order.recipe.model, judged)
        verdict: Verdict = scorer.judge(found)
        verdict.require(f"{self.order.name} on {self.shop.backend}")
        return verdict

    def _bench(self, product: Product) -> tuple[Figures | None, dict[str, float]]:
        session = self.shop.load(product.path)
        if session is None:
            return None, {}
        try:
            figures = self.shop.figures(session)
        finally:
            session.close()
        return figures, self.shop.waterfall_ms(lambda: self._loaded(product))

    def _loaded(self, product: Product) -> Session:
        session = self.shop.load(product.path)
        assert session is not None  # noqa: S101 - it was loaded a moment ago
        return session


def _advice(choice: Choice, placement: Placement | None, frames: Frames | None) -> list[str]:
    """What would make the next deployment better."""
    advice = []
    if frames is None:
        advice.append(
            "No frames, so nothing lower than FP32 could be judged: add --calib FOLDER or --source URI."
        )
    elif len(frames) < JUDGED:
        advice.append(
            f"Only {len(frames)} frames: 100 to 500 varied ones judge and calibrate better."
        )
    if choice.taken.everything is not None and choice.taken.kept:
        advice.append(
            f"{len(choice.taken.kept)} layers stay in floating point; with every layer in INT8 the "
            f"agreement would be {choice.taken.everything:.4f}."
        )
    if placement is not None and placement.hint:
        advice.append(placement.hint)
    return advice
