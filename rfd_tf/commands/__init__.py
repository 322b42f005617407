"""The commands of `rfd`, each also `python -m rfd_tf.commands.NAME`."""
