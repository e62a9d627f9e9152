"""Opens report.html in headless Chromium and reads the table and the drawn curves: report_page_test.py SOURCE_FOLDER BUILD_FOLDER

Needs Chromium and the program dapt_write_example_report. What the page must say is computed here from the CSV files of the same report.
"""
import csv
import html.parser
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SETTINGS = ["lora-8", "lora-256", "galore-128", "galore-512", "full-adamw"]
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Node:
    def __init__(self, tag, attributes):
        self.tag, self.attributes, self.children = tag, dict(attributes), []

    def text(self):
        return "".join(child if isinstance(child, str) else child.text() for child in self.children)

    def all(self, tag=None, **attributes):
        """Nodes below this one; `class_` asks for one of the classes."""
        for child in self.children:
            if isinstance(child, str):
                continue
            wanted = tag in (None, child.tag) and all(
                value in child.attributes.get("class", "").split() if name == "class_" else child.attributes.get(name.replace("_", "-")) == value
                for name, value in attributes.items())
            if wanted:
                yield child
            yield from child.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        found = list(self.all(tag, **attributes))
        assert len(found) == 1, f"found {len(found)} of <{tag} {attributes}>, expected 1"
        return found[0]


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        node = Node(tag, attributes)
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_startendtag(self, tag, attributes):
        self.open[-1].children.append(Node(tag, attributes))

    def handle_endtag(self, tag):
        if any(node.tag == tag for node in self.open[1:]):
            while self.open.pop().tag != tag:
                pass

    def handle_data(self, data):
        self.open[-1].children.append(data)


def load(file, width):
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert browser, "no Chromium: run cmake/bootstrap.sh --browser, or configure with -D DAPT_BROWSER_TESTS=OFF"
    with tempfile.TemporaryDirectory() as profile:
        ran = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", f"--window-size={width},1200",
                              "--dump-dom", file.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=120)
    assert ran.returncode == 0 and ran.stdout, f"Chromium ended with {ran.returncode}: {ran.stderr[-2000:]}"
    return Page(ran.stdout).root


