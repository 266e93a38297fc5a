"""A small study on the test cluster: its files, its commands, the controls of its tasks (light/sitecustomize.py)."""

import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from svdstory.jobs.queue.ledger import Submission, submissions
from svdstory.jobs.study.store import Store
from tests.jobs.cluster import Cluster, until

LIGHT = Path(__file__).parent / "light"
WORDS = ("one", "two", "three", "four", "five", "six")


@dataclass
class Study:
    """`folder` holds the experiment, its prompts, the site profile, the controls and the run."""

    cluster: Cluster
    folder: Path
    subjects: int = 4
    seeds: int = 2
    steps: int = 4
    per_task: int = 2
    light: bool = True  # False: the real model, `tiny`
    container: str = ""  # a command that Python is started by, such as `apptainer exec image.sif`
    site: dict = field(default_factory=dict)  # differences from the profile `lab`

    def __post_init__(self):
        self.control.mkdir(parents=True)
        (self.folder / "prompts").mkdir()
        for word in WORDS[: self.subjects]:
            self.write_prompts(word, ["in the snow", "at night"])
        self.write(
            "study.yaml",
            {
                "sets": ["./prompts"],
                "methods": ["sdxl-no-freeu"],
                "model": "tiny",
                "steps": self.steps,
                "size": [64, 64],
                "seeds": list(range(self.seeds)),
                "scorers": ["clipscore:tiny"],
            },
        )
        self.write_site()

    @property
    def control(self) -> Path:
        return self.folder / "control"

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def units(self) -> int:
        return self.subjects * self.seeds

    @property
    def light_environment(self) -> dict[str, str]:
        """What makes any Python process of svdstory a light one."""
        path = os.pathsep.join(part for part in (self.cluster.login.get("PYTHONPATH"), str(LIGHT)) if part)
        return {"PYTHONPATH": path, "SVDSTORY_LIGHT": str(self.control)}

    def write(self, name: str, content: dict) -> None:
        (self.folder / name).write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")

    def write_prompts(self, word: str, settings: list[str]) -> None:
        self.write(
            f"prompts/{word}.yaml",
            {"style": "A photo of", "subject": f"a fox called {word}", "concept": ["fox"], "settings": settings},
        )

    def write_site(self, **changes) -> None:
        content = {
            "extends": "lab",
            "constraint": None,
            "memory_gb": 1.0,
            "rounds": 0,
            "reduce": {"minutes": 5, "cpus": 1, "memory_gb": 1.0},
            **self.site,
            **changes,
        }
        if self.light:  # the frozen code stays first
            path = f'PYTHONPATH="$PYTHONPATH":{shlex.quote(str(LIGHT))}'
            content["python"] = (
                f"{self.container} env {path} SVDSTORY_LIGHT={shlex.quote(str(self.control))} {shlex.quote(sys.executable)}"
            )
        self.write("site.yaml", content)

    # ------------------------------------------------------------ commands

    def svdstory(self, *words: str, status: int | None = 0, light: bool = False) -> str:
        """Run the command and return what it prints. `status`: the exit status that is expected; None: any. `light`:
        what nodes do, done here."""
        environment = {**self.cluster.environment, "OMP_NUM_THREADS": "1"}  # as on the nodes
        environment |= self.light_environment if light else {}
        done = subprocess.run(
            self.command(*words), cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300
        )
        printed = done.stdout + done.stderr
        assert status is None or done.returncode == status, f"exit status {done.returncode}: {printed}"
        return printed

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "svdstory.jobs", *words]

    @property
    def submit_words(self) -> list[str]:
        return ["submit", "study.yaml", "--site", "./site.yaml", "--out", "run", "--units-per-task", str(self.per_task)]

    def submit(self, status: int | None = 0) -> str:
        return self.svdstory(*self.submit_words, status=status)

    def status(self) -> dict:
        return json.loads(self.svdstory("status", "run", "--json", status=None))

    # ------------------------------------------------------------ what happens

    @property
    def submissions(self) -> list[Submission]:
        return submissions(self.run)

    def queue(self) -> str:
        """Job ids and states of what this run has in the queue."""
        names = ",".join(array.name for s in self.submissions for array in s.arrays)
        return self.cluster.ask("squeue", "-h", "-r", "-o", "%i %T %N", f"--name={names}") if names else ""

    def story(self) -> str:
        """What happened so far, for a test that failed: the queue, the store's counts, the ends of the logs."""
        lines = [str(self.folder), self.queue(), f"{self.finished()} of {self.units} units"]
        for submission in self.submissions:
            for path in sorted(submission.folder.rglob("*")):
                if path.suffix in (".jsonl", ".json", ".out", ".log"):
                    lines += [
                        f"--- {path.relative_to(self.run)}",
                        path.read_text(encoding="utf-8", errors="replace")[-1500:],
                    ]
        return "\n".join(lines)

    def began(self, subject: str = "") -> list[str]:
        """The attempts that began units of a subject."""
        return sorted(path.name for path in self.control.glob(f"began/*{subject}-*"))

    def loads(self) -> int:
        return len(list(self.control.glob("loads/*")))

    def finished(self) -> int:
        store = Store(self.run)
        return sum(store.is_finished(key) for key in store.present())

    def hold(self) -> None:
        """Units that are begun from now on wait between their steps."""
        (self.control / "hold").touch()

    def release(self) -> None:
        (self.control / "hold").unlink()

    def until_quiet(self, seconds: float = 240) -> None:
        """Wait until none of its jobs is in the queue, the reduce job included."""
        until(f"the jobs of {self.run} to end; {self.queue()}", lambda: not self.queue(), seconds)

    def report(self) -> dict[str, bytes]:
        """The final report, file by file, without the seconds that each unit took."""
        return report_of(self.run)


def report_of(run: Path) -> dict[str, bytes]:
    folder = run / "report"
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".inputs.json"]  # sizes
    files = {str(path.relative_to(folder)): path.read_bytes() for path in paths}
    own = re.compile(rb'(?<=,)[\d.]+(?=,"cpu"\])|(?<="command":")(?:[^"\\]|\\.)*')  # seconds; the experiment's place
    return {name: own.sub(b"", content) for name, content in files.items()}
