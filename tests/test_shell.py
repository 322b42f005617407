import random
import subprocess

import pytest

from rfd_tf.terminal import shell_join


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["train", "--config=digits_lt"], "train --config=digits_lt"),
        (["--config.features=('conv1','conv2')"], "\"--config.features=('conv1','conv2')\""),
        (["--workdir=my runs"], "'--workdir=my runs'"),
        ([""], "''"),
    ],
)
def test_is_what_one_would_type(arguments, expected):
    assert shell_join(arguments) == expected


def test_means_the_same_to_a_shell():
    letters = random.Random(0)
    arguments = ["".join(letters.choices("a b'\"$`\\!*()\n=~#;&", k=8)) for _ in range(200)]
    script = f"printf '%s\\0' {shell_join(arguments)}"
    printed = subprocess.run(["bash", "-c", script], capture_output=True, check=True).stdout
    assert printed.split(b"\0")[:-1] == [argument.encode() for argument in arguments]
