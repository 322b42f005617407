"""Features in the plane."""

import numpy as np

from rfd_tf.report.contents import MapSection
from rfd_tf.report.sample import SEED, Sample

MAX_POINTS = 1500
_DIMENSIONS = 50
_PERPLEXITY = 30.0
_FEWEST = 5


def feature_map(sample: Sample) -> MapSection:
    """A t-SNE map of up to 1,500 pictures of a sample.

    Features are scaled to unit length, so that distances order pictures as cosines do, and reduced to 50
    dimensions by PCA before.

    Raises:
        ValueError: if the pictures are too few, or their features all alike.

    Reference: van der Maaten and Hinton, "Visualizing Data using t-SNE", JMLR 2008; the PCA start: Kobak and
        Berens, "The art of using t-SNE for single-cell transcriptomics", Nature Communications 2019.
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    rows = np.sort(np.random.default_rng(SEED).permutation(len(sample))[:MAX_POINTS])
    if len(rows) < _FEWEST:
        raise ValueError(f"a map needs at least {_FEWEST} pictures; there are {len(rows)}")
    features = sample.features[rows].astype("float64")
    features /= np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    if features.std(axis=0).max() < 1e-6:
        raise ValueError("the features of all pictures are alike: the training collapsed")
    reduced = min(_DIMENSIONS, *features.shape)
    features = PCA(reduced, svd_solver="full", random_state=SEED).fit_transform(features)
    perplexity = min(_PERPLEXITY, (len(rows) - 1) / 3)
    # Its threads wait busily for each other: several take many times as long where cores are shared.
    with threadpool_limits(1):
        points = TSNE(perplexity=perplexity, init="pca", random_state=SEED).fit_transform(features)
    method = (
        f"scikit-learn's t-SNE (perplexity {perplexity:g}, PCA start, seed {SEED}) of features of unit "
        f"length, reduced to {reduced} dimensions by PCA"
    )
    low, high = points.min(axis=0), points.max(axis=0)
    return MapSection(
        points=(points - low) / np.maximum(high - low, 1e-12),
        labels=None if sample.labels is None else sample.labels[rows],
        class_names=sample.class_names,
        thumbnails=sample.thumbnails[rows],
        source=sample.source,
        method=method,
    )
