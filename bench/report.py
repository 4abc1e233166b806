"""Makes tables, results and verdicts of what bench.cc measured.

    report.py add RESULTS NAME MEASURED... COMMAND   writes RESULTS/NAME.json, prints its table
    report.py chart RESULTS                          draws RESULTS/overview.svg of all in RESULTS
    report.py check RESULTS NAME...                  prints verdicts; ends with 1 if one is "missed"

MEASURED is Google Benchmark's JSON, from one process or more; with "library:" before it the
benchmarks ran in a shared library. NAME is a Python's (3.13, 3.13t).
All nanoseconds are medians over the repetitions.
"""

import datetime
import json
import math
import os
import platform
import re
import statistics
import sys

WAYS = {  # in the order of the tables
    "bare": "RestoreThread/SaveThread",
    "gilstate": "PyGILState_Ensure",
    "pybind11": "pybind11",
    "nanobind": "nanobind",
    "arrow": "Arrow's pattern",
    "native_view": "3.15 EnsureFromView",
    "native_guard": "3.15 Ensure(guard)",
    "pep788_view": "pep788.h EnsureFromView",
    "pep788_guard": "pep788.h Ensure(guard)",
    "per_call": "pyhold, per call",
    "kept": "pyhold",
    "persistent": "pyhold, persistent",
}
COLUMNS = {  # "of 2 threads" are added to them
    "none/empty": "no state", "none/call": "+ call",
    "detached/empty": "detached", "detached/call": "+ call",
    "nested/empty": "nested", "nested/call": "+ call",
    "attached/empty": "attached",
}

# What docs/design.md promises: name, what is divided by what (a benchmark, or "bytes"), and the
# limit; `free_threaded` replaces the limit there, or says that the target is for those alone.
IN_BOTH = [  # in an executable, and in a shared library
    dict(name="guard, warm / RestoreThread + SaveThread",
         of="kept/none/empty/1", by="bare/detached/empty/1", most=1.3, most_free_threaded=1.4),
    dict(name="guard, nested / PyGILState_Ensure, nested",
         of="kept/nested/empty/1", by="gilstate/nested/empty/1", most=0.9),
    dict(name="guard, nested / 3.15 EnsureFromView, nested",
         of="kept/nested/empty/1", by="native_view/nested/empty/1", most=0.2),
]
IN_LIBRARY = IN_BOTH + [
    dict(name="guard, attached / PyGILState_Ensure, attached",
         of="kept/attached/empty/1", by="gilstate/attached/empty/1", most=1.3),
]
TARGETS = IN_BOTH + [
    dict(name="PyGILState_Ensure + call, no state / guard + call",
         of="gilstate/none/call/1", by="kept/none/call/1", least=80),
    dict(name="3.15 EnsureFromView + call, no state / pep788.h's",
         of="native_view/none/call/1", by="pep788_view/none/call/1", least=80),
    dict(name="hold from a view / 3.15 Guard_FromView + Close",
         of="hold/none/empty/1", by="native_hold/none/empty/1", most=0.6),
    dict(name="guards per second, 2 threads / 1 beside a busy one",
         of="kept/none/empty/1b", by="kept/none/empty/2", times=2, least=1.9,
         free_threaded_only=True),
    dict(name="bytes for each thread and interpreter", bytes=True, most=256),
] + [
    dict(t, name="in a library: " + t["name"], of="library/" + t["of"], by="library/" + t["by"])
    for t in IN_LIBRARY
]


# --- From Google Benchmark's JSON to one result ---

def compile_result(name, files, command):
    runs, context, memory = {}, {}, {}
    for file in files:
        prefix = "library/" if file.startswith("library:") else ""
        with open(file.removeprefix("library:")) as f:
            measured = json.load(f)
        context = context or measured["context"]
        for run in measured["benchmarks"]:
            if run.get("run_type", "iteration") != "iteration":
                continue
            if run.get("error_occurred"):
                sys.exit("%s: %s" % (run["name"], run.get("error_message")))
            way, situation, inside, threads = run["run_name"].split("/")[:4]
            if situation == "memory":
                memory.setdefault(way, []).append(run["bytes"])
            else:
                key = prefix + "/".join((way, situation, inside, threads))
                runs.setdefault(key, []).append(run["real_time"])  # all are in ns

    result = {
        "python": name,
        "version": context["python"].split()[0],
        "free_threaded": "free_threaded" in context,
        "compiler": context["compiler"],
        "peers": {peer: context[peer] for peer in ("pybind11", "nanobind") if peer in context},
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "kernel": platform.system() + " " + re.match(r"[0-9]+\.[0-9]+|", platform.release())[0],
        "command": command,
        "unit": "ns for each pair of entering and leaving, wall clock",
        "nanoseconds": {},
        "memory_bytes_per_thread": {way: round(statistics.median(v), 1)
                                    for way, v in memory.items()},
    }
    for key, times in sorted(runs.items()):
        median = statistics.median(times)
        result["nanoseconds"][key] = {
            "median": tidy(median),
            "min": tidy(min(times)),
            "max": tidy(max(times)),
            "mad": tidy(statistics.median(abs(t - median) for t in times)),
            "repetitions": len(times),
        }
    result["ratios"] = {t["name"]: v for t in TARGETS
                        for v in [measured_value(t, result)] if v is not None}
    return result


