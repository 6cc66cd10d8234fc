"""The results: one row each, kept in ``results.json`` and shown as a table."""

import json
import platform
import re
import resource
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path

import joblib
import numpy as np
import psutil

FOLDER = Path(__file__).parent
PACKAGES = ("mxnet", "gluonnlp", "numpy", "spacy", "torch")
UNCERTAIN = 0.15  # with a wider spread, or more of the cores at other work, a figure is


def row(question, name, unit, ours, peer=None, against=None, spread=None):
    """Return one result.

    Its ``ratio`` says how many times better ours is than the peer, whose name is
    `against`. Of a unit a second more is better, of any other less. `spread` is the
    widest of the sides, where each ran more than once.
    """
    ratio = None
    if peer is not None:
        ratio = ours / peer if unit.endswith("/s") else peer / ours
    return {
        "question": question,
        "name": name + (f" (peer: {against})" if against else ""),
        "ours": ours,
        "peer": peer,
        "ratio": ratio,
        "unit": unit,
        "against": against,
        "spread": spread,
    }


def compare(question, name, unit, runs, count=1):
    """Return a row of ours against each peer, or one where there is none.

    The unit is s, ms or something a second, of which a run does `count`.
    """

    def figure(times):
        scale = {"s": 1, "ms": 1000}
        return scale[unit] * times.median if unit in scale else count / times.median

    ours = runs["ours"]
    rows = []
    for side, peer in runs.items():
        if side != "ours":
            figures, spread = map(figure, (ours, peer)), max(ours.spread, peer.spread)
            rows.append(row(question, name, unit, *figures, side, spread))
    return rows or [row(question, name, unit, figure(ours), spread=ours.spread)]


def describe_machine():
    """Return what the figures depend on: dict."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text() if cpuinfo.exists() else ""
    model = re.search(r"model name\s*: (.*)", text)
    versions = {found.metadata["Name"]: found.version for found in distributions()}
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": model[1] if model else platform.processor(),
        "cores": joblib.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: versions.get(name) for name in PACKAGES},
    }


def processor_seconds():
    """Return all seconds of all cores so far, and those at work for other processes."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0)
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return np.array([sum(times), sum(times) - waiting - own])


def doubts(rows):
    """Return why figures are uncertain: list of str."""
    found = []
    for question, others in {r["question"]: r["others"] for r in rows}.items():
        if others > UNCERTAIN:
            found.append(f"{question}: other processes had {others:.0%} of the cores")
    for result in rows:
        if (result["spread"] or 0) > UNCERTAIN:
            found.append(f"{result['name']}: the runs spread by {result['spread']:.0%}")
    return found


def table(rows):
    """Return the rows as text; an uncertain one ends in a question mark."""

    def number(value):
        if value is None:
            return "–"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    lines = [("", "ours", "peer", "unit", "ratio", "spread", "")]
    for result in rows:
        ours, peer, ratio = (number(result[key]) for key in ("ours", "peer", "ratio"))
        spread = "–" if result["spread"] is None else f"{result['spread']:.0%}"
        mark = "?" if doubts([result]) else ""
        lines.append((result["name"], ours, peer, result["unit"], ratio, spread, mark))
    form = "{:52} {:>8} {:>8} {:10} {:>6} {:>7} {}".format
    return "\n".join(form(*line).rstrip() for line in lines)


def keep(rows, machine, folder=FOLDER):
    """Write ``results.json`` and ``machine.json``; rows of other questions stay."""
    path = folder / "results.json"
    answered = {result["question"] for result in rows}
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [result for result in before if result["question"] not in answered]
    rows = sorted(kept + rows, key=lambda result: result["question"])
    for name, content in (("results", rows), ("machine", machine)):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return path
