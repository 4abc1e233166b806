"""Counts the instructions that one ensure and its release take, with callgrind.

    instructions.py PROGRAM      PROGRAM: bench/instructions, as built

Prints for each case how many there are in each function. Collects only inside of the function
that does the case, less what its loop costs.
"""

import os
import re
import subprocess
import sys
import tempfile

TIMES = 1000
CASES = {  # name, what it is
    "bare": "PyEval_RestoreThread + SaveThread",
    "gilstate": "PyGILState_Ensure + Release, a detached state",
    "gilstate_nested": "PyGILState_Ensure + Release, nested",
    "kept": "guard, its state kept",
    "kept_c_api": "pyhold_thread_ensure_view + release, its state kept",
    "detached": "guard, a detached state of the thread's",
    "nested": "guard, nested",
    "per_call": "guard, PYHOLD_PER_CALL",
    "hold": "hold from a view, and its release",
}


def count(program, case, folder):
    out = os.path.join(folder, case)
    subprocess.run(
        ["valgrind", "--tool=callgrind", "--collect-atstart=no", "--toggle-collect=Measured_*",
         "--callgrind-out-file=" + out, program, case, str(TIMES)],
        check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    listing = subprocess.run(["callgrind_annotate", "--threshold=100", "--auto=no", out],
                             check=True, stdout=subprocess.PIPE, text=True).stdout
    found = {}
    for line in listing.splitlines():
        match = re.match(r"\s*([\d,]+) \(.*?\)\s+(?:\S*?:)?(.+?)(?: \[.*\])?$", line)
        if match and "PROGRAM TOTALS" not in line:
            name = match[2].strip()
            name = re.sub(r"\(.*|'\d+|\.(constprop|part|lto_priv|isra|cold)\.\d+", "", name)
            found[name] = found.get(name, 0) + int(match[1].replace(",", "")) / TIMES
    return {name: n for name, n in found.items() if n >= 0.5}


def main():
    program = sys.argv[1]
    print("Python %s, gcc; instructions for each pair" % sys.version.split()[0])
    with tempfile.TemporaryDirectory() as folder:
        for case, text in CASES.items():
            found = count(program, case, folder)
            print("\n%4d  %s" % (round(sum(found.values())), text))
            for name, n in sorted(found.items(), key=lambda item: -item[1])[:14]:
                print("      %4d  %s" % (round(n), name))


main()
