"""Features in two dimensions: principal components or t-SNE, and a picture coloured by what is known of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nnssl.errors import NnsslError
from nnssl.evaluate.labels import Kind
from nnssl.files import atomic_path

Projection = Literal["pca", "tsne"]
PERPLEXITY = 30.0
"""scikit-learn's and van der Maaten's default; less where there are few rows."""
FEWEST = 5
"""Fewer rows than these make no picture."""
MANY = 500
"""More points than these are drawn smaller."""
BEFORE_TSNE = 50
"""Principal components that t-SNE starts from (van der Maaten and Hinton 2008, section 4.2, took 30)."""


@dataclass(frozen=True)
class Places:
    """Rows in two dimensions.

    Attributes:
        points: (rows, 2).
        axes: what the two axes are.
        note: how they were made.
        units: whether numbers on the axes say something; those of t-SNE do not.
    """

    points: np.ndarray
    axes: tuple[str, str]
    note: str
    units: bool


def project(features: np.ndarray, how: Projection, seed: int = 0) -> Places:
    """Standardised features in two dimensions.

    Args:
        features: (rows, features).
        how: principal components, or t-SNE (van der Maaten and Hinton 2008) from the first 50 of them.
        seed: of t-SNE.

    Raises:
        NnsslError: too few rows.
    """
    from sklearn.decomposition import PCA
    from sklearn.preprocessing import StandardScaler

    rows = len(features)
    if rows < FEWEST:
        raise NnsslError(f"{rows} rows make no picture: at least {FEWEST} are needed")
    x = StandardScaler().fit_transform(features.astype(np.float64))
    pca = PCA(min(BEFORE_TSNE, *x.shape), random_state=seed).fit(x)
    components = pca.transform(x)
    if components.shape[1] == 1:
        components = np.pad(components, ((0, 0), (0, 1)))
    if how == "pca":
        shares = [*pca.explained_variance_ratio_, 0.0][:2]
        first, second = (f"{n} component ({100 * s:.0f} %)" for n, s in zip(("first", "second"), shares))
        return Places(components[:, :2], (first, second), "PCA", True)
    from sklearn.manifold import TSNE

    perplexity = min(PERPLEXITY, (rows - 1) / 3)
    points = TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
    return Places(points, ("", ""), f"t-SNE, perplexity {perplexity:.0f}", False)


def draw(places: Places, values: Sequence[Any] | np.ndarray, kind: Kind, name: str, title: str, path: Path) -> None:
    """A scatter plot, written as PNG.

    Args:
        places: of the rows.
        values: of each row: texts for classes, numbers for a quantity.
        kind: of the values.
        name: of the values.
        title: of the picture.
        path: to write.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    points, known = places.points, np.asarray(values)
    size = 18 if len(points) <= MANY else 6
    figure, axis = plt.subplots(figsize=(5.2, 4), layout="constrained")
    if kind == "regression":
        dots = axis.scatter(points[:, 0], points[:, 1], c=known, s=size, cmap="viridis")
        figure.colorbar(dots, label=name)
    else:
        for value in np.unique(known):
            of_value = points[known == value]
            axis.scatter(of_value[:, 0], of_value[:, 1], s=size, label=str(value))
        if len(np.unique(known)) > 1:
            axis.legend(title=name, fontsize=8)
    if not places.units:
        axis.set(xticks=[], yticks=[])
    axis.set(xlabel=places.axes[0], ylabel=places.axes[1])
    axis.set_title(f"{title} ({places.note})", fontsize=9)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)
    plt.close(figure)
