"""Nearest neighbours of sample pictures in feature space."""

import numpy as np

from rfd_tf.imbalance import shot_groups
from rfd_tf.metrics import nearest_neighbours
from rfd_tf.report.contents import Card, Neighbour, NeighbourRow, NeighbourSection
from rfd_tf.report.sample import SEED, Sample

NEIGHBOURS = 8
PER_GROUP, WITHOUT_GROUPS = 4, 8


def neighbour_section(
    queries: Sample, searched: Sample, class_counts: np.ndarray | None = None
) -> NeighbourSection:
    """Neighbours by cosine similarity of some queries.

    Args:
        queries: where queries are taken from, by chance: of each shot group some of different classes, or
            some of all without labels.
        searched: where neighbours are looked for; may be `queries`, whose own picture is then left out.
        class_counts: training pictures of each class, for the shot groups; None without labels.

    Raises:
        ValueError: where there is nothing to be found.
    """
    chosen = _chosen_queries(queries, class_counts)
    rows = [row for row, _ in chosen]
    alone = queries is searched
    wanted = queries.features[rows]
    # A picture's nearest neighbour among its own sample is itself, or another that is equal to it.
    cosines, found = nearest_neighbours(searched.features, wanted, NEIGHBOURS + alone)
    result = []
    for (row, group), near, similar in zip(chosen, found, cosines, strict=True):
        others = [(int(n), float(c)) for n, c in zip(near, similar, strict=True) if not (alone and n == row)]
        query = _card(queries, row)
        neighbours = [_neighbour(searched, query, n, c) for n, c in others[:NEIGHBOURS]]
        result.append(NeighbourRow(query, group, neighbours))
    if not any(row.neighbours for row in result):
        raise ValueError("there is one picture only, and it has no neighbour")
    return NeighbourSection(result, queries.source, searched.source, len(searched))


def _chosen_queries(queries: Sample, class_counts: np.ndarray | None) -> list[tuple[int, str | None]]:
    """(row, shot group) of each query."""
    order = np.random.default_rng(SEED).permutation(len(queries))
    if queries.labels is None or class_counts is None:
        return [(int(row), None) for row in order[:WITHOUT_GROUPS]]
    groups = {name: classes for name, classes in shot_groups(class_counts).items() if len(classes)}
    each = PER_GROUP if len(groups) > 1 else WITHOUT_GROUPS
    chosen = []
    for name, classes in groups.items():
        of_group = order[np.isin(queries.labels[order], classes)]
        # Pictures of classes that have not had their turn come first.
        _, firsts = np.unique(queries.labels[of_group], return_index=True)
        turns = [*np.sort(firsts).tolist(), *np.setdiff1d(np.arange(len(of_group)), firsts).tolist()]
        chosen += [(int(of_group[turn]), name) for turn in turns[:each]]
    return chosen


def _card(sample: Sample, row: int) -> Card:
    return Card(sample.thumbnails[row], sample.names[row], sample.label_name(row))


def _neighbour(searched: Sample, query: Card, row: int, similarity: float) -> Neighbour:
    card = _card(searched, row)
    labelled = query.label is not None and card.label is not None
    return Neighbour(card, similarity, query.label == card.label if labelled else None)