def tidy(number):
    return float("%.4g" % number)


def cpu_model():
    try:
        with open("/proc/cpuinfo") as f:
            return re.search(r"^model name\s*:\s*(.*)$", f.read(), re.M)[1]
    except (OSError, TypeError):
        return platform.machine()


def ns(result, key):
    found = result["nanoseconds"].get(key)
    return found["median"] if found else None


def measured_value(target, result):
    if target.get("bytes"):
        memory = result["memory_bytes_per_thread"]
        if "kept" not in memory:
            return None
        return tidy(memory["kept"] - memory["gilstate"])
    if target.get("free_threaded_only") and not result["free_threaded"]:
        return None
    of, by = ns(result, target["of"]), ns(result, target["by"])
    if of is None or by is None:
        return None
    return tidy(of / by * target.get("times", 1))


# --- For people ---

def number(value):
    if value is None:
        return "-"
    if value >= 1000:
        return "{:,.0f}".format(value)
    return "%.0f" % value if value >= 100 else "%.1f" % value


def print_table(result):
    print("\nPython %s%s, %s, %s, %d cores; ns, median of %d" % (
        result["version"], " free-threaded" if result["free_threaded"] else "",
        result["compiler"], result["cpu"], result["cores"],
        min((v["repetitions"] for v in result["nanoseconds"].values()), default=0)))
    rows = [[""] + list(COLUMNS.values()) + ["of 2 threads", "+ call"]]
    for way, title in WAYS.items():
        cells = []
        for column in COLUMNS:
            value = ns(result, "%s/%s/1" % (way, column))
            base = ns(result, "gilstate/%s/1" % column)
            cell = number(value)
            if value and base and way != "gilstate":
                ratio = value / base
                cell += " (%s)" % ("%.2f" % ratio if ratio >= 0.1 else "1/%.0f" % (1 / ratio))
            cells.append(cell)
        situation = "detached" if way == "bare" else "none"
        for inside in ("empty", "call"):
            cells.append(number(ns(result, "/".join((way, situation, inside, "2")))))
        if any(cell != "-" for cell in cells):
            rows.append([title] + cells)
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print(row[0].ljust(widths[0]) + "".join(
            "  " + cell.rjust(width) for cell, width in zip(row[1:], widths[1:])))
    print("In brackets: divided by PyGILState_Ensure's.")
    hold = [(title, number(ns(result, way + "/none/empty/1"))) for way, title in
            (("hold", "pyhold"), ("native_hold", "3.15 Guard_FromView + Close"))]
    print("Hold and release, from a view: "
          + ", ".join("%s %s" % pair for pair in hold if pair[1] != "-"))
    print("In a shared library, %s: %s" % (WAYS["kept"], ", ".join(
        "%s %s (%s %s)" % (t["of"].split("/")[1], number(ns(result, "library/" + t["of"])),
                           WAYS[t["by"].split("/")[0]], number(ns(result, "library/" + t["by"])))
        for t in IN_LIBRARY if ns(result, "library/" + t["by"]))))
    memory = result["memory_bytes_per_thread"]
    if "kept" in memory:
        print("Memory, malloc's, for each thread: PyGILState %s bytes, pyhold %s more"
              % (number(memory["gilstate"]), number(memory["kept"] - memory["gilstate"])))
    for way in ("pybind11", "nanobind"):
        if way not in result["peers"]:
            print("%s: left out, it is not installed" % way)
    sys.stdout.flush()


def verdicts(results):
    """Prints one line for each target; returns whether all were reached."""
    print("\n%-60s %-9s" % ("target", "limit") + "".join("%-21s" % r["python"] for r in results))
    missed = 0
    for target in TARGETS:
        cells = []
        for result in results:
            value = measured_value(target, result)
            most, least = target.get("most"), target.get("least")
            if result["free_threaded"]:
                most = target.get("most_free_threaded", most)
            if value is None:
                cells.append("-")
                continue
            reached = value <= most if most is not None else value >= least
            missed += not reached
            cells.append("%s %s" % ("%.3g" % value if value < 100 else "%.1f" % value,
                                    "reached" if reached else "MISSED"))
            if most != target.get("most"):  # a limit of its own
                cells[-1] += " (%g)" % most
        default = ("<= %g" % target["most"]) if "most" in target else (">= %g" % target["least"])
        print("%-60s %-9s" % (target["name"], default) + "".join("%-21s" % c for c in cells))
    print("%d missed" % missed)
    return missed == 0


