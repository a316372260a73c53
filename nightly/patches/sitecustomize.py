"""Python imports this module when it starts, where its folder is on the path: it patches the process before anything
else runs. PATCH: the module that does it."""

import importlib
import os

importlib.import_module(os.environ["PATCH"])
