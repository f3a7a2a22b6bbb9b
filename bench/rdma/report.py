#!/usr/bin/env python3
"""Makes rdma.json, rdma.md and rdma.svg of the bench's samples: report.py SAMPLES RESULTS_DIRECTORY."""
import json
import os
import statistics
import sys

STEPS = ("compare", "cpu", "swap", "poweroff")
PEERS = {
    "nvme_rdma": "NVMe-oF over RDMA, RAM disk",
    "nvme_tcp": "NVMe-oF over TCP, RAM disk",
    "nbd": "NBD over TCP, nbdkit memory",
    "virtio": "virtio disk, host memory",
    "zram": "local zram",
    "disk": "virtio disk held to 120 requests/s and 120 MiB/s",
    "fallow": "Fallow's swap disk, by NBD to fallowd",
}

# Rows of the tables: name of the samples, what they are.
LATENCIES = [
    ("ib_read_lat", "raw READ, ib_read_lat (typical)"),
    ("read_loop_1", "raw READ, our loop"),
    ("read_loop_beside", "raw READ, our loop, a second thread polling beside it"),
    ("read_loop_record", "raw READ, our loop, 4152 bytes: an incompressible page's record"),
    ("read_loop_half", "raw READ, our loop, 2112 bytes: about half a page's record"),
    ("get_incompressible_1", "Fallow get, incompressible, polling"),
    ("get_half_1", "Fallow get, compresses 2:1, polling"),
    ("get_sleeping_1", "Fallow get, incompressible, sleeping"),
    ("get_half_sleeping_1", "Fallow get, compresses 2:1, sleeping"),
    ("put_1", "Fallow put, incompressible"),
    ("put_half_1", "Fallow put, compresses 2:1"),
] + [(p + "." + op + "_1", text + ", " + op) for p, text in PEERS.items() for op in ("read", "write")]
THROUGHPUTS = [
    ("ib_read_bw_1", "raw READ 4 KiB, ib_read_bw, depth 1"),
    ("ib_read_bw_16", "raw READ 4 KiB, ib_read_bw, depth 16"),
    ("read_loop_16", "raw READ 4 KiB, our loop, depth 16"),
    ("get_incompressible_16", "Fallow get, incompressible, depth 16"),
    ("get_half_16", "Fallow get, compresses 2:1, depth 16"),
    ("ib_write_bw", "raw WRITE 1 MiB, ib_write_bw"),
    ("spill", "Fallow spill, bytes written to the donor"),
] + [(p + "." + op + "_16", text + ", " + op + ", depth 16") for p, text in PEERS.items() for op in ("read", "write")]
FIELD = {"spill": "wire_written_mib_s"}

# The targets: text, figure over figure (each name, field), comparison, bound.
TARGETS = [
    ("get of an incompressible page, p50, over our READ loop",
     ("get_incompressible_1", "p50_us"), ("read_loop_1", "p50_us"), "<=", 1.15),
    ("the same over ib_read_lat's typical latency",
     ("get_incompressible_1", "p50_us"), ("ib_read_lat", "p50_us"), "<=", 1.15),
    ("the same over our READ loop with a second thread polling beside it, as a get has",
     ("get_incompressible_1", "p50_us"), ("read_loop_beside", "p50_us"), "<=", 1.15),
    ("get of a page that compresses 2:1, p50, over our READ loop",
     ("get_half_1", "p50_us"), ("read_loop_1", "p50_us"), "<=", 1.15),
    ("get of a page that compresses 2:1 over an incompressible one, p50",
     ("get_half_1", "p50_us"), ("get_incompressible_1", "p50_us"), "<=", 1.0),
    ("spilling over ib_write_bw with 1 MiB messages",
     ("spill", "wire_written_mib_s"), ("ib_write_bw", "mib_s"), ">=", 0.9),
    ("gets, 16 in flight, over ib_read_bw at that depth",
     ("get_incompressible_16", "mib_s"), ("ib_read_bw_16", "mib_s"), ">=", 0.9),
    ("get, sleeping as fio does, p50, over NVMe-oF/RDMA read",
     ("get_sleeping_1", "p50_us"), ("nvme_rdma.read_1", "p50_us"), "<=", 0.8),
    ("put, p50, over NVMe-oF/RDMA write",
     ("put_1", "p50_us"), ("nvme_rdma.write_1", "p50_us"), "<=", 0.1),
    ("as swap: time of a major fault, p50, over NVMe-oF/RDMA's",
     ("swap.fallow", "p50_us"), ("swap.nvme_rdma", "p50_us"), "<=", 0.8),
    ("as swap: throughput of Redis over NVMe-oF/RDMA's",
     ("redis.fallow", "per_s"), ("redis.nvme_rdma", "per_s"), ">=", 1.5),
    ("memory server's own processor time under load, percent",
     ("cpu", "memserver_percent"), None, "<", 0.5),
    ("longest get after a donor's power-off at R=2, ms",
     ("poweroff", "longest_get_ms"), None, "<=", 2000.0),
    ("repair over ib_write_bw of the same run",
     ("poweroff", "repair_mib_s"), ("poweroff_ib_write_bw", "mib_s"), ">=", 0.8),
    ("bytes that repair moves through the backend's card, in and out, over those of raw READs and WRITEs of 1 MiB at once",
     ("poweroff", "repair_moved_mib_s"), ("poweroff_both_ways", "mib_s"), ">=", 0.8),
]


