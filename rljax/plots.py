"""Learning curves: the interquartile mean over seeds with its bootstrap interval."""

import pathlib

import numpy as np

from rljax.evaluate import bootstrap


def fill_forward(scores: np.ndarray) -> np.ndarray:
    """`scores` [S, T] with gaps filled by the last value before them: no episode ended there."""
    filled = scores.copy()
    for t in range(1, scores.shape[1]):
        filled[:, t] = np.where(np.isfinite(filled[:, t]), filled[:, t], filled[:, t - 1])
    return filled


def learning_curves(
    curves: dict[str, tuple[np.ndarray, np.ndarray]], path: pathlib.Path, title: str, ylabel: str = "episode return"
) -> None:
    """Draw one line with its interval for each name: (steps [T], scores [S, T])."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.2), dpi=120)
    for name, (steps, scores) in curves.items():
        scores = fill_forward(scores)
        seen = np.isfinite(scores).all(axis=0)
        if not seen.any():
            continue
        middle, low, high = bootstrap(scores[:, seen], repetitions=500)
        marker = "o" if seen.sum() == 1 else None  # one evaluation is a point, with its interval
        (line,) = axes.plot(
            steps[seen], middle, linewidth=1.8, marker=marker, label=f"{name} ({scores.shape[0]} seeds)"
        )
        if marker:
            axes.vlines(steps[seen], low, high, color=line.get_color())
        axes.fill_between(steps[seen], low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axes.set(title=title, xlabel="steps", ylabel=f"{ylabel}, IQM and 95 % interval")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.has_data():
        below = {"loc": "upper left", "bbox_to_anchor": (0.0, -0.15)} if len(curves) > 4 else {}
        axes.legend(frameon=False, fontsize=8, **below)
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