def read_csv(file):
    with open(file, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def shown(row, column):
    """What the page has to show for one value of settings.csv."""
    if row[column] == "not measured":
        return "not measured"
    value = float(row[column])
    if column in ("peak_memory_bytes", "state_bytes"):
        mib = value / 2**20
        return f"{mib:.0f} MiB" if mib < 1000 else f"{mib / 1024:.2f} GiB"
    if column == "seconds":
        whole = math.floor(value + 0.5)
        return f"{whole // 60}:{whole % 60:02}"
    if column in ("tokens_per_second", "trainable_parameters"):
        return f"{math.floor(value + 0.5):,}"
    return f"{value:.{2 if column == 'perplexity' else 1 if column == 'optimizer_seconds' else 3}f}"


def check_script(page):
    root = page.one("html")
    assert "data-error" not in root.attributes, f"the page's script failed: {root.attributes['data-error']}"
    assert root.attributes.get("data-drawn") == "yes", "the page's script did not reach its end"


def check_table(page, folder):
    rows = read_csv(folder / "settings.csv")
    table = page.one("table", id="settings-table")
    drawn = list(table.one("tbody").all("tr"))
    assert [row.attributes["data-setting"] for row in drawn] == [row["setting"] for row in rows] == ["base", "lora-256", "galore-512", "full-adamw", "galore-128", "lora-8"]
    cells = 0
    for expected, row in zip(rows, drawn):
        for cell in row.all("td"):
            column = cell.attributes["data-column"]
            found = next(cell.all(class_="value")).text()
            assert found == shown(expected, column), f"{expected['setting']}, {column}: the page shows {found!r}, expected {shown(expected, column)!r}"
            cells += 1
            if column in ("qa_exact", "logp_mrr") and expected["setting"] != "base":
                change = float(expected[column + "_change"])
                sign = "▲ " if change > 0.0005 else "▼ " if change < -0.0005 else "= "
                text = cell.one("small").text()
                assert text == sign + (f"{change:+.3f}" if sign != "= " else "0.000"), f"{expected['setting']}, {column}: change {text!r}, expected {change}"
    assert cells == 6 * 10, cells
    assert page.one(id="verdict").one("h2").text() == "lora-256 is best by QA_exact; galore-512 is best by logp_mrr."


def check_curves(page, folder, axis):
    svg = page.one("svg", id="curves")
    _, _, width, height = map(float, svg.attributes["viewbox"].split())
    steps = read_csv(folder / "steps.csv")
    for style in ("curve", "raw"):
        paths = list(svg.all("path", class_=style))
        assert [path.attributes["data-setting"] for path in paths] == SETTINGS, f"{style}: {[path.attributes['data-setting'] for path in paths]}"
        for path in paths:
            own = [row for row in steps if row["setting"] == path.attributes["data-setting"]]
            points = [(float(x), float(y)) for x, y in re.findall(r"[ML]([-0-9.]+) ([-0-9.]+)", path.attributes["d"])]
            assert len(points) == len(own) == int(path.attributes["data-points"]) == 200, f"{path.attributes['data-setting']}: {len(points)} points"
            assert all(0 <= x <= width for x, _ in points)
            # A straight line maps steps, tokens or seconds to x, and losses to y; three decimals of a pixel were not kept.
            values = [float(row[axis]) for row in own]
            scale = (points[-1][0] - points[0][0]) / (values[-1] - values[0])
            assert scale > 0 and all(abs(points[0][0] + (v - values[0]) * scale - x) < 0.11 for v, (x, _) in zip(values, points))
            if style == "raw":
                losses = [float(row["loss"]) for row in own]
                low, high = losses.index(min(losses)), losses.index(max(losses))
                slope = (points[high][1] - points[low][1]) / (losses[high] - losses[low])
                assert slope < 0 and all(abs(points[low][1] + (v - losses[low]) * slope - y) < 0.15 for v, (_, y) in zip(losses, points))
    words = {"step": "optimizer steps", "tokens": "tokens trained on", "seconds": "time since the start of training (min:s)"}
    labels = [text.text() for text in svg.all("text")]
    assert words[axis] in labels and "loss (nats a token)" in labels, labels
    assert len(list(page.one(id="legend").all("li"))) == 5


def check_grids(page, folder):
    items = read_csv(folder / "questions.csv")
    styles = {"right": "right", "wrong": "wrong", "new": "newly right", "lost": "lost"}
    for metric in ("qa_exact", "logp_mrr"):
        grid = page.one("table", class_="grid", data_metric=metric)
        ids = [node.text() for node in grid.all("span", class_="id")]
        for row in grid.one("tbody").all("tr"):
            own = {item["id"]: item for item in items if item["metric"] == metric and item["setting"] == row.attributes["data-setting"]}
            cells = list(row.all("span", class_="cell"))
            assert len(cells) == len(ids) == len(own) == 50
            for name, cell in zip(ids, cells):
                style = cell.attributes["class"].split()[1]
                assert styles[style] == own[name]["state"], f"{metric}, {row.attributes['data-setting']}, {name}: {style}, expected {own[name]['state']}"
                assert own[name]["prediction"] in cell.attributes["title"]
                if metric == "logp_mrr":
                    assert cell.text() == f"{float(own[name]['rank']):g}"


def with_curves(file, change):
    """The page of other curves: those that `change` makes of the list of settings."""
    data = re.search(r'id="curve-data">(.*?)</script>', file.read_text(encoding="utf-8"), re.S)[1]
    return changed(file, data, json.dumps(change(json.loads(data))))


def first_steps(count, seconds):
    """The first steps of each setting, over so many seconds."""
    def change(settings):
        for setting in settings:
            for key, values in setting.items():
                if isinstance(values, list):
                    setting[key] = values[:count]
            setting["seconds"] = [seconds * (i + 1) / count for i in range(count)]
        return settings
    return change


def check_ticks(page, labels):
    svg = page.one("svg", id="curves")
    height = float(svg.attributes["viewbox"].split()[3])
    found = [text.text() for text in svg.all("text", text_anchor="middle") if text.attributes["y"] == f"{height - 28:g}"]
    assert found == labels, f"{found}, expected {labels}"


def check_labels(page, count):
    """So many names stand beside the curves, 17 pixels apart and all of them within the picture."""
    svg = page.one("svg", id="curves")
    places = sorted(float(text.attributes["y"]) for text in svg.all("text", class_="label"))
    height = float(svg.attributes["viewbox"].split()[3])
    assert len(places) == count and all(0 < y < height for y in places), places
    assert all(b - a > 16.9 for a, b in zip(places, places[1:])), places


def check_flat(file, count, smoothing):
    """A rate that stays the same is a straight line, and its axis has labels that tell values apart."""
    def change(settings):
        return [{**{key: values[:count] if isinstance(values, list) else values for key, values in setting.items()}, "lr": [1e-4] * count} for setting in settings]
    script = f"document.getElementById('smoothing').value = {smoothing}; const measure = document.getElementById('measure'); measure.value = 'lr'; measure.dispatchEvent(new Event('input'))"
    page = load(changed(with_curves(file, change), "</body>", f"<script>{script}</script></body>"), 1280)
    check_script(page)
    svg = page.one("svg", id="curves")
    paths = list(svg.all("path", class_="curve"))
    assert [path.attributes["data-points"] for path in paths] == [str(count)] * len(SETTINGS), "the rate was not drawn"
    heights = {y for path in paths for y in re.findall(r"[ML][-0-9.]+ ([-0-9.]+)", path.attributes["d"])}
    assert len(heights) == 1, f"{count} equal rates smoothed by {smoothing} are drawn at the heights {sorted(heights)}"
    labels = [text.text() for text in svg.all("text", text_anchor="end")]
    assert "1.00e-4" in labels and 3 <= len(labels) <= 10 and len(set(labels)) == len(labels), labels


def check_evaluations(file, folder):
    """What was measured while training: a point for the base, each evaluation and the end, on one scale, whatever the smoothing."""
    script = "const measure = document.getElementById('measure'); measure.value = 'eval/qa_exact'; measure.dispatchEvent(new Event('input'))"
    page = load(changed(file, "</body>", f"<script>{script}</script></body>"), 1280)
    check_script(page)
    svg = page.one("svg", id="curves")
    assert any("QA_exact while training" in text.text() for text in svg.all("text"))
    with open(folder / "settings.csv", newline="", encoding="utf-8") as rows:
        ends = {row["setting"]: float(row["qa_exact"]) for row in csv.DictReader(rows)}
    with open(folder / "steps.csv", newline="", encoding="utf-8") as rows:
        measured = [(row["setting"], float(row["step"]), float(row["eval_qa_exact"])) for row in csv.DictReader(rows) if row["eval_qa_exact"] != "not measured"]
    expected = []
    for name in dict.fromkeys(setting for setting, *_ in measured):
        expected += [(0, ends["base"]), *((step, value) for setting, step, value in measured if setting == name), (200, ends[name])]
    points = [(float(circle.attributes["cx"]), float(circle.attributes["cy"])) for circle in svg.all("circle")]
    assert len(points) == len(expected) == 10, points
    for axis in (0, 1):
        low, high = min(range(10), key=lambda i: expected[i][axis]), max(range(10), key=lambda i: expected[i][axis])
        scale = (points[high][axis] - points[low][axis]) / (expected[high][axis] - expected[low][axis])
        for point, value in zip(points, expected):
            assert abs(point[axis] - points[low][axis] - scale * (value[axis] - expected[low][axis])) < 0.2, (point, value)


def check_alone(text):
    outside = re.findall(r"""(?:src|href)\s*=|url\((?!#)|@import|https?://(?!www\.w3\.org/2000/svg)""", text)
    assert not outside, f"the page names something outside of itself: {outside}"


def changed(file, old, new):
    text = file.read_text(encoding="utf-8")
    assert text.count(old) >= 1, old
    copy = file.with_name("changed.html")
    copy.write_text(text.replace(old, new, 1), encoding="utf-8")
    return copy


def must_fail(check, *arguments):
    try:
        check(*arguments)
    except AssertionError:
        return
    raise SystemExit(f"{check.__name__} did not notice a broken page")


def main():
    build = pathlib.Path(sys.argv[2])
    program = build / "bin" / "dapt_write_example_report"
    assert program.exists(), f"{program} was not built"
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        subprocess.run([program, folder], check=True)
        file = folder / "report.html"
        check_alone(file.read_text(encoding="utf-8"))
        for width in (1280, 480):
            page = load(file, width)
            check_script(page)
            check_table(page, folder)
            check_curves(page, folder, "step")
            check_grids(page, folder)
        for axis in ("tokens", "seconds"):
            page = load(changed(file, "</body>", f"<script>document.querySelector('input[value={axis}]').click()</script></body>"), 1280)
            check_script(page)
            check_curves(page, folder, axis)

        check_ticks(load(with_curves(file, first_steps(3, 2)), 1280), ["1", "2", "3"])
        by_time = changed(with_curves(file, first_steps(3, 2)), "</body>", "<script>document.querySelector('input[value=seconds]').click()</script></body>")
        check_ticks(load(by_time, 1280), ["0:00", "0:01", "0:02"])
        for count, drawn in ((5, 5), (21, 21), (22, 0)):
            check_labels(load(with_curves(file, lambda settings: [{**settings[i % 5], "name": f"setting-{i}"} for i in range(count)]), 1280), drawn)

        for count, smoothing in ((5, 0.9), (100, 0.9), (100, 0.5)):
            check_flat(file, count, smoothing)

        check_evaluations(file, folder)
        must_fail(check_script, load(changed(file, "const drawCurves = () => {", "const drawCurves = () => { nothing.here();"), 1280))
        must_fail(check_script, load(changed(file, "const drawCurves = () => {", "const drawCurves = () => { ("), 1280))
        page = load(changed(file, '"name":"galore-128"', '"name":"other"'), 1280)
        check_script(page)
        must_fail(check_curves, page, folder, "step")
    print("report.html: table, grids and curves are what the CSV files say, at two window widths")


main()