class Figures:
    """The samples by name, each with its round."""

    def __init__(self, samples):
        self.by_name = {}
        for s in samples:
            self.by_name.setdefault(s["name"], {})[s["round"]] = s

    def median(self, name, field):
        values = [s[field] for s in self.by_name.get(name, {}).values() if s.get(field) is not None]
        return statistics.median(values) if values else None

    def ratio(self, above, below):
        """The median of the rounds' ratios; without a divisor, of the figures."""
        if below is None:
            return self.median(*above)
        ratios = []
        for number, s in self.by_name.get(above[0], {}).items():
            other = self.by_name.get(below[0], {}).get(number)
            if other and other.get(below[1]) and s.get(above[1]) is not None:
                ratios.append(s[above[1]] / other[below[1]])
        return statistics.median(ratios) if ratios else None


def number(value, digits=1):
    return "-" if value is None else f"{value:,.{digits}f}"


def target_rows(figures):
    rows = []
    for text, above, below, how, bound in TARGETS:
        value = figures.ratio(above, below)
        if value is None:
            rows.append({"target": text, "value": None, "bound": f"{how} {bound:g}", "met": None})
            continue
        met = {"<=": value <= bound, ">=": value >= bound, "<": value < bound}[how]
        rows.append({"target": text, "value": round(value, 4), "bound": f"{how} {bound:g}", "met": met})
    return rows


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows] + [""]


def latency_table(figures):
    raw, nvme = figures.median("read_loop_1", "p50_us"), {}
    for op in ("read", "write"):
        nvme[op] = figures.median(f"nvme_rdma.{op}_1", "p50_us")
    rows = []
    for name, text in LATENCIES:
        p50 = figures.median(name, "p50_us")
        if p50 is None:
            continue
        op = "write" if name.startswith("put") or name.endswith("write_1") else "read"
        rows.append([text] + [number(figures.median(name, f)) for f in ("p50_us", "p99_us", "p999_us")] +
                    [number(p50 / raw if raw else None, 2), number(p50 / nvme[op] if nvme[op] else None, 2)])
    return table(["one at a time, 4 KiB", "p50 us", "p99 us", "p99.9 us", "p50 / raw READ", "p50 / NVMe-oF RDMA"], rows)


def throughput_table(figures):
    raw = {False: figures.median("ib_read_bw_16", "mib_s"), True: figures.median("ib_write_bw", "mib_s")}
    rows = []
    for name, text in THROUGHPUTS:
        rate = figures.median(name, FIELD.get(name, "mib_s"))
        if rate is None:
            continue
        base = raw[name in ("ib_write_bw", "spill")]
        small = name not in ("ib_write_bw", "spill")
        rows.append([text, number(rate, 2), number(rate * 256, 0) if small else "-",
                     number(rate / base if base else None, 2)])
    return table(["throughput", "MiB/s", "pages/s", "over raw verbs"], rows)


