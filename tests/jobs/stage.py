"""Tests whose scenarios run beside each other on one cluster: a fault's recovery is mostly waiting."""

import os
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

from tests.jobs.cluster import Cluster, until
from tests.jobs.study import Study

AT_ONCE = 8  # scenarios; their tasks share two cores
ANYWHERE = "n10|n11"  # nodes that no scenario does anything to


class Stage:
    """Runs the scenarios at once, and gives each test its own's outcome."""

    def __init__(self, cluster: Cluster, folder: Path, undisturbed: Study, faults: dict):
        self.cluster, self.folder, self.undisturbed, self.faults = cluster, folder, undisturbed, faults
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._outcomes: dict[str, Future] = {}

    def start(self, scenarios: list[Callable]) -> None:
        for number, scenario in enumerate(scenarios):
            act = Act(self, scenario.__name__, number)
            self._outcomes[scenario.__name__] = self._pool.submit(act.play, scenario)

    def result(self, scenario: Callable) -> None:
        self._outcomes[scenario.__name__].result()

    def reference(self) -> dict[str, bytes]:
        """The report of the undisturbed study: what all others must equal."""
        self.undisturbed.until_quiet()
        return self.undisturbed.report()

    def drain(self) -> None:
        """Wait until all scenarios have ended, well or badly."""
        wait(self._outcomes.values())

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Act:
    """One scenario's place on the stage."""

    def __init__(self, stage: Stage, name: str, number: int):
        self.stage, self.name, self.number, self.cluster = stage, name, number, stage.cluster
        self._fault: tuple[str, float] | None = None
        self._studies: list[Study] = []

    def study(self, **settings) -> Study:
        """A study of its own. Its folder's name has spaces, quotes and Cyrillic letters; its tasks ask for no GPU."""
        folder = self.stage.folder / f'{self.number}-{len(self._studies)} Мой "run" it\'s'
        settings["site"] = {"gpu": None, "constraint": ANYWHERE, **settings.get("site", {})}
        self._studies.append(Study(self.cluster, folder, **settings))
        return self._studies[-1]

    def play(self, scenario: Callable[["Act"], None]) -> None:
        """Play the scenario; one that fails says what its studies and the nodes are at, and leaves nothing in the
        queue that others would wait for."""
        try:
            scenario(self)
        except BaseException as error:
            seen = [self.cluster.ask("sinfo", "-N", "-o", "%N %T %E")]
            for study in self._studies:
                seen.append(study.story())
                study.svdstory("cancel", "run", status=None)
            raise AssertionError("\n".join([f"{self.name}: {error!r}", *seen])) from error

    def fault(self, what: str) -> None:
        """Note what is done to the cluster or the run, and when."""
        self._fault = (what, time.monotonic())

    def aside(self, words: str) -> None:
        """The same fault seen by another study: a row of its own in the table."""
        self.name, self._fault = f"{self.name} {words}", (f"{self._fault[0]}, {words}", self._fault[1])

    def recovered(self, study: Study, how: str, seconds: float = 240) -> None:
        """Wait until the run is complete and quiet; its report must equal the undisturbed one."""
        until(
            f"{self.name}: all units and a report of them", lambda: any(s.reduced for s in study.submissions), seconds
        )
        took = time.monotonic() - self._fault[1]
        self.stage.faults[self.name] = {"fault": self._fault[0], "end": how, "recovery_s": round(took, 1)}
        assert study.finished() == study.units
        assert study.report() == self.stage.reference()
        assert not list((study.run / "corrupt").glob("*"))


def overlapping(scenario: Callable[[Act], None]):
    """Make a test of a scenario that runs beside the others."""

    def test(stage):
        stage.result(scenario)

    test.__name__, test.__doc__, test.__module__ = scenario.__name__, scenario.__doc__, scenario.__module__
    test.scenario = scenario
    return test


def faults_file() -> Path | None:
    """Where to write the table of faults: SVDSTORY_FAULTS."""
    return Path(os.environ["SVDSTORY_FAULTS"]) if "SVDSTORY_FAULTS" in os.environ else None
