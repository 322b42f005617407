"""A batch of encoded pictures to a batch of network inputs, in one graph."""

import tensorflow as tf

from rfd_tf.data.picture_checks import DAMAGED, picture_problem
from rfd_tf.data.preprocessing import Preprocessing

# What a server's client finds in the error, once for each bad picture, separated by "; ".
BAD_PICTURE = "picture {position}: {reason}"
_PARALLEL_PICTURES = 8


def eval_images(encoded: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """`preprocessing.eval_image` of every picture of a batch, float32 [B, S, S, 3]. Runs in graphs.

    Args:
        encoded: string [B], files' bytes.
        preprocessing: of the network.

    Raises:
        tf.errors.InvalidArgumentError: on an empty batch, and on pictures that are refused (see
            `picture_problem`) or cannot be decoded. All of them are listed: `picture 3: an empty
            file; picture 5: damaged or cut short`, with positions in the batch from 0.
    """
    count = tf.size(encoded)
    with tf.control_dependencies([tf.debugging.Assert(count > 0, ["the batch of pictures is empty"])]):
        positions = tf.range(tf.identity(count))

    def prepare(position, file):
        problem = picture_problem(file)
        nothing = tf.zeros([preprocessing.image_size, preprocessing.image_size, 3])
        image = tf.cond(problem == "", lambda: preprocessing.eval_image(file), lambda: nothing)
        return position, problem, image

    # Not tf.map_fn: an error in it does not say which picture it is about.
    pictures = tf.data.Dataset.from_tensor_slices((positions, encoded))
    pictures = pictures.map(prepare, num_parallel_calls=_PARALLEL_PICTURES, deterministic=True)
    nobody = tf.data.Dataset.from_tensors((-1, "", tf.zeros([preprocessing.image_size] * 2 + [3])))
    batch = nobody.concatenate(pictures.ignore_errors()).batch(tf.cast(count, tf.int64) + 1)
    found, problems, images = (part[1:] for part in batch.get_single_element())
    problems = tf.tensor_scatter_nd_update(tf.fill([count], DAMAGED), found[:, tf.newaxis], problems)
    with tf.control_dependencies([_assert_no_problem(problems)]):
        return tf.identity(images)


def _assert_no_problem(problems: tf.Tensor) -> tf.Operation:
    bad = tf.where(problems != "")[:, 0]
    before, between = BAD_PICTURE.format(position="|", reason="|").split("|")[:2]
    listed = tf.strings.join([before, tf.strings.as_string(bad), between, tf.gather(problems, bad)])
    return tf.debugging.Assert(tf.size(bad) == 0, [tf.strings.reduce_join(listed, separator="; ")])