def swap_table(figures):
    rows = []
    best = figures.median("swap.nvme_rdma", "p50_us")
    for name, text in PEERS.items():
        p50 = figures.median("swap." + name, "p50_us")
        if p50 is None:
            continue
        rows.append([text] + [number(figures.median("swap." + name, f)) for f in
                              ("p50_us", "p99_us", "p999_us", "faults_per_s", "accesses_per_s")] +
                    [number(p50 / best if best else None, 2)])
    rates = figures.median("redis.nvme_rdma", "per_s")
    programs = []
    for name, text in PEERS.items():
        rate = figures.median("redis." + name, "per_s")
        if rate is not None:
            programs.append([text, number(rate)] + [number(figures.median("redis." + name, f)) for f in
                            ("mean_us", "p50_us", "p99_us")] + [number(rate / rates if rates else None, 2)])
    lines = []
    if rows:
        lines += table(["swap, twice the memory allowed", "fault p50 us", "p99 us", "p99.9 us", "faults/s", "accesses/s",
                        "p50 / NVMe-oF RDMA"], rows)
    if programs:
        lines += table(["Redis with text, half of it in memory, on swap", "GETs/s", "mean us", "p50 us", "p99 us",
                        "GETs / NVMe-oF RDMA"], programs)
    return lines


def extras(figures):
    lines = []
    for name, text in (("cpu", "of load"), ("cpu_idle", "with nothing to do")):
        cpu = figures.by_name.get(name, {}).get(0)
        if cpu:
            lines += [f"Processor time over {cpu['window_ns'] / 1e9:.0f} s {text} ({cpu['gets_per_s']:.0f} gets/s, "
                      f"{cpu['spilled_mib']:.0f} MiB spilled): memory server {cpu['memserver_percent']:.3f} % and "
                      f"{cpu['memserver_wakeups_per_s']:.1f} wake-ups/s, fallowd {cpu['fallowd_percent']:.1f} %.", ""]
    twin = figures.by_name.get("cpu", {}).get(0, {}).get("twin_percent")
    if twin is not None:
        lines += ["Debian's kernel charges a process with the interrupts that arrive while it runs, and Soft-RoCE does its "
                  f"work in them: in the same time a second memory server on the node, which served nobody, was charged "
                  f"with {twin:.3f} %.", ""]
    daemon = figures.by_name.get("daemon_get", {}).get(1)
    mean = figures.median("get_incompressible_1", "daemon_mean_us")
    if daemon:
        lines += ["In the daemon's own account (buckets of 12.5 %) remote gets of the first round took "
                  f"p50 {daemon['p50_ns'] / 1e3:.0f} us, p99 {daemon['p99_ns'] / 1e3:.0f} us, "
                  f"p99.9 {daemon['p999_ns'] / 1e3:.0f} us; mean of all rounds {number(mean)} us, as the client saw "
                  f"it {number(figures.median('get_incompressible_1', 'mean_us'))} us.", ""]
    spill = figures.median("spill", "p50_us")
    if spill:
        lines += ["Puts while the local tier is full and every one waits for a spill, 16 in flight: "
                  f"p50 {number(spill)} us, p99 {number(figures.median('spill', 'p99_us'))} us. "
                  "The puts in the table find room.", ""]
    off = figures.by_name.get("poweroff", {}).get(0)
    if off:
        lines += [f"Donor's power off at R=2 with {off['held_mib']} MiB held ({off['segments_lost']} segments on it): "
                  f"longest get {off['longest_get_ms']:.0f} ms of {off['gets']}; known after "
                  f"{off['known_after_s']:.1f} s, two holders of everything after {off['two_holders_after_s']:.1f} s; "
                  f"{off['repaired_mib']:.0f} MiB repaired at {off['repair_mib_s']:.1f} MiB/s.", ""]
    for s in (s for name, rounds in figures.by_name.items() if name.startswith("left_out.") for s in rounds.values()):
        lines += [f"Left out: {s['device']}: {s['why'].splitlines()[-1] if s['why'] else '?'}", ""]
    return lines


def markdown(document, figures):
    m = document["machine"]
    lines = ["# Fallow over verbs beside raw verbs and the peers", "",
             f"{m['date']}, {m['cores']} cores ({m['cpu']}), kernel {m['kernel']}; nodes: {m['node_kernel']}, "
             f"{m['accelerator']}; {m['peers']}. `./run bench rdma` made this; all figures are in rdma.json.", "",
             "Every figure is the median of the rounds, every target's ratio the median of the rounds' ratios."]
    for step, s in document["steps"].items():
        lines += [f"- {step}: {s['date']}, {s['rounds']} round(s){', quick: not for comparison' if s['quick'] else ''}"]
    if m["accelerator"] == "tcg":
        lines += ["", "Emulated machines with Soft-RoCE: only ratios within a step mean anything. TCP profits from "
                  "offloads here that Soft-RoCE has not; on real cards NVMe-oF over RDMA is ahead of TCP."]
    lines += [""] + table(["target", "value", "bound", "met"], [
        [r["target"], number(r["value"], 3), r["bound"],
         "not measured" if r["met"] is None else "yes" if r["met"] else "**no**"] for r in document["targets"]])
    lines += latency_table(figures) + throughput_table(figures) + swap_table(figures) + extras(figures)
    return "\n".join(lines)


