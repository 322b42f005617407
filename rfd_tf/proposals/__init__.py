"""Region proposals: selective search, and files of others. Boxes are x1, y1, x2, y2 in pixels counted from 0,
both corners inclusive. Nothing here imports TensorFlow or Keras.
"""

from rfd_tf.proposals.mat_files import read_mat
from rfd_tf.proposals.propose import ProposalsStopped, load_proposals, propose
from rfd_tf.proposals.selective_search import ProposalError, SelectiveSearch

__all__ = ["ProposalError", "ProposalsStopped", "SelectiveSearch", "load_proposals", "propose", "read_mat"]
