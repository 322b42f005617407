import sys

from rfd_tf.cli import main

sys.exit(main())