def bars(out, top, title, rows, unit, whisker):
    """rows: text, value, tail or None. A bar for the value, a line to the tail; returns the next free y."""
    width, left, step = 460, 300, 20
    limit = max([r[1] for r in rows] + [r[2] or 0 for r in rows if whisker]) or 1
    out.append(f'<text x="10" y="{top}" font-weight="bold">{title}</text>')
    y = top + 10
    for text, value, tail in rows:
        color = "#c2410c" if text.startswith("Fallow") else "#334155" if text.startswith("raw") else "#94a3b8"
        length = max(1, value / limit * width)
        out.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{text}</text>')
        out.append(f'<rect x="{left}" y="{y + 2}" width="{length:.1f}" height="12" fill="{color}"/>')
        end = length
        if whisker and tail:
            end = tail / limit * width
            out.append(f'<line x1="{left + length:.1f}" x2="{left + end:.1f}" y1="{y + 8}" y2="{y + 8}" stroke="{color}"/>')
            out.append(f'<line x1="{left + end:.1f}" x2="{left + end:.1f}" y1="{y + 4}" y2="{y + 12}" stroke="{color}"/>')
        out.append(f'<text x="{left + max(end, length) + 6:.1f}" y="{y + 12}">{value:,.1f} {unit}</text>')
        y += step
    return y + 24


def svg(figures):
    out, y = [], 24
    parts = [
        ("4 KiB, one at a time: p50 (line: p99)", [(t, figures.median(n, "p50_us"), figures.median(n, "p99_us"))
                                                  for n, t in LATENCIES], "us", True),
        ("Throughput", [(t, figures.median(n, FIELD.get(n, "mib_s")), None) for n, t in THROUGHPUTS], "MiB/s", False),
        ("Swap: time for a major fault, p50 (line: p99)",
         [(t, figures.median("swap." + n, "p50_us"), figures.median("swap." + n, "p99_us")) for n, t in PEERS.items()],
         "us", True),
    ]
    for title, rows, unit, whisker in parts:
        rows = [r for r in rows if r[1] is not None]
        if rows:
            y = bars(out, y, title, rows, unit, whisker)
    head = (f'<svg xmlns="http://www.w3.org/2000/svg" width="880" height="{y}" viewBox="0 0 880 {y}" '
            'font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n')
    return head + "\n".join(out) + "\n</svg>\n"


def merge(path, samples):
    """A step measured now takes the place of its earlier samples; the other steps stay."""
    document = {"steps": {}}
    if os.path.exists(path):
        with open(path, encoding="utf-8") as f:
            document = json.load(f)
    machine = next(s for s in samples if s["step"] == "machine")
    document["machine"] = {k: v for k, v in machine.items() if k not in ("step", "name", "round")}
    for step in dict.fromkeys(s["step"] for s in samples if s["step"] != "machine"):
        mine = [{k: v for k, v in s.items() if k != "step"} for s in samples if s["step"] == step]
        about = next(s for s in mine if s["name"] == "step")
        document["steps"][step] = {
            "date": machine["date"], "commit": machine["commit"], "rounds": about["rounds"],
            "quick": bool(about["quick"]), "seconds": about["seconds"],
            "samples": [s for s in mine if s["name"] != "step"]}
    document["steps"] = {s: document["steps"][s] for s in STEPS if s in document["steps"]}
    return document


def main():
    samples_path, results = sys.argv[1:]
    with open(samples_path, encoding="utf-8") as f:
        samples = [json.loads(line) for line in f]
    os.makedirs(results, exist_ok=True)
    path = os.path.join(results, "rdma.json")
    document = merge(path, samples)
    figures = Figures([s for step in document["steps"].values() for s in step["samples"]])
    document["targets"] = target_rows(figures)
    text = markdown(document, figures)
    for name, content in (("rdma.json", json.dumps(document, indent=1) + "\n"), ("rdma.md", text), ("rdma.svg", svg(figures))):
        with open(os.path.join(results, name), "w", encoding="utf-8") as f:
            f.write(content)
    print(text)
    return 1 if any(r["met"] is False for r in document["targets"]) else 0


if __name__ == "__main__":
    sys.exit(main())