# --- The chart ---

CHART_WAYS = [  # way, colour for light and for dark backgrounds
    ("gilstate", "#6b7280"), ("pybind11", "#b45309"), ("nanobind", "#a16207"),
    ("arrow", "#be185d"), ("native_view", "#7c3aed"), ("per_call", "#0891b2"),
    ("kept", "#16a34a"),
]


def draw(results):
    key = "%s/none/call/1"
    bar, gap, left, width, top = 15, 16, 180, 470, 62
    lowest, highest = 10, 20000  # ns

    def x(value):
        part = math.log10(value / lowest) / math.log10(highest / lowest)
        return left + width * min(max(part, 0), 1)

    out, y = [], top
    for result in results:
        rows = [(way, colour, ns(result, key % way)) for way, colour in CHART_WAYS]
        rows = [row for row in rows if row[2]]
        if not rows:
            continue
        y += gap + 6
        out.append('<text class="head" x="16" y="%d">Python %s%s</text>' % (
            y - 5, result["version"], ", free-threaded" if result["free_threaded"] else ""))
        for way, colour, value in rows:
            out.append('<text x="%d" y="%d" text-anchor="end">%s</text>' % (
                left - 8, y + bar - 4, WAYS[way].replace("&", "&amp;")))
            out.append('<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>' % (
                left, y, x(value) - left, bar - 3, colour))
            out.append('<text x="%.1f" y="%d">%s ns</text>' % (
                x(value) + 6, y + bar - 4, number(value)))
            y += bar
    grid = []
    value = lowest
    while value <= highest:
        grid.append('<line x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>' % (x(value), top, x(value), y))
        label = "%d ns" % value if value < 1000 else "%d µs" % (value // 1000)
        grid.append('<text x="%.1f" y="%d" text-anchor="middle">%s</text>' % (
            x(value), top - 6, label))
        value *= 10
    last = results[-1]
    foot = "%s, %d cores, %s, %s. Median, logarithmic scale." % (
        re.sub(r"\((R|TM)\)|CPU", "", last["cpu"]).replace("  ", " "), last["cores"],
        last["compiler"], max(r["date"] for r in results))
    return """\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img"
     aria-label="One Python call from a thread without a thread state: nanoseconds for each way">
<style>
  text {{ font: 11px system-ui, sans-serif; fill: #1f2937; }}
  .title {{ font-size: 15px; font-weight: 600; }}
  .head {{ font-size: 12px; font-weight: 600; }}
  .back {{ fill: #ffffff; }}
  line {{ stroke: #9ca3af; stroke-opacity: 0.4; }}
  @media (prefers-color-scheme: dark) {{
    text {{ fill: #e5e7eb; }}
    .back {{ fill: #0d1117; }}
  }}
</style>
<rect class="back" width="{w}" height="{h}" rx="6"/>
<text class="title" x="16" y="24">A native thread without a thread state calls a Python function</text>
{grid}
{bars}
<text x="16" y="{foot_y}">{foot}</text>
</svg>
""".format(w=left + width + 90, h=y + 40, grid="\n".join(grid), bars="\n".join(out),
           foot=foot, foot_y=y + 24)


# --- Commands ---

def path(folder, name):
    return os.path.join(folder, name + ".json")


def load(folder, name):
    with open(path(folder, name)) as f:
        return json.load(f)


def version_key(name):
    return [int(n) for n in re.findall(r"[0-9]+", name)], name


def main(command, folder, *names):
    if command == "add":
        name, files, told = names[0], names[1:-1], names[-1]
        result = compile_result(name, files, told)
        with open(path(folder, name), "w") as f:
            text = json.dumps(result, indent=1, ensure_ascii=False)
            f.write(re.sub(r"\{\s+(\"median[^{}]*)\}",  # a benchmark a line
                           lambda m: "{" + " ".join(m[1].split()) + "}", text) + "\n")
        print_table(result)
    elif command == "chart":
        found = sorted((f[:-5] for f in os.listdir(folder) if f.endswith(".json")),
                       key=version_key)
        with open(os.path.join(folder, "overview.svg"), "w", encoding="utf-8") as f:
            f.write(draw([load(folder, name) for name in found]))
    elif command == "check":
        sys.exit(not verdicts([load(folder, name) for name in names]))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main(*sys.argv[1:])
