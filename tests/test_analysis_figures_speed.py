"""The figure of speed against sparsity has the numbers of the files, and its text fits."""

from __future__ import annotations

import csv

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from test_analysis_figures_layout import shown_texts

from analysis.figures.speed import draw_speeds, read_speeds
from analysis.figures.style import WIDTHS, Size
from launch.cli import main


def write(path, rows):
    names = ("network", "precision", "sparsity", "batch", "threads", "layer", "format", "ratio")
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(names)
        writer.writerows(rows)
    return path


def rows_of(network, batch, threads, sparsity, **ratios):
    """Return the rows of a network, and one of a layer, which the figure does not use."""
    start = (network, ratios.pop("precision", "float32"), sparsity, batch, threads)
    named = {"dense": 1.0, "dense, channels_last": ratios.pop("last", 1.0), **ratios}
    named["dense, bfloat16"] = 0.1  # of another precision: not compared
    return [(*start, "", name, ratio) for name, ratio in named.items()] + [
        (*start, "conv", "dense", 1.0)
    ]


@pytest.fixture
def file(tmp_path):
    return write(
        tmp_path / "speed.csv",
        [
            *rows_of("a", 1, 1, 0.8, last=0.8, sparse=0.5),
            *rows_of("a", 1, 1, 0.9, last=1.2, sparse=0.25),
            *rows_of("a", 16, 1, 0.8, sparse=1.25),
            *rows_of("a", 16, 1, 0.9),
        ],
    )


def test_speeds_are_relative_to_the_fastest_dense_form(file):
    found = read_speeds([file]).set_index(["batch", "sparsity"])["speed"]
    assert found.to_dict() == pytest.approx(
        {(1, 0.8): 1.6, (1, 0.9): 4.0, (16, 0.8): 0.8, (16, 0.9): 1.0}
    )


def test_repetitions_count_by_their_medians(tmp_path):
    files = [
        write(tmp_path / f"{i}.csv", rows_of("a", 1, 1, 0.8, last=last, sparse=sparse))
        for i, (last, sparse) in enumerate([(0.5, 0.4), (0.8, 0.5), (0.9, 0.3)])
    ]
    assert read_speeds(files)["speed"].tolist() == pytest.approx([0.8 / 0.4])


def test_lines_have_the_speeds(file):
    drawn = draw_speeds(read_speeds([file]), Size())
    (axes,) = drawn.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["batch 1"].get_ydata().tolist() == pytest.approx([1.6, 4.0])
    assert lines["batch 16"].get_ydata().tolist() == pytest.approx([0.8, 1.0])
    assert [text.get_text() for text in axes.get_xticklabels()] == ["0.8", "0.9"]


def test_precisions_are_lines_of_their_own(tmp_path):
    rows = [*rows_of("a", 1, 1, 0.8, sparse=0.5)]
    rows += rows_of("a", 1, 1, 0.8, precision="bfloat16", sparse=0.25)
    (axes,) = draw_speeds(read_speeds([write(tmp_path / "s.csv", rows)]), Size()).axes
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines}
    assert lines["batch 1, float32"] == 2.0 and lines["batch 1, bfloat16"] == 4.0


@pytest.mark.parametrize("width", WIDTHS)
def test_all_text_is_readable_and_inside(tmp_path, width):
    settings = [(n, b, t) for n in "abcd" for b in (1, 128) for t in (1, 2)]
    rows = [row for one in settings for s in (0.8, 0.95) for row in rows_of(*one, s, sparse=0.5)]
    drawn = draw_speeds(read_speeds([write(tmp_path / "s.csv", rows)]), Size(WIDTHS[width]))
    canvas = FigureCanvasAgg(drawn)
    canvas.draw()
    texts = [text for text in shown_texts(drawn) if text.get_text()]
    assert {"a", "d", "batch 128, 2 threads", "0.95"} <= {text.get_text() for text in texts}
    for text in texts:
        box = text.get_window_extent(canvas.get_renderer())
        assert text.get_fontsize() >= 7
        assert box.x0 >= 0 and box.x1 <= drawn.bbox.x1 and box.y0 >= 0 and box.y1 <= drawn.bbox.y1


def test_the_command_draws_files(file, tmp_path, capsys):
    output = tmp_path / "speed.png"
    assert main(["figure", "speed", str(file), "--width", "column", "-o", str(output)]) == 0
    assert output.stat().st_size > 1000 and str(output) in capsys.readouterr().out


def test_what_cannot_be_drawn_is_one_line(file, tmp_path, capsys):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    odd = write(tmp_path / "odd.csv", [("a", "float32", 0.8, 1, 1, "", "dense", "many")])
    many = write(tmp_path / "many.csv", [r for b in range(9) for r in rows_of("a", b, 1, 0.8)])
    gpu = tmp_path / "gpu.csv"
    lines = file.read_text().splitlines()
    gpu.write_text("\n".join(["device," + lines[0], *(f"NVIDIA H200,{ln}" for ln in lines[1:])]))
    for files, message in (
        ([file, gpu], "draw each device in a figure of its own: NVIDIA H200, cpu"),
        ([], "name files of signbench bench sparse"),
        ([tmp_path / "none.csv"], "cannot read"),
        ([other], "is not a table of signbench bench sparse"),
        ([odd], "not a positive number"),
        ([many], "9 combinations of precision, batch size and threads are too many"),
        ([file, "-o", "speed.gif"], "must end in .pdf, .svg or .png"),
        ([file, "--size", "0,1"], "width must be positive"),
    ):
        assert main(["figure", "speed", *map(str, files)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
