"""The results: one row each, kept in ``results.json``, shown as a table and as a chart."""

import json
import os
import platform
import resource
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import psutil

FOLDER = Path(__file__).parent
UNCERTAIN = 0.15  # with a wider spread, or more of the cores at other work, a figure is


def row(question, name, unit, ours, peer=None, against=None, less=False, spread=None):
    """Return one result.

    Parameters
    ----------
    question, name, unit : str
    ours : float
    peer : float, optional
    against : str, optional
        Who the peer is.
    less : bool, default False
        Less is better, as of milliseconds.
    spread : float, optional
        The widest of the sides that enter, where each ran more than once: interquartile range over median.

    Returns
    -------
    dict
        With ``ratio``: how many times better ours is, or None.
    """
    ratio = None
    if peer is not None:
        ratio = peer / ours if less else ours / peer
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


def rates(question, name, runs, work, unit="reviews/s"):
    """Return a row against each peer, or one where there is none.

    Parameters
    ----------
    question, name : str
    runs : dict of str to Runs
        From `interleave`; ours under "ours".
    work : float
        What one run gets done, in units of which the rows count those a second.
    unit : str, default "reviews/s"
    """
    ours = runs["ours"]
    peers = {side: times for side, times in runs.items() if side != "ours"}
    if not peers:
        return [row(question, name, unit, work / ours.median, spread=ours.spread)]
    return [
        row(
            question,
            name,
            unit,
            work / ours.median,
            work / times.median,
            side,
            spread=max(ours.spread, times.spread),
        )
        for side, times in peers.items()
    ]


def describe_machine():
    """Return what the figures depend on: dict."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                cpu = line.partition(":")[2].strip()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": cpu,
        "cores": joblib.cpu_count(),
        "memory_gib": round(memory / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {
            name: _version(name)
            for name in ("mxnet", "gluonnlp", "numpy", "spacy", "torch")
        },
        "load_at_start": round(os.getloadavg()[0], 2),
    }


def _version(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def watch():
    """Return a function that tells what share of the cores' time went, from now on, to processes that are not ours."""
    before = _processor_seconds()

    def others():
        everything, theirs = _processor_seconds() - before
        return round(float(max(0, theirs / everything)), 3)

    return others


def _processor_seconds():
    """Return all seconds of all cores so far, and those spent on what neither this process nor one it waited for did."""
    times = psutil.cpu_times()
    waiting = times.idle + getattr(times, "iowait", 0)
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    own = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return np.array([sum(times), sum(times) - waiting - own])


def _is_uncertain(result):
    return result["others"] > UNCERTAIN or (result["spread"] or 0) > UNCERTAIN


def doubts(rows, machine):
    """Return why figures are uncertain, in sentences: list of str."""
    found = []
    load, cores = machine["load_at_start"], machine["cores"]
    if load > cores / 2:
        found.append(f"the load was {load} on {cores} cores at the start")
    for question, others in {r["question"]: r["others"] for r in rows}.items():
        if others > UNCERTAIN:
            found.append(f"{question}: other processes had {others:.0%} of the cores")
    for result in rows:
        if (result["spread"] or 0) > UNCERTAIN:
            found.append(f"{result['name']}: the runs spread by {result['spread']:.0%}")
    return found


def table(rows):
    """Return the rows as text."""

    def number(value):
        if pd.isna(value):
            return "–"
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"

    frame = pd.DataFrame(rows)[["name", "ours", "peer", "unit", "ratio", "spread"]]
    frame["mark"] = ["?" if _is_uncertain(result) else "" for result in rows]
    frame["spread"] = [
        "–" if pd.isna(spread) else f"{spread:.0%}" for spread in frame["spread"]
    ]
    for column in ("ours", "peer", "ratio"):
        frame[column] = frame[column].map(number)
    width = frame["name"].str.len().max()
    frame["name"] = frame["name"].str.ljust(width)
    return frame.rename(columns={"mark": ""}).to_string(index=False)


def keep(rows, machine, folder=FOLDER):
    """Write ``results.json`` and ``machine.json``; rows of other questions stay as they are. Return all rows."""
    path = folder / "results.json"
    answered = {result["question"] for result in rows}
    before = json.loads(path.read_text()) if path.exists() else []
    kept = [result for result in before if result["question"] not in answered]
    rows = sorted(kept + rows, key=lambda result: result["question"])
    for name, content in (("results", rows), ("machine", machine)):
        text = json.dumps(content, indent=2, ensure_ascii=False)
        (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return rows


def draw(rows, machine, path):
    """Draw the ratios as bars, one against each peer, with a line where both are equal."""
    import matplotlib

    matplotlib.use("agg")
    import seaborn as sns
    from matplotlib import pyplot as plt

    frame = pd.DataFrame([result for result in rows if result["ratio"] is not None])
    if frame.empty:
        return
    frame["what"] = frame["name"].str.replace(r" \(peer: .*\)$", "", regex=True)
    sns.set_theme(style="whitegrid")
    figure, axes = plt.subplots(
        figsize=(9, 1.5 + 0.45 * len(frame)), layout="constrained"
    )
    sns.barplot(frame, x="ratio", y="what", hue="against", ax=axes)
    axes.axvline(1, color="black", linewidth=1, zorder=2)
    unlined = {"facecolor": "white", "edgecolor": "none", "pad": 1}
    for bars in axes.containers:
        axes.bar_label(bars, fmt="%.2g×", padding=4, bbox=unlined)
    title = f"{machine['cpu']}, {machine['cores']} cores"
    if any(map(_is_uncertain, rows)):
        title += "\nthe machine was busy: some figures are uncertain"
    axes.set(xlabel="times better than the peer", ylabel="", title=title)
    axes.margins(x=0.1)
    axes.legend(title="peer")
    figure.savefig(path, dpi=120)
    plt.close(figure)
