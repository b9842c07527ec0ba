"""The results: one table in Markdown, one small chart, and a file with everything that was measured."""

import html
import json
import os
import platform
import statistics
import subprocess
import time

import lab

TARGET = os.environ.get("CARGO_TARGET_DIR", "target") + "/bench"
# Of the table, in their order: what, ours, reference, ratio, its limit, whether that is reached.
lines = []
raw = {}


def median(values):
    return statistics.median(values)


def shown(value, unit):
    if unit == "/s":
        return f"{value:,.0f}/s"
    return f"{value:,.0f} {unit}" if value >= 100 else f"{value:,.1f} {unit}"


def compared(what, unit, ours, theirs, against, limit, at_least=True):
    """A row of pairs, measured one beside the other. The ratio is the median of the pairs' ratios."""
    ratios = [one / other for one, other in zip(ours, theirs)]
    ratio = median(ratios)
    reached = ratio >= limit if at_least else ratio <= limit
    lines.append({
        "what": what,
        "ours": shown(median(ours), unit),
        "reference": f"{shown(median(theirs), unit)} ({against})",
        "ratio": f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        "target": f"{limit:g} or {'more' if at_least else 'less'}",
        "reached": reached,
        "chart": (ratio, limit) if at_least else None,
    })
    raw[what] = {"unit": unit, "ours": ours, "reference": theirs, "against": against}


def bounded(what, unit, values, limit, note=""):
    """A row with a limit of its own."""
    worst = median(values)
    lines.append({
        "what": what,
        "ours": shown(worst, unit),
        "reference": note,
        "ratio": f"{worst / limit:.2f}",
        "target": f"{shown(limit, unit)} or less",
        "reached": worst <= limit,
        "chart": None,
    })
    raw[what] = {"unit": unit, "ours": values}


def seen(what, ours, reference, ratio, target, reached, values):
    """A row of another form."""
    lines.append({"what": what, "ours": ours, "reference": reference, "ratio": ratio, "target": target, "reached": reached, "chart": None})
    raw[what] = values


def machine(versions):
    def first(path, start):
        with open(path, encoding="utf-8") as file:
            return next((line.split(":", 1)[1].strip() for line in file if line.startswith(start)), "unknown")

    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "processor": first("/proc/cpuinfo", "model name"),
        "processors": os.cpu_count(),
        "memory": f"{int(first('/proc/meminfo', 'MemTotal').split()[0]) / 1024 / 1024:.0f} GiB",
        "kernel": platform.release(),
        "commit": commit or "unknown",
        "load before": os.getloadavg()[0],
        **versions,
    }


def table(about):
    """Markdown, ready to be pasted."""
    out = [
        f"{about['date']}, {about['processors']} processors ({about['processor']}), {about['memory']}, Linux {about['kernel']},",
        f"{about['postgresql']}, {about['nginx']}, commit {about['commit']}. Medians; ratios are ours / reference, with the least and",
        "the greatest of the pairs.",
        "",
        "| work | ours | reference | ratio | target | reached |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        reached = {True: "yes", False: "no", None: ""}[line["reached"]]
        out.append(f"| {line['what']} | {line['ours']} | {line['reference']} | {line['ratio']} | {line['target']} | {reached} |")
    return "\n".join(out) + "\n"


def chart(about):
    """Bars of the ratios that are to be large, each with a mark where its target is."""
    bars = [(line["what"], *line["chart"]) for line in lines if line["chart"]]
    left, width, step = 330, 330, 30
    most = max([1.0, *(ratio for _, ratio, _ in bars)])
    height = step * len(bars) + 64
    text = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {left + width + 70} {height}" role="img" '
        'aria-label="Throughput as a share of the reference">',
        "<style>text{font:13px sans-serif;fill:#24292f}.bar{fill:#4078c0}.mark{stroke:#cf222e;stroke-width:2}.all{stroke:#8c959f}"
        "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.bar{fill:#58a6ff}.mark{stroke:#ff7b72}}</style>",
        '<text x="8" y="20" font-weight="bold">Throughput as a share of the reference (nginx or pgbench)</text>',
    ]
    for number, (what, ratio, limit) in enumerate(bars):
        y = 36 + step * number
        place = lambda value: left + value / most * width
        name = html.escape(what.replace("`", ""))
        text.append(f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{name}</text>')
        text.append(f'<rect class="bar" x="{left}" y="{y + 2}" width="{place(ratio) - left:.1f}" height="18"/>')
        text.append(f'<line class="mark" x1="{place(limit):.1f}" y1="{y - 1}" x2="{place(limit):.1f}" y2="{y + 23}"/>')
        text.append(f'<text x="{place(ratio) + 6:.1f}" y="{y + 15}">{ratio:.2f}</text>')
    text.append(f'<line class="all" x1="{left + width / most:.1f}" y1="30" x2="{left + width / most:.1f}" y2="{height - 30}"/>')
    about_it = html.escape(f"{about['date']}, {about['processors']} processors; the red mark is the target, the grey line the reference")
    text.append(f'<text x="8" y="{height - 8}">{about_it}</text></svg>')
    return "\n".join(text) + "\n"


def write(about, plans, whole):
    """Prints the table; the chart beside this file is replaced only by a whole run."""
    os.makedirs(TARGET, exist_ok=True)
    here = os.path.dirname(os.path.abspath(__file__))
    with open(f"{TARGET}/raw.json", "w", encoding="utf-8") as file:
        json.dump({"machine": about, "rows": lines, "measured": raw, "plans": plans}, file, indent=1)
    with open(f"{TARGET}/table.md", "w", encoding="utf-8") as file:
        file.write(table(about))
    picture = f"{here}/chart.svg" if whole else f"{TARGET}/chart.svg"
    with open(picture, "w", encoding="utf-8") as file:
        file.write(chart(about))
    print(f"\n{table(about)}")
    for name, plan in plans.items():
        print(f"{name}:\n{plan}\n")
    print(f"written: {TARGET}/raw.json, {TARGET}/table.md, {picture}")
    if about["load before"] > 0.5 * about["processors"]:
        print(f"the machine was busy before it began (load {about['load before']:.1f}): the figures are worth little")
    if lab.failed:
        print(f"could not be measured: {'; '.join(lab.failed)}")
