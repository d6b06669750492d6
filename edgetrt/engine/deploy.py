"""From a network to an engine that serves, straight down.

    inspect -> place -> rewrite -> precision -> build -> verify -> bench -> cache -> activate

The same order on the same machine is found in the cache by its fingerprint, which is made of what goes in:
the network, the recipe, the frames, the toolchain and the device.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgetrt.engine import reporting, staging, variants
from edgetrt.engine.accuracy import answer
from edgetrt.engine.fingerprint import Fingerprint, digest_network, fingerprint
from edgetrt.engine.memo import find
from edgetrt.engine.placing import place
from edgetrt.engine.report import NETWORK, Report
from edgetrt.engine.spec import BuildSpec, ShapeRange
from edgetrt.errors import EngineBuildError, PlacementError
from edgetrt.model import onnx_file

if TYPE_CHECKING:
    from edgetrt.engine.accuracy import Verdict
    from edgetrt.engine.bench import Figures
    from edgetrt.engine.cache import Cache
    from edgetrt.engine.placing import BuildOrder, Fitted
    from edgetrt.engine.toolset import Product, Say, Toolset
    from edgetrt.engine.variants import Choice
    from edgetrt.model.frames import Frames
    from edgetrt.ports import Session

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_COPIES = 6
"""Networks that lie side by side while one is made: rewritten, INT8, a trial, FP16, the engine, its copy."""


def name_engine(order: BuildOrder, tools: Toolset) -> Fingerprint:
    """Name the engine that an order leads to, before any of the work."""
    recipe = msgspec.structs.replace(order.recipe.config, model="", dla=None)
    asked = [order.target, order.trt, order.here, order.rewrite, order.search_s, recipe]
    words = msgspec.json.encode([*asked, tools.frames_digest()], order="sorted")
    spec = BuildSpec(
        onnx=order.recipe.model,
        precision="fp32" if recipe.precision == "auto" else recipe.precision,
        dla=order.core,
        strict=recipe.strict,
    )
    network = digest_network(order.recipe.model)
    words_digest = hashlib.sha256(words).hexdigest()
    return fingerprint(network, spec, tools.toolchain, tools.device, words_digest)


def deploy(
    order: BuildOrder,
    tools: Toolset,
    cache: Cache,
    say: Say,
    spoilt: str = "",
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free,
) -> Report:
    """Make the engine, or find it in the cache; nothing is activated here.

    Args:
        order: what was asked for.
        tools: what makes it.
        cache: where it is kept.
        say: told what happens.
        spoilt: what was wrong with the one that was found before.
        free_bytes: gives the free space of a folder's file system.

    Raises:
        ModelError: the network, or its accuracy, will not do.
        BackendError: building or running it failed; the cache is as it was.
    """
    name = name_engine(order, tools)
    with cache.lock(name.digest, lambda why: say("cache", why)):
        known, wrong = find(cache, name.digest)
        if known is not None:
            return known.asked_as(order.name, order.recipe.model)
        needed = tools.frames_bytes() + _COPIES * order.recipe.model.stat().st_size
        if (free := free_bytes(cache.root)) < needed:
            raise _no_space(cache.root, needed, free)
        staging.sweep(cache.root)
        try:
            with staging.folder(cache.root) as folder:
                timings = cache.timing_cache(tools.toolchain, tools.device)
                report, product = Work(order, tools, folder, timings, say).run(
                    name, wrong or spoilt
                )
                _keep(cache, name, report, product)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            raise _no_space(cache.root, needed, free_bytes(cache.root)) from error
    return report


def _keep(cache: Cache, name: Fingerprint, report: Report, product: Product) -> None:
    files = {product.path.name: product.path, NETWORK: product.network, **product.extra}
    told = {
        "name": report.name,
        "model": Path(report.model).name,
        "precision": report.precision,
        "report": msgspec.to_builtins(report),
    }
    cache.put(name.digest, files, product.path.name, name.fields, told)


def _no_space(root: Path, needed: int, free: int) -> EngineBuildError:
    return EngineBuildError(
        f"{root}: no space to make an engine: about {_size(needed)} needed, {_size(free)} free",
        "Make room (`edgetrt engines gc --max-size 1G`), give fewer frames (--frames 50), or put the "
        "cache elsewhere (EDGETRT_CACHE). The cache is unchanged.",
    )


def _size(count: int) -> str:
    """Bytes as people count them: whole MiB, below one whole KiB."""
    return f"{count >> 20} MiB" if count >= 1 << 20 else f"{-(-count // 1024)} KiB"


@dataclass
class Work:
    """One deployment under way.

    Args:
        order: what was asked for.
        tools: what does it.
        folder: for everything that is made on the way.
        timings: file of measured kernel times.
        say: told what happens.
    """

    order: BuildOrder
    tools: Toolset
    folder: Path
    timings: Path
    say: Say
    steps_s: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def run(self, name: Fingerprint, spoilt: str) -> tuple[Report, Product]:
        """Do every step; each reads what the ones before it made."""
        started = time.monotonic()
        self.warnings += [spoilt] if spoilt else []
        with self._step("place"):
            network = place(self.order, self.folder)
        with self._step("frames"):
            frames = self.tools.frames(self.folder, lambda at: self.say("frames", "", at))
        choice, product, verdict = self._make(network, frames)
        with self._step("bench"):
            figures, waterfall = self._bench(product)
        told = reporting.Outcome(self.order, self.tools, network, choice, product, verdict, figures)
        report = reporting.report_of(
            told,
            engine=name.digest,
            frames=len(frames) if frames else 0,
            waterfall_ms=waterfall,
            build_s=round(time.monotonic() - started, 2),
            steps_s=self.steps_s,
            warnings=self.warnings,
        )
        return report, product

    def _make(
        self, network: Fitted, frames: Frames | None
    ) -> tuple[Choice, Product, Verdict | None]:
        """Take the first precision whose engine can be built and passes the gate as well.

        Raises:
            AccuracyError: none does.
            EngineBuildError: none can be built.
        """
        bench = self._bench_of(network, frames)
        asked = self._asked(frames)
        offers = variants.choices(asked, bench)
        while True:
            with self._step("precision"):
                choice = next(offers)
            may_step_down = asked == "auto" and choice.taken.precision != "fp32"
            try:
                with self._step("build"):
                    product = self._build(choice, network)
            except EngineBuildError as error:
                if not may_step_down:
                    raise
                self.warnings.append(f"{choice.taken.precision} was given up: {error.message}")
                continue
            with self._step("verify"):
                verdict = self._verify(product, choice, bench)
            if verdict is None or verdict.passed:
                return choice, product, verdict
            if not may_step_down:
                verdict.require(f"{self.order.name} on {self.tools.backend}")
            self.warnings.append(
                f"{choice.taken.precision} was refused: the engine's {verdict.measure} is "
                f"{verdict.value:.4f}"
            )

    @contextlib.contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.say(name)
        start = time.monotonic()
        yield
        self.steps_s[name] = round(self.steps_s.get(name, 0.0) + time.monotonic() - start, 3)

    def _asked(self, frames: Frames | None) -> variants.Asked:
        """The precision asked for; the DLA has no FP32, so without frames it is FP16 there."""
        asked = self.order.recipe.config.precision
        return (
            "fp16" if asked == "auto" and frames is None and self.order.core is not None else asked
        )

    def _bench_of(self, network: Fitted, frames: Frames | None) -> variants.Bench:
        return variants.Bench(
            model=network.path,
            reference=self.order.recipe.model,
            folder=self.folder,
            frames=frames,
            gate=self.tools.gate(),
            style=self.tools.style,
            simulate=self.tools.simulate,
            search_s=self.order.search_s,
            time_ms=self.tools.time_ms,
            say=lambda what, at: self.say("precision", what, at),
        )

    def _build(self, choice: Choice, network: Fitted) -> Product:
        """Build it.

        Raises:
            PlacementError: only FP32 is left, and a DLA core was asked for.
        """
        order, taken = self.order, choice.taken
        if order.core is not None and taken.precision == "fp32":
            raise PlacementError(
                f"--dla: the DLA computes in FP16 and INT8 only, and neither will do: {choice.reason}",
                "Give more varied frames, or a larger accuracy limit in the recipe.",
            )
        spec = BuildSpec(
            onnx=taken.path,
            precision=taken.precision,
            typed=taken.precision != "fp32",
            profiles=self._profiles(taken.path),
            dla=order.core,
            gpu_layers=network.gpu_layers if order.here else (),
            strict=order.here and order.recipe.config.strict,
            timing_cache=self.timings,
        )
        return self.tools.build(
            spec, network.path, self.folder, lambda what, at: self.say("build", what, at)
        )

    def _profiles(self, path: Path) -> tuple[dict[str, ShapeRange], ...]:
        """One size for every input whose dimensions are open."""
        graph = onnx_file.load(path).graph
        dynamic = {
            value.name
            for value in graph.input
            if any(not dim.HasField("dim_value") for dim in value.type.tensor_type.shape.dim)
        }
        profile = {
            name: ShapeRange(s, s, s) for name, s in self.order.inputs.items() if name in dynamic
        }
        return (profile,) if profile else ()

    def _verify(self, product: Product, choice: Choice, bench: variants.Bench) -> Verdict | None:
        """Hold the finished engine against the reference; the network passed, the engine must too."""
        if bench.frames is None or bench.scorer is None:
            return None
        session = self.tools.load(product.path)
        if session is None:
            return choice.taken.verdict
        try:
            found = [answer(session, feed) for feed in bench.frames.spread(variants.JUDGED)]
        finally:
            session.close()
        return bench.scorer.judge(found)

    def _bench(self, product: Product) -> tuple[Figures | None, dict[str, float]]:
        session = self.tools.load(product.path)
        if session is None:
            return None, {}
        try:
            figures = self.tools.figures(session)
        finally:
            session.close()
        return figures, self.tools.waterfall_ms(lambda: self._loaded(product))

    def _loaded(self, product: Product) -> Session:
        session = self.tools.load(product.path)
        assert session is not None  # noqa: S101 - it was loaded a moment ago
        return session
