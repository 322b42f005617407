"""Coverage-guided fuzzing by Atheris: `python -m tests.faults.fuzz_coverage READER COUNT FOLDER`.

For readers written in Python, whose branches Atheris sees: it keeps inputs that reach new ones, and breaks
those further. The first finding ends it, with the input beside the corpus in FOLDER.
"""

import os
import sys
from pathlib import Path

LONGEST = 4096  # bytes of an input


def main(name: str, count: str, folder: str) -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
    import atheris

    with atheris.instrument_imports(include=["rfd_tf", "zoo"]):
        from tests.faults.readers import READERS

        reader = READERS[name]
        corpus = Path(folder, name)
        corpus.mkdir(parents=True)
        work = Path(folder, f"{name}.work")
        work.mkdir()
        path = work / f"input{reader.ending}"
        seeds = reader.seeds(work)
        path.write_bytes(seeds[0])
        reader.read(path)  # what is imported late is instrumented, too

    from tests.faults.guard import Guard

    for number, content in enumerate(seeds):
        if len(content) <= LONGEST:
            (corpus / f"seed{number}").write_bytes(content)
    guard = Guard(work, reader.seconds, 4 << 30)

    def one(content: bytes) -> None:
        path.write_bytes(content)
        try:
            with guard.armed():
                reader.read(path)
        except reader.expected:
            pass

    options = [f"-runs={count}", f"-max_len={LONGEST}", "-rss_limit_mb=4096", "-seed=1"]
    atheris.Setup([sys.argv[0], str(corpus), *options, f"-artifact_prefix={folder}/"], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(*sys.argv[1:])
