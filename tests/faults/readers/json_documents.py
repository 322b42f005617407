"""JSON that is nearly what is expected."""

import copy
import json


def changed_documents(seeds: list[bytes]):
    """A hypothesis strategy: the seeds, JSON all, with one to three values replaced or dropped."""
    from hypothesis import strategies as st

    documents = [json.loads(seed) for seed in seeds]
    leaves = st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.sampled_from([0, -1, 2**31, 2**63, 10**30, 10**400, 1e308, float("inf"), float("nan"), -0.5]),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["", "float32", "../x", "/etc/passwd", "x" * 5000, "\ud800", "\0", "²", "1e999"]),
    )
    values = st.recursive(
        leaves,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=6,
    )
    places = st.lists(st.tuples(st.integers(0, 10**6), values, st.booleans()), min_size=1, max_size=3)

    def changed(document, changes) -> bytes:
        document = copy.deepcopy(document)
        for number, value, drop in changes:
            document = _replaced(document, number, value, drop)
        return json.dumps(document).encode("utf-8", "surrogatepass")

    return st.builds(changed, st.sampled_from(documents), places)


def _replaced(document, number: int, value, drop: bool):
    """`document` with the value at its `number`-th place, counted round and round, replaced or dropped."""
    places = list(_places(document))
    if not places:
        return value
    container, key = places[number % len(places)]
    if container is None:
        return value
    if drop:
        del container[key]
    else:
        container[key] = value
    return document


def _places(document):
    yield None, None
    stack = [document]
    while stack:
        container = stack.pop()
        if not isinstance(container, list | dict):
            continue
        for key in list(range(len(container)) if isinstance(container, list) else container):
            yield container, key
            stack.append(container[key])
